"""The version, read by the build and by `dude env` without importing torch."""

__version__ = "0.1.0"
