"""What a method of the comparison is: the keys of its `method:` section, and what the project asks of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator

from dude_peft.errors import quote
from dude_peft.expressions import check_expression
from dude_peft.targets import ALL_LINEAR, Target

from ..config.section import Settings

if TYPE_CHECKING:
    from peft import PeftConfig


class MethodSettings(Settings):
    """What the `method:` section of every method has: its name.

    Attributes:
        name: the method; `dude methods` lists them.
    """

    name: str


class TargetSettings(MethodSettings):
    """Keys of every method that works on chosen modules; names and meanings are PEFT's.

    Attributes:
        target_modules: names of the modules to adapt, a regular expression, or `all-linear`: every linear layer but the
            output layer.
        layers_to_transform: indices of the layers to adapt; needs a list of `target_modules`. All layers if null.
        modules_to_save: modules that are trained as a whole and saved with the adapter.
    """

    target_modules: list[str] | str = "all-linear"
    layers_to_transform: list[int] | int | None = None
    modules_to_save: list[str] | None = None

    @field_validator("target_modules")
    @classmethod
    def _usable(cls, value: list[str] | str) -> list[str] | str:
        if not value:
            raise ValueError("name at least one module, for instance [q_proj, v_proj], or write all-linear")
        if isinstance(value, str) and value.lower() != ALL_LINEAR:
            check_expression("target_modules", value)
        return value

    @field_validator("layers_to_transform", "modules_to_save")
    @classmethod
    def _some(cls, value: Any) -> Any:
        if value == []:
            raise ValueError("an empty list: leave the key out, or name at least one")
        if any(layer < 0 for layer in ([value] if isinstance(value, int) else value or ()) if isinstance(layer, int)):
            raise ValueError("layers count from 0")
        return value

    @model_validator(mode="after")
    def _layers_of_a_list(self) -> TargetSettings:
        if self.layers_to_transform is not None and isinstance(self.target_modules, str):
            raise ValueError(
                f"layers_to_transform goes with a list of target_modules, and that is {quote(self.target_modules)}: "
                "list the modules, for instance [q_proj, v_proj], or put the layers into a regular expression"
            )
        return self

    def targeting(self) -> dict[str, Any]:
        """The three keys as PEFT's configs take them."""
        return {
            "target_modules": self.target_modules,
            "layers_to_transform": self.layers_to_transform,
            "modules_to_save": self.modules_to_save,
        }


class RankSettings(TargetSettings):
    """Keys of the methods whose update of a (d, k) weight has a rank, which can be no more than min(d, k).

    Ranks are checked against the shapes of the model's modules by `targets`, before any weight is loaded.

    Attributes:
        r: rank of the update.
        rank_pattern: module name or regular expression -> rank, where it differs from `r`.
    """

    r: int = Field(default=16, ge=1)
    rank_pattern: dict[str, int] = Field(default_factory=dict)

    @field_validator("rank_pattern")
    @classmethod
    def _positive_ranks(cls, value: dict[str, int]) -> dict[str, int]:
        check_patterns("rank_pattern", value)
        if low := {name: rank for name, rank in value.items() if rank < 1}:
            raise ValueError(f"ranks must be 1 or more, and {low} are not")
        return value


def check_patterns(option: str, patterns: Iterable[str]) -> None:
    """Refuse keys of `rank_pattern` or `alpha_pattern` that are no expressions of bounded cost."""
    for pattern in patterns:
        check_expression(option, pattern)


def _nothing_kept(settings: Any, targets: Sequence[Target]) -> int:
    return 0


def _nothing_to_check(settings: Any, target: Target) -> None:
    pass


@dataclass(frozen=True)
class Method:
    """One entry of the comparison.

    Attributes:
        name: what `method: {name: ...}` says.
        title: how tables and legends write it.
        source: the paper, its title and arXiv number, and what computes it where that is a library.
        settings: the keys that its section allows.
        config: settings and the run's seed -> PEFT config; None for full fine-tuning.
        init: what the adapter starts from, for the record of a run.
        count: settings and target -> number of trained values; its docstring is the formula.
        kept: settings and all targets -> number of float32 values kept frozen beside the weights.
        check: settings and target; raises `DudeError` where the method cannot take the module's shape.
        conv1d: whether GPT-2's `Conv1D` can be a target beside `nn.Linear`.
        overwrites_base: whether PEFT changes the base weights at the start, so that the adapter alone is no use on the
            original base and has to be saved as a difference.
        merges: whether the result can be merged into the base weights.
    """

    name: str
    title: str
    source: str
    settings: type[MethodSettings]
    config: Callable[[Any, int], PeftConfig] | None
    init: str
    count: Callable[[Any, Target], int]
    kept: Callable[[Any, Sequence[Target]], int] = _nothing_kept
    check: Callable[[Any, Target], None] = _nothing_to_check
    conv1d: bool = True
    overwrites_base: bool = False
    merges: bool = True
