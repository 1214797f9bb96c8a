"""The entry point: runs the command line, and says what to install where a library is missing."""

from __future__ import annotations

import sys

from . import USER_ERROR

EXTRA = "pip install 'dude-peft[cli]'"
OPTIONAL = frozenset(
    {
        "accelerate",
        "click",
        "datasets",
        "filelock",
        "jinja2",
        "lm_eval",
        "matplotlib",
        "psutil",
        "pyarrow",
        "pydantic",
        "rich",
        "scipy",
        "trl",
        "typer",
        "yaml",
    }
)


def main() -> None:
    """Run `dude` on the arguments of the process."""
    try:
        from .commands import app

        app()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in OPTIONAL:
            raise
        print(f"error: {error.name} is not installed, and the command needs it: {EXTRA}", file=sys.stderr)
        sys.exit(USER_ERROR)


if __name__ == "__main__":
    main()
