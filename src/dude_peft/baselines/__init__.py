"""Rivals of the comparison that no library computes as we need them, as PEFT methods.

Importing this package makes them known to PEFT: `get_peft_model`, `save_pretrained`, `PeftModel.from_pretrained`,
`merge_and_unload`, the trainer's checkpoints and `disable_adapter` then work on them as on PEFT's own. What they start
from (singular vectors) is saved with them, so nothing is computed again when they are loaded.
"""

from .bitfit import BitfitConfig
from .bottleneck import BottleneckConfig
from .lora_xs import LoraXsConfig
from .svft import SvftConfig

__all__ = ["BitfitConfig", "BottleneckConfig", "LoraXsConfig", "SvftConfig"]
