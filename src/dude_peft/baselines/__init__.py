"""Baselines of the comparison that PEFT does not have, as PEFT methods.

Importing this package makes them known to PEFT: `get_peft_model`, `save_pretrained`, `PeftModel.from_pretrained`,
`merge_and_unload`, the trainer's checkpoints and `disable_adapter` then work on them as on PEFT's methods. Their
initial values (singular vectors) are saved with them, so loading computes nothing.
"""

from .bitfit import BitfitConfig
from .bottleneck import BottleneckConfig
from .lora_xs import LoraXsConfig
from .shifted_lora import ShiftedLoraConfig
from .svft import SvftConfig

__all__ = ["BitfitConfig", "BottleneckConfig", "LoraXsConfig", "ShiftedLoraConfig", "SvftConfig"]
