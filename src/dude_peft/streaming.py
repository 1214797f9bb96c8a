"""Checkpoints larger than memory: decompose every target, or merge an adapter, reading one tensor at a time.

Files are read by offset, not mapped, so that the address space is bounded too. A tensor of the output, or a file of a
merged model, gets its name once it is whole: after an interruption the same call does what is missing.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from .base_weight import check_finite
from .checkpoint import A0, B0, PEFT_PREFIX, WEIGHTS_NAME, A, B, M, check_same_base, checked_parts, read_weights
from .config import DudeConfig, find_adapter_file
from .errors import DudeError, shorten
from .files import part_of, sync, weight_files
from .functional import factors, gain_of_norm, init_product, merged_weight, updated_weight
from .svd import find_triplets, module_seed, store_triplets, top_singular_triplets
from .targets import Target, plan, saved_modules

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
LONGEST_HEADER = 100_000_000  # bytes, the limit of safetensors
COPY = 1 << 24  # bytes copied at a time
ROWS, ENTRIES = 256, 256 * 8192  # of a weight read at a time, at most
Progress = Callable[[int, int, str], None]
"""Called with the bytes done, all bytes, and the name of the tensor."""


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file.

    Attributes:
        path: of the file.
        dtype: as safetensors names it.
        shape: of the tensor.
        begin, end: of its bytes in the file.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    def read(self, rows: slice | None = None) -> Tensor:
        """Return the tensor, or the given rows of it, from the file.

        Raises:
            DudeError: it is not of a floating type, or the file is shorter than its header says.
        """
        if self.dtype not in DTYPES:
            raise DudeError(f"{self.path}: a target is of type {self.dtype}, not {', '.join(DTYPES)}")
        first, stop, _ = (rows or slice(None)).indices(self.shape[0])
        line = (self.end - self.begin) // max(1, self.shape[0])
        data = bytearray(line * (stop - first))
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.begin + first * line)
            view, done = memoryview(data), 0
            while done < len(data):
                got = file.readinto(view[done:])
                if not got:
                    raise DudeError(f"{self.path}: the file ends too early: fetch the model again")
                done += got
        return torch.frombuffer(data, dtype=DTYPES[self.dtype]).view(stop - first, *self.shape[1:])


def read_header(path: Path) -> dict[str, Stored]:
    """Return the tensors of a safetensors file by name, in the order of their bytes.

    Raises:
        DudeError: the header is damaged, or does not fit the file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(LONGEST_HEADER, size - 8):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            raw = json.loads(file.read(length))
        start = 8 + length
        found = {}
        for name, about in raw.items():
            if name == "__metadata__":
                continue
            shape, (begin, end) = tuple(about["shape"]), about["data_offsets"]
            if not (0 <= begin <= end <= size - start) or any(type(n) is not int or n < 0 for n in shape):
                raise ValueError(f"tensor '{shorten(name)}' lies outside of the file")
            if about["dtype"] in DTYPES and end - begin != math.prod(shape) * DTYPES[about["dtype"]].itemsize:
                raise ValueError(f"tensor '{shorten(name)}' has {end - begin} bytes, its shape {shape} wants others")
            found[name] = Stored(path, about["dtype"], shape, start + begin, start + end)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DudeError(f"{path}: not a readable safetensors file ({shorten(error)}): fetch the model again") from None
    return dict(sorted(found.items(), key=lambda item: item[1].begin))


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a transformers checkpoint, as `files.weight_files`.

    Raises:
        DudeError: there is none, or its index is damaged.
    """
    if found := weight_files(folder):
        return found
    raise DudeError(f"{folder}: no safetensors of a model here. Give the folder of a transformers model")


def meta_model(folder: Path) -> nn.Module:
    """Return the causal language model of a checkpoint's config.json without values.

    Raises:
        DudeError: the config cannot be read.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            return cast(nn.Module, AutoModelForCausalLM.from_config(config))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DudeError(f"{folder}: no model can be made of its config.json ({shorten(error, 300)})") from None


def weights_of(model: nn.Module, targets: list[Target], tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Return the stored weight of every target by module name.

    Raises:
        DudeError: one that the checkpoint does not have under the module's name, or of another shape.
    """
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    found = {}
    for target in targets:
        if target.experts:
            raise DudeError(
                f"'{target.layer}': experts are not decomposed or merged by tensor, for checkpoints store them under "
                "other names than transformers. Load the model instead (dude merge without --stream)"
            )
        key = f"{target.name}.weight"
        stored = tensors.get(key) or tensors.get(key.removeprefix(prefix))
        if stored is None:
            raise DudeError(
                f"the checkpoint has no tensor '{key}': transformers builds that module from tensors of other names. "
                "Load the model in Python instead, or leave the module out of target_modules"
            )
        d, k = target.shape
        wanted = (k, d) if isinstance(model.get_submodule(target.name), Conv1D) else (d, k)
        if stored.shape != wanted:
            raise DudeError(f"the checkpoint's '{key}' has shape {stored.shape}, its config.json says {wanted}")
        found[target.name] = stored
    return found


def all_tensors(folder: Path) -> dict[str, Stored]:
    """Return every tensor of a checkpoint by name."""
    return {name: stored for path in checkpoint_files(folder) for name, stored in read_header(path).items()}


# --- decompose ------------------------------------------------------------------------------------------------------


def decompose_checkpoint(
    folder: str | Path,
    output: str | Path,
    config: DudeConfig,
    *,
    jobs: int | None = None,
    report: Progress | None = None,
) -> int:
    """Decompose every target of a checkpoint into `output`, for `DudeConfig(factors=output)`, one process a core.

    A process holds one weight, in its own type and in float32. Weights that are in `output` already are skipped.

    Args:
        folder: of a transformers model in safetensors.
        output: written as the cache of decompositions is.
        config: its targets, ranks, `svd` and `svd_seed` are used.
        jobs: processes; None for one a core, 1 for this one.
        report: called after each tensor.

    Returns:
        The number of weights.

    Raises:
        DudeError: a checkpoint or config that cannot be read, targets that are not there, a weight that is not finite.
    """
    folder, output = Path(folder), Path(output)
    checkpoint_files(folder)
    model = meta_model(folder)
    targets = plan(model, config)
    stored = weights_of(model, targets, all_tensors(folder))
    output.mkdir(parents=True, exist_ok=True)
    order = sorted(targets, key=lambda one: -math.prod(one.shape))  # the largest first, so that no core waits for one
    tasks = []
    for one in order:
        transposed = isinstance(model.get_submodule(one.name), Conv1D)
        seed = module_seed(one.name, config.svd_seed)
        tasks.append((stored[one.name], one.name, one.r, transposed, config.svd, seed, output))
    done, total = 0, sum(one.end - one.begin for one in stored.values())
    for name in _run(tasks, min(jobs or os.cpu_count() or 1, len(order))):
        done += stored[name].end - stored[name].begin
        if report is not None:
            report(done, total, name)
    return len(order)


def _run(tasks: list[Any], jobs: int) -> Iterator[str]:
    """Do the tasks of `_decompose`, and yield the name of each once it is done."""
    if jobs == 1:
        for task in tasks:
            yield _decompose(*task)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for future in as_completed([pool.submit(_decompose, *task) for task in tasks]):
                yield future.result()
        except BrokenProcessPool:
            raise DudeError(
                "a process that decomposed weights was killed, perhaps for want of memory: use fewer (jobs). What is "
                "done is in the output, and the next call does the rest"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _decompose(stored: Stored, name: str, r: int, transposed: bool, svd: Any, seed: int, output: Path) -> str:
    if stored.dtype not in DTYPES:
        raise DudeError(f"module '{name}' holds {stored.dtype} weights: DuDe decomposes {', '.join(DTYPES)}")
    weight = torch.empty(stored.shape, dtype=torch.float64 if stored.dtype == "F64" else torch.float32)
    for lines, block in _blocks(stored, rows_of(stored)):
        weight[lines] = block
    weight = weight.T if transposed else weight
    check_finite(name, weight)
    if find_triplets(output, weight, r, method=svd, seed=seed) is None:
        triplets = top_singular_triplets(weight, r, method=svd, seed=seed)
        store_triplets(output, weight, triplets, method=svd, seed=seed)
    return name


# --- merge ----------------------------------------------------------------------------------------------------------


def merge_checkpoint(
    folder: str | Path,
    adapter: str | Path,
    output: str | Path,
    *,
    rows: int | None = None,
    report: Progress | None = None,
) -> None:
    """Merge a DuDe adapter into a checkpoint, some rows of a weight at a time, in the dtype of the checkpoint.

    Files of the output that are whole are skipped; config.json is written last, so that a folder with one is complete.

    Args:
        folder: of the base model, in safetensors.
        adapter: a folder written by `save_pretrained`.
        output: a new folder, or that of an interrupted call with the same adapter.
        rows: of a weight in memory at a time; None for 256, and fewer of more than 8192 entries each.
        report: called after each tensor.

    Raises:
        DudeError: files that cannot be read, an adapter of another base, an output of something else.
    """
    folder, output = Path(folder), Path(output)
    files = checkpoint_files(folder)
    config = DudeConfig.from_pretrained(str(adapter))
    state = read_weights(find_adapter_file(str(adapter), WEIGHTS_NAME), config.weights_sha256)
    model = meta_model(folder)
    parts, _ = checked_parts(model, state, config)
    targets = {target.name: target for target in plan(model, config)}
    stored = weights_of(model, list(targets.values()), all_tensors(folder))
    keys = {(one.path, one.begin): name for name, one in stored.items()}
    replaced = {
        f"{name}.{entry}": state[f"{PEFT_PREFIX}{name}.{entry}"]
        for name, module in saved_modules(model, config).items()
        for entry in module.state_dict()
    }
    mark = {"format": "pt", "dude_adapter": config.weights_sha256 or "unknown"}
    known = {name for path in files for name in read_header(path)}
    if lost := sorted(replaced.keys() - known):
        raise DudeError(
            f"the adapter trained '{lost[0]}' (modules_to_save), which is no tensor of the checkpoint: it may be tied "
            "to another. Merge in memory instead: load_adapter and merge_and_unload"
        )
    _check_output(output, files)
    output.mkdir(parents=True, exist_ok=True)
    done, total = 0, sum(path.stat().st_size for path in files)
    for path in files:
        header = read_header(path)
        if not _is_whole(output / path.name, header, mark):
            part = part_of(output / path.name)
            try:
                with part.open("wb") as file:
                    file.write(_header(header, mark))
                    for name, one in header.items():
                        module = keys.get((one.path, one.begin))
                        if name in replaced:
                            file.write(_bytes(replaced[name].to(DTYPES[one.dtype]).contiguous()))
                        elif module is None:
                            _copy(one, file)
                        else:
                            transposed = isinstance(model.get_submodule(module), Conv1D)
                            layer = _Layer(module, parts[module], targets[module].scaling, config)
                            for block in layer.merged(one, transposed, rows or rows_of(one)):
                                file.write(_bytes(block))
                        if report is not None:
                            report(done + one.end, total, name)
                sync(part)
                os.replace(part, output / path.name)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        done += path.stat().st_size
    own = {path.name for path in files}
    others = [
        path for path in folder.iterdir() if path.is_file() and path.name not in own and path.name != "config.json"
    ]
    for path in [*others, folder / "config.json"]:
        if path.suffix in (".json", ".txt", ".model", ".jinja", ".tiktoken"):
            shutil.copyfile(path, part_of(output / path.name))
            os.replace(part_of(output / path.name), output / path.name)
    sync(output)


def _check_output(output: Path, files: list[Path]) -> None:
    names = {path.name for path in files}
    there = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
    foreign = [name for name in there if name not in names and not name.startswith(".")]
    if output.exists() and (not output.is_dir() or foreign):
        raise DudeError(f"{output}: holds {', '.join(foreign[:3]) or 'a file'} already. Give a new folder")


class _Layer:
    """The merged weight of one layer, by blocks of rows of its stored weight."""

    def __init__(self, name: str, parts: Mapping[str, Tensor], scaling: float, config: DudeConfig) -> None:
        self.name, self.scaling, self.axis = name, scaling, config.magnitude_axis
        self.variant = config.init_variant
        self.Ah, self.Bt = factors(*(parts[key] for key in (A, B, A0, B0)))
        self.A0, self.B0, self.magnitude = parts[A0], parts[B0], parts[M].float()

    def merged(self, stored: Stored, transposed: bool, rows: int) -> Iterator[Tensor]:
        """Yield the rows of the stored tensor's merged form."""
        d = stored.shape[1] if transposed else stored.shape[0]
        if transposed:  # stored as (k, d): by outputs it cannot be read in rows
            rows, blocks = d, [(slice(0, d), stored.read().T)]
        blocks_of = (lambda: iter(blocks)) if transposed else (lambda: _blocks(stored, rows))
        self._check_base(blocks_of())
        gain = self._gain(blocks_of()) if self.axis == "in" else None
        for lines, W in blocks_of():
            Bt = self.Bt[:, lines]
            h = gain if gain is not None else self._line_gain(W, Bt, self.magnitude[lines])
            made = merged_weight(W, h, self.Ah, Bt, self.scaling, self.axis)
            yield made.T.contiguous() if transposed else made

    def _line_gain(self, W: Tensor, Bt: Tensor, magnitude: Tensor) -> Tensor:
        squares = updated_weight(W, self.Ah, Bt, self.scaling).double().square().sum(dim=1)
        return gain_of_norm(magnitude, squares)

    def _gain(self, blocks: Iterator[tuple[slice, Tensor]]) -> Tensor:
        squares = torch.zeros(self.Ah.shape[1], dtype=torch.float64)
        for lines, W in blocks:
            squares += updated_weight(W, self.Ah, self.Bt[:, lines], self.scaling).double().square().sum(dim=0)
        return gain_of_norm(self.magnitude, squares)

    def _check_base(self, blocks: Iterator[tuple[slice, Tensor]]) -> None:
        """The initial factors must be this weight's: see `check_same_base`."""
        products, total = [], torch.zeros_like(self.A0)
        for lines, W in blocks:
            check_finite(self.name, W)
            product = init_product(W, self.A0, self.B0[lines], self.axis)
            if self.axis == "out":
                products.append(product)
            else:
                total += product
        P0 = torch.cat(products, dim=1) if products else total
        check_same_base((self.A0, self.B0, self.magnitude, P0), self.name, self.scaling, self.axis, self.variant)


def rows_of(stored: Stored) -> int:
    """Return how many rows of a matrix are read at a time: fewer of long ones."""
    return max(1, min(ROWS, ENTRIES // max(1, stored.shape[1])))


def _blocks(stored: Stored, rows: int) -> Iterator[tuple[slice, Tensor]]:
    for begin in range(0, stored.shape[0], rows):
        lines = slice(begin, min(begin + rows, stored.shape[0]))
        yield lines, stored.read(lines)


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data


def _copy(stored: Stored, file: Any) -> None:
    with stored.path.open("rb") as source:
        source.seek(stored.begin)
        left = stored.end - stored.begin
        while left:
            data = source.read(min(left, COPY))
            if not data:
                raise DudeError(f"{stored.path}: the file ends too early: fetch the model again")
            file.write(data)
            left -= len(data)


def _header(tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> bytes:
    raw: dict[str, Any] = {"__metadata__": dict(metadata)}
    begin = 0
    for name, one in tensors.items():
        size = one.end - one.begin
        raw[name] = {"dtype": one.dtype, "shape": list(one.shape), "data_offsets": [begin, begin + size]}
        begin += size
    text = json.dumps(raw, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _is_whole(path: Path, header: Mapping[str, Stored], mark: Mapping[str, str]) -> bool:
    wanted = _header(header, mark)
    if not path.is_file() or path.stat().st_size != len(wanted) + sum(one.end - one.begin for one in header.values()):
        return False
    with path.open("rb") as file:
        return file.read(len(wanted)) == wanted
