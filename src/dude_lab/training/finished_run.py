"""A finished run, or any model by name, loaded for use."""

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
    """Whether a path is the folder of a run, finished or not."""
    return (Path(path) / "config.yaml").is_file()


def open_run(path: str | Path) -> tuple[RunFolder, RunSettings]:
    """The folder and settings of a finished run.

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
            f"{path}: this run is not finished (no run.json). Go on with `dude train {folder.config} --resume auto`."
        )
    return folder, load_config(folder.config)


def load_run(path: str | Path, *, dtype: str = "auto", device: str = "auto") -> tuple[Base, nn.Module]:
    """Base and trained model of a finished run: a PEFT model, or the plain model of full fine-tuning.

    Args:
        path: the run's folder.
        dtype: `auto` is what the run was trained in.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        DudeError: no finished run there, its base is gone or another one, or a file of the result is damaged.
    """
    folder, settings = open_run(path)
    full = isinstance(settings.method, FullSettings)
    record = read_record(folder)
    check_files(folder, record, folder.model if full else folder.adapter)
    recorded = record["provenance"]["model"]
    trained_in = recorded["dtype"]
    wanted = settings.model.model_copy(update={"dtype": trained_in if dtype == "auto" else dtype})
    if full:
        whole = ModelSettings(name=str(folder.model), dtype=wanted.dtype, trust_remote_code=wanted.trust_remote_code)
        base = find_base(whole, device=device, full=True)
        return base, load_base(base)
    base = find_base(wanted, device=device)
    found = identity(base)
    for mark in ("sha256", "commit"):
        if recorded.get(mark) and recorded[mark] != found.get(mark):
            raise DudeError(
                f"{path}: the base model '{base.name}' is not the one that this run was trained on ({mark} "
                f"{str(found.get(mark))[:12]}, then {recorded[mark][:12]}), so its adapter means nothing there. "
                "Bring the old files back, or train again."
            )
    return base, attach_adapter(load_base(base), folder.adapter)


def attach_adapter(model: nn.Module, adapter: Path) -> nn.Module:
    """The model with a saved adapter on it, frozen: a DuDe adapter by `load_adapter`, any other by PEFT.

    Raises:
        DudeError: no adapter there, one of another base, or a file that cannot be read.
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
    # The saved name hides the path, and PEFT would look for such a repository on the hub.
    loaded.peft_config["default"].base_model_name_or_path = model.__dict__.get("name_or_path")
    # PEFT leaves out in silence what finds no place, and starts at random what the file lacks.
    if odd := sorted(stored ^ set(get_peft_model_state_dict(loaded))):
        raise DudeError(
            f"{weights}: not an adapter of this base: {len(odd)} tensors differ by name, {odd[0]} the first."
        )
    return loaded


def load_any(name: str, *, dtype: str = "auto", device: str = "auto") -> tuple[Base, nn.Module]:
    """A run's folder, a model's folder, `mini`, or a hub name.

    Raises:
        DudeError: none of these.
    """
    if is_run(name):
        return load_run(name, dtype=dtype, device=device)
    base = find_base(parse(ModelSettings, {"name": name, "dtype": dtype}, "model"), device=device)
    return base, load_base(base)
