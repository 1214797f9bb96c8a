"""DuDe (arXiv 2505.14367) as a drop-in method for Hugging Face PEFT.

from peft import get_peft_model
from dude_peft import DudeConfig

model = get_peft_model(base, DudeConfig(r=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
"""

from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import DudeError

if TYPE_CHECKING:
    from .checkpoint import load_adapter
    from .config import DudeConfig

__all__ = ["DudeConfig", "DudeError", "__version__", "load_adapter"]


def __getattr__(name: str) -> Any:
    """Import torch and PEFT, and put DuDe into PEFT's table, only when a name that needs them is asked for."""
    if name in ("DudeConfig", "load_adapter"):
        from . import checkpoint, hotswap, model

        hotswap.install()
        return model.DudeConfig if name == "DudeConfig" else checkpoint.load_adapter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
