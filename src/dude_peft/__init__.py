"""DuDe (arXiv 2505.14367) as a drop-in method for Hugging Face PEFT."""

from ._version import __version__

__all__ = ["__version__"]
