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
    from .injection import distributed_init

__all__ = ["DudeConfig", "DudeError", "__version__", "distributed_init", "load_adapter"]


def __getattr__(name: str) -> Any:
    """Import torch and PEFT, and put DuDe into PEFT's table, only when a name that needs them is asked for."""
    if name in ("DudeConfig", "distributed_init", "load_adapter"):
        from . import checkpoint, hotswap, injection, model

        hotswap.install()
        modules: dict[str, Any] = {"DudeConfig": model, "distributed_init": injection, "load_adapter": checkpoint}
        return getattr(modules[name], name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
