"""Load a finished run, or any model by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dude_peft.errors import DudeError

from ..config.run_settings import ModelSettings, RunSettings
from ..config.yaml_file import load_config
from ..methods import FullSettings
from ..settings import parse
from .base_model import Base, find_base, identity, load_base
from .nonfinite import Divergence
from .record import check_files, read_record
from .run_folder import RunFolder

if TYPE_CHECKING:
    from torch import nn


def is_run(path: str | Path) -> bool:
    """Return whether a path is the folder of a run, finished or not."""
    return (Path(path) / "config.yaml").is_file()


def open_run(path: str | Path) -> tuple[RunFolder, RunSettings]:
    """Return the folder and settings of a finished run.

    Raises:
        DudeError: no such folder, not a run, or a run that is not finished or diverged.
    """
    folder = RunFolder(path)
    if not folder.path.is_dir():
        raise DudeError(f"{path}: no such folder. Give the output folder of `dude train`.")
    if not is_run(path):
        raise DudeError(f"{path}: not a run (no config.yaml). Give the output folder of `dude train`.")
    if (divergence := Divergence.read(folder.path)) is not None:
        raise DudeError(divergence.message(folder.path))
    if not folder.record.is_file():
        raise DudeError(
            f"{path}: this run is not finished (no run.json). Resume it by `dude train {folder.config} --resume auto`."
        )
    return folder, load_config(folder.config)


def load_run(path: str | Path, *, dtype: str = "auto", device: str = "auto") -> tuple[Base, nn.Module]:
    """Load the base and the model of a finished run: a PEFT model, or after full fine-tuning a plain one.

    Args:
        path: the run's folder.
        dtype: `auto` is the dtype of training.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        DudeError: not a finished run, its base model is missing or has changed, or a file is damaged.
    """
    folder, base = run_base(path, dtype=dtype, device=device)
    if isinstance(open_run(path)[1].method, FullSettings):
        return base, load_base(base)
    return base, attach_adapter(load_base(base), folder.adapter)


def run_base(path: str | Path, *, dtype: str = "auto", device: str = "auto") -> tuple[RunFolder, Base]:
    """Return the folder of a finished run and its base, or after full fine-tuning its result; nothing is loaded.

    Args and errors are those of `load_run`.
    """
    folder, settings = open_run(path)
    full = isinstance(settings.method, FullSettings)
    record = read_record(folder)
    check_files(folder, record, folder.model if full else folder.adapter)
    recorded = record["provenance"]["model"]
    trained_in = recorded["dtype"]
    wanted = settings.model.model_copy(update={"dtype": trained_in if dtype == "auto" else dtype})
    if wanted.chat_template is not None and (own := folder.adapter / "chat_template.jinja").is_file():
        wanted = wanted.model_copy(update={"chat_template": str(own)})  # the user's file may have changed since
    if full:
        trained = ModelSettings(name=str(folder.model), dtype=wanted.dtype, trust_remote_code=wanted.trust_remote_code)
        return folder, find_base(trained, device=device, full=True)
    base = find_base(wanted, device=device)
    found = identity(base)
    for mark in ("sha256", "commit"):
        if recorded.get(mark) and recorded[mark] != found.get(mark):
            raise DudeError(
                f"{path}: the base model '{base.name}' is not the one that this run was trained on ({mark} "
                f"{str(found.get(mark))[:12]}, in training {recorded[mark][:12]}), so the adapter does not fit. "
                "Restore the old files, or train again."
            )
    return folder, base


def attach_adapter(model: nn.Module, adapter: Path) -> nn.Module:
    """Load a saved adapter on a model, frozen: a DuDe adapter by `load_adapter`, any other by PEFT.

    Raises:
        DudeError: no adapter, one of another base model, or a file that cannot be read.
    """
    if not (adapter / "adapter_config.json").is_file():
        raise DudeError(f"{adapter}: no adapter here (no adapter_config.json).")
    if (adapter / "dude_config.json").is_file():
        from dude_peft import load_adapter

        return load_adapter(model, str(adapter))
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    from dude_peft import baselines  # noqa: F401 - makes them known to PEFT

    weights = adapter / "adapter_model.safetensors"
    try:
        with safe_open(weights, "pt") as file:
            stored = set(file.keys())
        loaded = PeftModel.from_pretrained(model, str(adapter))  # type: ignore[arg-type]
    except (SafetensorError, ValueError, RuntimeError, OSError, KeyError) as error:
        first = str(error).strip().splitlines()
        raise DudeError(f"{weights}: cannot be loaded on this base: {' '.join(first[:3])}") from None
    # The saved name is not a path, and PEFT would look for a repository of this name on the hub.
    loaded.peft_config["default"].base_model_name_or_path = model.__dict__.get("name_or_path")
    # PEFT silently drops unexpected tensors and initialises missing ones at random.
    if odd := sorted(stored ^ set(get_peft_model_state_dict(loaded))):
        raise DudeError(
            f"{weights}: not an adapter of this base: {len(odd)} names of tensors differ, the first is {odd[0]}."
        )
    return loaded


def load_any(name: str, *, dtype: str = "auto", device: str = "auto") -> tuple[Base, nn.Module]:
    """Load a run or model by its folder, `mini`, or a hub name.

    Raises:
        DudeError: it is none of these.
    """
    if is_run(name):
        return load_run(name, dtype=dtype, device=device)
    base = find_base(parse(ModelSettings, {"name": name, "dtype": dtype}, "model"), device=device)
    return base, load_base(base)
