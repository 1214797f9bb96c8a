"""A GGUF file as a base model: converted once into a checkpoint that `from_pretrained` loads."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from dude_peft.errors import DudeError, shorten
from dude_peft.files import read_json, sha256, write_json

from ..folders import atomic_folder, check_folder
from ..smollm2 import CACHE_VARIABLE, NAME, gguf_file, models_folder

SOURCE = "gguf.json"  # which file a converted checkpoint is from
MAGIC = b"GGUF"


def is_gguf(name: str) -> bool:
    """Return whether `model:` names a GGUF file."""
    return name == NAME or name.lower().endswith(".gguf")


def converted(name: str, file: Path | None = None) -> Path:
    """Return the folder of the checkpoint converted from a GGUF file, in `smollm2.models_folder()`.

    The weights are stored in float32, which holds dequantised values exactly. The folder is named by the SHA-256 of the
    file, so another file of the same name is another checkpoint.

    Args:
        name: as `model:` has it, for messages.
        file: the GGUF file. That of `smollm2` if None.

    Raises:
        DudeError: the file is missing or not GGUF, its architecture is one that transformers cannot read, the package
            `gguf` is not installed, or the cache cannot be written.
    """
    file = file or gguf_file()
    if file is None:
        raise DudeError(f"model '{name}': its weights are not here yet. Download them (98 MB): dude fetch {NAME}")
    _check_file(name, file)
    digest = sha256(file)
    folder = models_folder() / f"{file.stem}-{digest[:16]}"
    if (folder / SOURCE).is_file():
        return folder
    if find_spec("gguf") is None:
        raise DudeError(f"model '{name}' needs the package gguf to be read: pip install gguf")
    check_folder(folder, CACHE_VARIABLE)
    with _one_at_a_time(folder):
        if not (folder / SOURCE).is_file():
            _convert(name, file, digest, folder)
    return folder


def source_sha256(folder: Path) -> str | None:
    """Return the SHA-256 of the GGUF file that a checkpoint was converted from; None for any other checkpoint."""
    if not (folder / SOURCE).is_file():
        return None
    found = read_json(folder / SOURCE, f"Remove {folder}: it is converted again.").get("sha256")
    return found if isinstance(found, str) else None


def _check_file(name: str, file: Path) -> None:
    try:
        with file.open("rb") as stream:
            head = stream.read(len(MAGIC))
    except OSError as error:
        raise DudeError(f"model '{name}': {file} cannot be read ({error.strerror or error}).") from None
    if head != MAGIC:
        raise DudeError(f"model '{name}': {file} is not a GGUF file: it begins with {head!r}. Download it again.")


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        yield


def _convert(name: str, file: Path, digest: str, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that cannot be turned off
            read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except Exception as error:  # an unknown architecture or a damaged file fails anywhere in transformers or gguf
        raise DudeError(
            f"model '{name}': transformers cannot read {file}: {type(error).__name__}: {shorten(error, 300)}. Use a "
            "checkpoint of safetensors."
        ) from None
    # The weights are dequantised, but transformers saves no model that it has read as a quantised one.
    if hasattr(read.config, "quantization_config"):
        del read.config.quantization_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = read.generation_config
    try:
        with atomic_folder(folder, overwrite=True) as part:
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
            write_json(part / SOURCE, {"file": file.name, "sha256": digest})
    except OSError as error:
        raise DudeError(f"{folder} cannot be written ({error}). Set {CACHE_VARIABLE} to another folder.") from None
