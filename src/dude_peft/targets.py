"""What a config names must exist in the model: every target, pattern and module to save."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from peft.tuners.lora import LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer, _maybe_include_all_linear_layers, check_target_module_exists
from peft.utils.other import ModulesToSaveWrapper, get_pattern_key
from torch import nn

from .base_weight import stacks_of, weight_shape
from .errors import DudeError, nearest, quote, some
from .expressions import ALL_LINEAR, check_expression, layer_pattern
from .suitable import check_unsharded, left_out_notes, unsuitable

CONTAINERS = (nn.ModuleDict, nn.ModuleList, nn.ParameterDict, nn.ParameterList)


class Target(NamedTuple):
    """One weight that an adapter will sit on: a module's, or a stack of those of a mixture's experts.

    Attributes:
        name: of the module; of a stack the name of the experts and its own, `model.layers.0.mlp.experts.gate`.
        shape: (d, k) of the weight, or of each expert's.
        r: the rank.
        scaling: s.
        experts: E of a stack, 0 for a module.
    """

    name: str
    shape: tuple[int, int]
    r: int
    scaling: float
    experts: int = 0

    @property
    def weights(self) -> int:
        """The number of weights: E of a stack, 1 of a module."""
        return self.experts or 1

    @property
    def layer(self) -> str:
        """The name of the module that the adapter is in."""
        return self.name.rpartition(".")[0] if self.experts else self.name

    @property
    def stack(self) -> str:
        """The name of the stack, or an empty string."""
        return self.name.rpartition(".")[2] if self.experts else ""


class Targets(NamedTuple):
    """The weights that an adapter will sit on, and notes on what `all-linear` leaves out."""

    modules: list[Target]
    notes: list[str]


def check_names(
    names: Sequence[str],
    target_modules: Iterable[str] | str,
    modules_to_save: Iterable[str] = (),
    patterns: Mapping[str, Iterable[str]] | None = None,
    parameters: Sequence[str] = (),
) -> None:
    """Check that every entry matches a module; PEFT accepts a list of which only one does.

    Args:
        names: of the model's modules.
        target_modules: last parts of names or full names, a regular expression, or `all-linear`.
        modules_to_save: names of modules that are copied and trained.
        patterns: the keys of `rank_pattern` and `alpha_pattern`, by the name of the option.
        parameters: names of adapted parameters, which these may match too.

    Raises:
        DudeError: naming all that match nothing, each with the nearest names.
    """
    if isinstance(target_modules, str):
        if target_modules.lower() != ALL_LINEAR:
            _check_expression(target_modules, names)
    else:
        _all_found("target_modules", sorted(target_modules), names)
    _all_found("modules_to_save", modules_to_save, names)
    for option, keys in (patterns or {}).items():
        for key in keys:
            check_expression(option, key)
            if not any(re.match(rf"(.*\.)?({key})$", name) for name in (*names, *parameters)):
                raise DudeError(f"{option}: '{key}' matches no module{suggest(key, names)}.")


def _check_expression(expression: str, names: Sequence[str]) -> None:
    check_expression("target_modules", expression)
    pattern = re.compile(expression)
    if not any(pattern.fullmatch(name) for name in names):
        example = next((n for n in names if n.endswith("q_proj")), names[-1])
        raise DudeError(
            f"target_modules: the expression '{expression}' matches no module{suggest(expression, names)}. It must "
            f"match the whole name, for instance '{example}'; a list of last names, [q_proj], is simpler."
        )


def _all_found(option: str, wanted: Iterable[str], names: Sequence[str]) -> None:
    lost = [w for w in wanted if not any(n == w or n.endswith(f".{w}") for n in names)]
    if lost:
        lines = "; ".join(f"'{w}' matches no module{suggest(w, names)}" for w in lost)
        raise DudeError(f"{option}: {lines}.")


def suggest(wanted: str, names: Sequence[str]) -> str:
    """Return `" (nearest: q_proj, v_proj)"`, or the linear layers that the model has."""
    last = wanted.rsplit(".", 1)[-1]
    tails = list(dict.fromkeys(n.rsplit(".", 1)[-1] for n in names if not n.rsplit(".", 1)[-1].isdigit()))
    similar = nearest(last, tails)
    if similar:
        return f" (nearest: {', '.join(similar)})"
    usual = sorted(t for t in tails if t.endswith(("proj", "attn", "fc", "dense")))
    return f" (the model has {', '.join(usual or tails[:8])})"


def check_layers(config: Any, names: Sequence[str]) -> None:
    """Refuse an index of `layers_to_transform` that no layer of the model has, which PEFT ignores.

    A layer that has no target may be named: in hybrid models the layers differ.

    Raises:
        DudeError: names the index and the layers that there are.
    """
    wanted = config.layers_to_transform
    if wanted is None:
        return
    one_layer = copy.copy(config)
    layers: dict[str, set[int]] = {}  # name of the list of layers -> indices
    for name in names:
        one_layer.layers_to_transform = None
        if not check_target_module_exists(one_layer, name):
            continue
        for number in re.finditer(r"(?<=\.)\d+(?=\.)", name):
            one_layer.layers_to_transform = int(number.group())
            if check_target_module_exists(one_layer, name):  # where PEFT finds the index
                layers.setdefault(name[: number.start() - 1], set())
                break
    for name in names:
        for parent, found in layers.items():
            if name.startswith(f"{parent}.") and (index := name[len(parent) + 1 :].partition(".")[0]).isdigit():
                found.add(int(index))
    known = set().union(*layers.values())
    lost = [index for index in ([wanted] if isinstance(wanted, int) else wanted) if index not in known]
    if known and lost:
        there = ", ".join(f"'{parent}' has {min(found)} to {max(found)}" for parent, found in layers.items())
        raise DudeError(f"layers_to_transform: the model has no layer {lost[0]} ({there}): leave it out.")


def rank_and_scaling(config: Any, name: str) -> tuple[int, float, float]:
    """Return r, alpha and s = alpha / r (with `use_rslora` alpha / sqrt(r)) that `config` gives the module `name`."""
    r = config.rank_pattern.get(get_pattern_key(config.rank_pattern.keys(), name), config.r)
    alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern.keys(), name), config.lora_alpha)
    return r, alpha, alpha / r**0.5 if config.use_rslora else alpha / r


def check_rank(name: str, shape: tuple[int, ...], r: int) -> None:
    """Refuse a rank above min(d, k) of the module `name` with weight `shape` (d, k)."""
    if r > min(shape):
        last = name.rsplit(".", 1)[-1]
        raise DudeError(
            f"rank {r} is above {min(shape)}, the maximum for module '{name}' of shape {tuple(shape)}. "
            f"Lower r, or set another for this module: rank_pattern: {{{last}: {min(shape)}}}."
        )


def plan(model: nn.Module, config: Any) -> list[Target]:
    """Return the modules of `find_targets`."""
    return find_targets(model, config).modules


def find_targets(model: nn.Module, config: Any) -> Targets:
    """Return the modules that `config` (a `DudeConfig` or `LoraConfig`) targets in `model`, checked, unchanged.

    Reads names and shapes alone, so a model on the meta device will do. A linear layer that cannot take an adapter
    (see `suitable`) is left out of `all-linear` with a note, and refused where it is named.

    Raises:
        DudeError: a target that is not found (with the nearest names), not a linear layer, one that cannot take an
            adapter, or too small for r; a model that is sharded already.
    """
    check_unsharded(model)
    config = copy.copy(config)  # the caller's stays as it is
    if config.target_modules is None:
        known = LoraModel.target_module_mapping.get(LoraModel.get_model_config(model).get("model_type"))
        if known is None:
            raise DudeError("target_modules is not set and PEFT knows no default for this architecture: name them")
        config.target_modules = known if isinstance(known, str) else set(known)
    wanted = config.target_modules
    config = _maybe_include_all_linear_layers(config, model)
    layers = {name: module for name, module in model.named_modules() if name}
    inside = tuple(f"{name}." for name, module in layers.items() if isinstance(module, BaseTunerLayer))
    names = [name for name in layers if not (inside and name.startswith(inside))]
    patterns = {"rank_pattern": config.rank_pattern or (), "alpha_pattern": config.alpha_pattern or ()}
    stacks = find_experts(model, config)
    own_saved = getattr(config, "own_modules_to_save", config.modules_to_save) or ()
    check_names(names, wanted, own_saved, patterns, [parameter for parameter, *_ in stacks])
    saved = saved_modules(model, config)
    check_layers(config, names)
    matched = [name for name in names if check_target_module_exists(config, name)]
    if not matched and not stacks:
        names_of_limits = ("layers_to_transform", "layers_pattern", "exclude_modules", "modules_to_save")
        limits = {key: getattr(config, key) for key in names_of_limits}
        limits_shown = ", ".join(f"{key}={quote(value)}" for key, value in limits.items() if value is not None)
        raise DudeError(f"target_modules {quote(wanted)} with {limits_shown} matches no module of the model.")
    for name in matched:
        if name in saved:
            raise DudeError(f"modules_to_save: '{name}' is named by target_modules too: leave it out of one of them")
    reasons, notes = unsuitable(model), []
    if isinstance(wanted, str) and wanted.lower() == ALL_LINEAR:
        left_out = {name: reasons[name] for name in matched if name in reasons}
        notes = left_out_notes(model, left_out, [parameter for parameter, *_ in stacks])
        if not (matched := [name for name in matched if name not in reasons]) and not stacks:
            raise DudeError(f"target_modules 'all-linear' finds nothing to adapt: {'; '.join(notes)}")
    targets = []
    for name in matched:
        if name in reasons:
            raise DudeError(f"module '{name}' cannot be adapted: {reasons[name]}. Leave it out of target_modules")
        module = layers[name]
        base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        d, k = weight_shape(base, name)
        r, _, scaling = rank_and_scaling(config, name)
        check_rank(name, (d, k), r)
        targets.append(Target(name, (d, k), r, scaling))
    for parameter, name, shape, experts in stacks:
        r, _, scaling = rank_and_scaling(config, parameter)
        check_rank(parameter, shape, r)
        targets.append(Target(name, shape, r, scaling, experts))
    return Targets(targets, notes)


def find_experts(model: nn.Module, config: Any) -> list[tuple[str, str, tuple[int, int], int]]:
    """Return the stacks that `target_parameters` names: parameter, name of the stack, (d, k) and number of experts.

    Names are compared as PEFT does: whole, or from a dot on. For a `LoraConfig`, of which PEFT trains one pair of
    factors a parameter, a parameter is one stack.

    Raises:
        DudeError: a name that matches no parameter of three dimensions, or experts of a form that is not supported.
    """
    wanted = sorted(set(getattr(config, "target_parameters", None) or ()))
    found, known = [], []
    for layer, module in model.named_modules() if wanted else ():
        if any(part.startswith("lora_") for part in layer.split(".")):
            continue
        name = layer.replace(".base_layer", "")
        for key, parameter in module._parameters.items():
            if parameter is None or parameter.ndim != 3:
                continue
            full = f"{name}.{key}"
            known.append(full)
            if not any(full == one or full.endswith(f".{one}") for one in wanted):
                continue
            stacks = [stack for stack in stacks_of(module, name).values() if stack.parameter == key]
            if not stacks:
                raise DudeError(f"target_parameters: '{full}' is not a weight of the experts: leave it out")
            if not getattr(config, "use_dude", False):
                whole = stacks[0]._replace(part=None)
                found.append((full, full, whole.shape(parameter), len(parameter)))
                continue
            found += [(full, f"{name}.{stack.name}", stack.shape(parameter), len(parameter)) for stack in stacks]
    lost = [one for one in wanted if not any(full == one or full.endswith(f".{one}") for full in known)]
    if lost:
        names = list(dict.fromkeys(layer_pattern(full) for full in known))
        there = f" (the model has {some(names)})" if names else " (the model has none)"
        raise DudeError(f"target_parameters: '{lost[0]}' matches no parameter of three dimensions{there}.")
    return found


def saved_modules(model: nn.Module, config: Any) -> dict[str, nn.Module]:
    """Return the modules that PEFT copies and trains for `modules_to_save` of `config`, by name.

    Of a module that another adapter's copies wrap already, the original.

    Raises:
        DudeError: one that PEFT cannot copy (a container or an adapted layer).
    """
    wanted = tuple(config.modules_to_save or ())
    inside: tuple[str, ...] = ()
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if inside and name.startswith(inside):
            continue
        if isinstance(module, BaseTunerLayer | ModulesToSaveWrapper):
            inside += (f"{name}.",)
        if not (wanted and name.endswith(wanted)):
            continue
        if isinstance(module, ModulesToSaveWrapper):
            module = module.original_module
        if isinstance(module, (BaseTunerLayer, *CONTAINERS)):
            kind = "an adapted layer" if isinstance(module, BaseTunerLayer) else f"a {type(module).__name__}"
            raise DudeError(f"modules_to_save: '{name}' is {kind}, which has no copy to train: name modules inside it")
        found[name] = module
    return found
