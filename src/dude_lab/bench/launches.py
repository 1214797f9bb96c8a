"""A GPU on paper: the kernels of one layer's forward and backward, counted on tensors without values, and their time.

The operations that reach PyTorch's dispatcher are recorded on meta tensors, with the bytes that each reads and writes
and its floating-point operations. A kernel takes as long as its launch, or as its bytes or operations if that is more:

    seconds = max(LAUNCH, bytes / (SHARE_OF_BANDWIDTH * BANDWIDTH), operations / (SHARE_OF_PEAK * PEAK[dtype]))

as for a layer whose launches nothing hides. Where the CPU runs ahead of the device, as in a deep model, the sum of the
launches or that of the work counts, whichever is more: the JSON has it in each row's note.

One operation is one kernel; views and allocations are none. Three ways are predicted:

- eager: as recorded.
- fused, for torch.compile: operations that are no products join the kernel of an operation that they depend on, or
  read a tensor with, if both run over as many elements, or over as many as the other's sum has. No product, and no
  dequantisation, may lie between them. What only the kernel itself reads is not written. Forward and backward are two
  graphs.
- Triton: what `dude_peft.kernels` replaces is one kernel that reads its arguments and writes its results.

A 4-bit layer is modelled as bitsandbytes computes it: one kernel writes the dense weight, before each product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from unittest import mock

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dude_peft import DudeConfig, base_weight, kernels

from .bench_plan import Case, Plan
from .bench_results import BASELINE, DORA, DUDE, HALF_LORA, Result, exactly
from .layer_time import Shape, changer, inputs, layers_of, passer
from .timing import compared, interleave

# NVIDIA's figures for an H100 SXM, of which large kernels reach these shares, and the cost of a launch from Python.
BANDWIDTH, SHARE_OF_BANDWIDTH = 3.35e12, 0.8
PEAK, SHARE_OF_PEAK = {torch.bfloat16: 989e12, torch.float16: 989e12, torch.float32: 67e12}, 0.7
LAUNCH = 5e-6
PACKED = 0.5 + 1 / 64 + 1 / 4096  # bytes of a weight in NF4 with scales that are quantised too

WAYS = ("eager", "fused", "Triton")
TARGETS = {"eager": 1.10, "fused": 1.0, "Triton": 1.0}
BASES = ("bf16", "NF4")
TIME = "predicted time of forward + backward on an H100, {}, over PEFT LoRA{}"
MEASURED = "measured beside the prediction, {}, over PEFT LoRA{}"
COUNT, BYTES = "kernels of forward + backward", "GB moved by forward + backward"
WITHOUT_KERNEL = {
    "alias", "as_strided", "detach", "empty", "empty_like", "empty_strided", "expand", "new_empty", "new_empty_strided",
    "permute", "select", "slice", "split", "squeeze", "t", "transpose", "unsqueeze", "view", "_unsafe_view",
}  # fmt: skip
PRODUCTS = {"mm", "addmm", "addmm_", "bmm", "baddbmm"}
REDUCTIONS = {"sum", "linalg_vector_norm", "mean", "amax"}


@dataclass
class Kernel:
    """One launch.

    Attributes:
        name: of the operation.
        reads, writes: storage -> bytes.
        operations: floating-point operations.
        dtype: of the result.
        sizes: elements that it runs over, and of its sums.
        closed: whether nothing is fused with it: a product, or a kernel of its own.
    """

    name: str
    reads: dict[int, float]
    writes: dict[int, float]
    operations: float
    dtype: torch.dtype
    sizes: set[int] = field(default_factory=set)
    closed: bool = False

    @property
    def bytes(self) -> float:
        """Return the bytes read and written."""
        return sum(self.reads.values()) + sum(self.writes.values())

    @property
    def seconds(self) -> float:
        """Return the predicted time: see the module's docstring."""
        return max(LAUNCH, self.work)

    @property
    def work(self) -> float:
        """Return the seconds that the bytes or the operations take."""
        peak = PEAK.get(self.dtype, PEAK[torch.float32])
        return max(self.bytes / (SHARE_OF_BANDWIDTH * BANDWIDTH), self.operations / (SHARE_OF_PEAK * peak))


class Recorder(TorchDispatchMode):
    """Records the kernels of the operations that are dispatched while it is active."""

    current: Recorder | None = None

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []
        self._alive: list[Any] = []  # so that no storage gets the identity of an earlier one

    def __enter__(self) -> Recorder:
        Recorder.current = self
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        Recorder.current = None
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and record it."""
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name not in WITHOUT_KERNEL:
            before = tensors_in(args)
            self.add(name, before, tensors_in(result), operations_of(name, before, result))
        return result

    def add(
        self, name: str, before: list[Tensor], after: list[Tensor], operations: float, closed: bool = False
    ) -> None:
        """Record a kernel that reads `before` and writes `after`."""
        # The storages alone: autograd copies a gradient that somebody else refers to.
        self._alive += [t.untyped_storage() for t in (*before, *after)]
        reads, writes = ({identity(t): float(size_of(t)) for t in some} for some in (before, after))
        sizes = {max((t.numel() for t in (*before, *after)), default=0)}
        if name in REDUCTIONS:
            sizes |= {t.numel() for t in after}
        if name == "cat":  # which a compiler computes within the kernels of its parts
            sizes |= {t.numel() for t in before}
        dtype = before[0].dtype if before else torch.float32
        self.kernels.append(Kernel(name, reads, writes, operations, dtype, sizes, closed or name in PRODUCTS))


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for one in value for t in tensors_in(one)] if isinstance(value, list | tuple) else []


def identity(tensor: Tensor) -> int:
    """Return what a tensor and its views share."""
    return tensor.untyped_storage()._cdata


def size_of(tensor: Tensor) -> int:
    """Return the bytes that are read of a tensor; of an expanded one each element once."""
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    return math.prod(n for n, stride in pairs if stride) * tensor.element_size()


def operations_of(name: str, before: list[Tensor], result: Any) -> float:
    """Return the floating-point operations: 2 n m k of a product, else one for each element."""
    if name in PRODUCTS:
        return 2.0 * result.numel() * before[-2 if name in ("mm", "bmm") else 1].shape[-1]
    return float(max((t.numel() for t in (*before, *tensors_in(result))), default=0))


def fused(graph: list[Kernel]) -> list[Kernel]:
    """Return the kernels of a graph after fusion: see the module's docstring."""
    groups: list[Kernel] = []
    level_of: dict[int, int] = {}  # of a kernel in `groups`: how many closed ones precede it on the longest path
    writer: dict[int, int] = {}
    members: list[list[Kernel]] = []
    for kernel in graph:
        if not kernel.reads and kernel.operations <= 1:  # a constant
            continue
        sources = [writer[one] for one in kernel.reads if one in writer]
        level = max((level_of[g] + groups[g].closed for g in sources), default=0)
        found = None
        if not kernel.closed:
            sharing = [g for g, group in enumerate(groups) if group.reads.keys() & kernel.reads.keys()]
            for g in (*sources, *sharing):
                if not groups[g].closed and level_of[g] == level and groups[g].sizes & kernel.sizes:
                    found = g
                    break
        if found is None:
            found = len(groups)
            groups.append(
                replace(kernel, reads=dict(kernel.reads), writes=dict(kernel.writes), sizes=set(kernel.sizes))
            )
            members.append([kernel])
            level_of[found] = level
        else:
            group = groups[found]
            group.sizes |= kernel.sizes
            group.operations += kernel.operations
            group.reads |= {one: n for one, n in kernel.reads.items() if writer.get(one) != found}
            group.writes |= kernel.writes
            members[found].append(kernel)
        for one in kernel.writes:
            writer[one] = found
    for g, group in enumerate(groups):  # what no other kernel reads, and is no result, is not written
        inside = {one for kernel in members[g] for one in kernel.reads}
        outside = {one for h, some in enumerate(members) if h != g for kernel in some for one in kernel.reads}
        group.writes = {one: n for one, n in group.writes.items() if one in outside or one not in inside}
    return groups


# --- the layers ------------------------------------------------------------------------------------------------------


class FourBit(nn.Linear):
    """A layer of 4 bits: its weight is dequantised before each product. The placeholder has the dense shape."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T (n, d)."""
        return _FourBitProduct.apply(x, self)


class _FourBitProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FourBit) -> Tensor:
        ctx.layer = layer
        return x @ dequantized(layer).T

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> Any:  # type: ignore[override]
        return G @ dequantized(ctx.layer), None


def dequantized(layer: Any) -> Tensor:
    """Return the dense weight; recorded as one kernel, which reads the packed weight."""
    weight = layer.weight.detach()
    if Recorder.current is None:
        return weight
    made = torch.empty_like(weight)
    recorder = Recorder.current
    recorder.add("dequantize", [weight], [made], weight.numel(), closed=True)
    recorder.kernels[-1].reads = {identity(weight): weight.numel() * PACKED}
    return made


def attempted(name: str, *arguments: Any) -> Any:
    """Record what `kernels.attempt` launches with DUDE_TRITON=1, and return its results."""
    recorder, read = Recorder.current, tensors_in(arguments)
    assert recorder is not None
    written: list[Tensor]
    result: Any
    if name == "output":
        result = arguments[0]
        written = [result]
    elif name == "sums_and_scaled":
        G, y, _, _, scaled = arguments
        partial_sums = None if y is None else torch.empty(-(-G.shape[0] // 256), G.shape[1], device=G.device)
        written = [t for t in (scaled, partial_sums) if t is not None]
        read = [t for t in read if t is not scaled]
    else:
        _, other, P, n0 = arguments[:4]
        read += [other @ other.T]
        result = torch.empty_like(P), torch.empty_like(n0), torch.empty_like(n0)
        written = list(result)
        read = [t for t in read if t is not other]
    recorder.add(name, read, written, sum(t.numel() for t in read), closed=True)
    if name == "sums_and_scaled":
        result = (None if partial_sums is None else partial_sums.sum(dim=0),)
    return result


def meta_layers(shape: Shape, base: str) -> dict[str, nn.Module]:
    """Return one layer of each method without values, in training mode."""
    small = Shape(shape.r * 6, shape.r * 5, shape.r, shape.dtype)
    r: dict[str, Any] = {"r": shape.r, "target_modules": ["0"]}
    configs = {
        BASELINE: LoraConfig(**r),
        HALF_LORA: LoraConfig(**r),
        DORA: LoraConfig(**r, use_dora=True),
        DUDE: DudeConfig(**r),
    }
    sizes = {small.d: shape.d, small.k: shape.k}
    made: dict[str, nn.Module] = {}
    for name, config in configs.items():
        linear = (FourBit if base == "NF4" else nn.Linear)(small.k, small.d, bias=False, dtype=shape.dtype)
        wide = name != HALF_LORA  # PEFT keeps adapters in float32 by default, and converts their inputs
        made[name] = get_peft_model(nn.Sequential(linear), config, autocast_adapter_dtype=wide).train()  # type: ignore[arg-type]
        for module in made[name].modules():
            for key, old in module._parameters.items():
                if old is not None:
                    new = torch.empty([sizes.get(n, n) for n in old.shape], dtype=old.dtype, device="meta")
                    module._parameters[key] = nn.Parameter(new, requires_grad=old.requires_grad)
    return made


@contextmanager
def _models() -> Iterator[None]:
    """Let 4-bit placeholders be known as quantised, and meta tensors be asked for autocast, which is off."""
    format_of = {"dude_lab.FourBit": base_weight.Quantization("a model of NF4", dequantized, ("meta",))}
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(base_weight._QUANTIZED_LAYERS, format_of))
        stack.enter_context(mock.patch.object(torch, "is_autocast_enabled", lambda *device: False))
        stack.enter_context(mock.patch("peft.tuners.lora.dora.dequantize_module_weight", _peft_weight))
        yield


def _peft_weight(layer: Any) -> Any:
    return dequantized(layer) if isinstance(layer, FourBit) else layer.weight


def record(layer: nn.Module, shape: Shape, tokens: int, way: str) -> list[Kernel]:
    """Return the kernels of a forward and backward of a layer of `meta_layers`."""
    x, G = (torch.empty(tokens, n, dtype=shape.dtype, device="meta") for n in (shape.k, shape.d))
    x.requires_grad_()
    triton = mock.patch.object(kernels, "attempt", attempted if way == "Triton" else lambda *_: None)
    with triton, Recorder() as recorder:
        y = layer(x)
        forward = len(recorder.kernels)
        y.backward(G)
    graphs = recorder.kernels[:forward], recorder.kernels[forward:]
    return [kernel for graph in graphs for kernel in (fused(graph) if way == "fused" else graph)]


def predicted(shape: Shape, tokens: int, base: str, way: str) -> dict[str, list[Kernel]]:
    """Return the kernels of each method; of PEFT's with Triton those of eager execution."""
    with _models():
        return {name: record(layer, shape, tokens, way) for name, layer in meta_layers(shape, base).items()}


# --- the rows --------------------------------------------------------------------------------------------------------


def cases(plan: Plan) -> Iterator[Case]:
    """Return the widths of a 7B model, each way on each base."""
    sides = ((4096, 4096),) if plan.quick else ((4096, 4096), (11008, 4096), (4096, 11008))
    tokens = (64,) if plan.tiny else (1024, 8192) if plan.quick else (1024, 4096, 8192)
    for base in BASES:
        for way in WAYS:
            for d, k in ((96, 80),) if plan.tiny else sides:
                shape = Shape(d, k, 4 if plan.tiny else 16, torch.bfloat16)
                for n in tokens:
                    what = f"{base} {d} x {k}, {n} tokens"
                    first = (d, k, n) == (*((96, 80) if plan.tiny else sides[0]), tokens[0])
                    yield Case("launches", what, 1, partial(measure, shape, n, base, way, what, plan, counts=first))


def measure(
    shape: Shape, tokens: int, base: str, way: str, what: str, plan: Plan, *, counts: bool = False
) -> Iterator[Result]:
    """Predict one size; on a CUDA device measure it too. `counts`: with the number of kernels and the bytes."""
    found = predicted(shape, tokens, base, way)
    seconds = {name: sum(one.seconds for one in some) for name, some in found.items()}
    ratio = {name: exactly(value / seconds[BASELINE]) for name, value in seconds.items()}
    queued = {name: max(LAUNCH * len(some), sum(one.work for one in some)) for name, some in found.items()}
    about = "; ".join(
        f"{name}: {len(some)} kernels, {sum(one.bytes for one in some) / 1e9:.3f} GB, "
        f"{sum(one.operations for one in some) / 1e12:.3f} TFLOP, {queued[name] * 1e6:.0f} us if launches run ahead"
        for name, some in found.items()
    )
    group = TIME.format(way, " fused too" if way == "fused" else "")
    others = {name: ratio[name] for name in (DORA, HALF_LORA)}
    yield Result("launches", group, what, ratio[DUDE], 1, TARGETS[way], False, others, seconds, about)
    if counts:
        figures: dict[str, Callable[[list[Kernel]], float]] = {
            COUNT: len,
            BYTES: lambda some: sum(one.bytes for one in some) / 1e9,
        }
        for title, figure in figures.items():
            value = {name: exactly(figure(some)) for name, some in found.items()}
            yield Result("launches", title, f"{what}, {way}", value.pop(DUDE), 1, others=value)
    if plan.device == "cuda" and base == "bf16" and way != "Triton":
        yield measured(shape, tokens, way, what, plan)


def measured(shape: Shape, tokens: int, way: str, what: str, plan: Plan) -> Result:
    """Measure the same size on the device."""
    made, (x, G) = layers_of(shape, plan.device), inputs(shape, tokens, plan.device)
    made = {name: made[name] for name in (BASELINE, DORA, DUDE)}
    before = {name: changer(layer) for name, layer in made.items()}
    if way == "fused":
        torch.compiler.reset()
        made = {name: torch.compile(layer) for name, layer in made.items()}  # type: ignore[misc]
    runs = {name: passer(layer, x, G) for name, layer in made.items()}
    group = MEASURED.format(way, " fused too" if way == "fused" else "")
    return compared("launches", group, what, interleave(runs, plan, before), TARGETS[way])
