"""What a method of the comparison is, and how the keys of its `method:` section follow from its PEFT config class."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, create_model, field_validator, model_validator

from dude_peft.errors import quote
from dude_peft.expressions import ALL_LINEAR, check_expression

from ..settings import Settings, meanings

if TYPE_CHECKING:
    from peft import PeftConfig

    from dude_peft.targets import Target


class MethodSettings(Settings):
    """The key of every method.

    Attributes:
        name: the method; `dude methods` lists them.
    """

    name: str


class FullSettings(MethodSettings):
    """Full fine-tuning: every parameter of the model is trained, so there is nothing to choose."""


class TargetSettings(MethodSettings):
    """The keys of every method that adapts chosen modules; names and meanings are PEFT's.

    Attributes:
        target_modules: names of the modules to adapt, a regular expression, or `all-linear`: every linear layer but the
            output layer.
        layers_to_transform: indices of the layers to adapt; needs a list of `target_modules`. All layers if null.
        modules_to_save: modules that are trained as a whole and saved with the adapter.
    """

    target_modules: list[str] | str = ALL_LINEAR
    layers_to_transform: list[int] | int | None = None
    modules_to_save: list[str] | None = None

    @field_validator("target_modules")
    @classmethod
    def _usable(cls, value: list[str] | str) -> list[str] | str:
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
    def _something_to_adapt(self) -> TargetSettings:
        if not (self.target_modules or getattr(self, "target_parameters", None)):
            raise ValueError(
                "target_modules: name at least one module, for instance [q_proj, v_proj], or write all-linear"
            )
        return self

    @model_validator(mode="after")
    def _layers_of_a_list(self) -> TargetSettings:
        if self.layers_to_transform is not None and isinstance(self.target_modules, str):
            raise ValueError(
                f"layers_to_transform goes with a list of target_modules, and that is {quote(self.target_modules)}: "
                "list the modules, for instance [q_proj, v_proj], or put the layers into a regular expression"
            )
        return self

    def targeting(self) -> dict[str, Any]:
        """Return the three keys as PEFT's configs take them."""
        return self.model_dump(include=set(TargetSettings.model_fields) - {"name"})


def check_patterns(option: str, patterns: Iterable[str]) -> None:
    """Reject keys of `rank_pattern` or `alpha_pattern` that are no expressions of bounded cost."""
    for pattern in patterns:
        check_expression(option, pattern)


AS_PEFT: Mapping[str, Any] = {}
"""In `Method.keys`: type, default and meaning are those of the PEFT config class."""


def _only_null(value: Any) -> None:
    if value is not None:
        raise ValueError("PEFT has no such option for this method: leave it out")


def _none(*_: Any) -> dict[str, Any]:
    return {}


def _zero(*_: Any) -> int:
    return 0


def _no_check(*_: Any) -> None:
    pass


@dataclasses.dataclass(frozen=True)
class Method:
    """One entry of the comparison.

    Attributes:
        name: what `method: {name: ...}` says.
        title: how tables and legends write it.
        source: the paper, its title and arXiv number, and what computes it where that is a library.
        config: the PEFT config class as `module.Class`, imported when a `method:` section is read, because PEFT imports
            torch and transformers; None for full fine-tuning.
        init: what the adapter is initialised from, for the record of a run.
        count: settings and target -> number of trained values of one weight; its docstring is the formula.
        keys: the keys of the config class that the `method:` section offers, beside those of `TargetSettings`. Type,
            default and meaning are those of the class's field; the value holds what differs: `type`, and arguments of
            `pydantic.Field` (`default`, `description`, limits such as `ge`).
        fixed: arguments of the config class that are not offered.
        derived: settings and the run's seed -> arguments of the config class that follow from these.
        frozen: settings and all targets -> number of frozen float32 values that the method adds to the model.
        check: settings and target; raises `DudeError` if the method cannot take the module's shape.
        conv1d: whether GPT-2's `Conv1D` can be a target beside `nn.Linear`.
        overwrites_base: whether PEFT changes the base weights on initialisation, so that the adapter has to be saved as
            a difference to the original base.
        quantizations: the values of `model.quantization` that the method can train on.
        merges: whether the result can be merged into the base weights.
        learning_rate: the one of a run that sets none.
    """

    name: str
    title: str
    source: str
    config: str | None
    init: str
    count: Callable[[Any, Target], int]
    keys: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    derived: Callable[[Any, int], Mapping[str, Any]] = _none
    frozen: Callable[[Any, Sequence[Target]], int] = _zero
    check: Callable[[Any, Target], None] = _no_check
    conv1d: bool = True
    overwrites_base: bool = False
    quantizations: tuple[str, ...] = ()
    merges: bool = True
    learning_rate: float = 2e-4

    @cached_property
    def config_class(self) -> type[PeftConfig] | None:
        """The PEFT config class, imported; None for full fine-tuning."""
        if self.config is None:
            return None
        module, _, name = self.config.rpartition(".")
        return getattr(import_module(module), name)

    @cached_property
    def settings(self) -> type[MethodSettings]:
        """The keys that its `method:` section allows, as a class."""
        config = self.config_class
        if config is None:
            return FullSettings
        fields, types = {one.name: one for one in dataclasses.fields(config)}, typing.get_type_hints(config)
        documented = meanings(config)
        made: dict[str, Any] = {}
        for key, changes in self.keys.items():
            shared = TargetSettings.model_fields.get(key)
            field = fields[key]
            spec = dict(changes)
            kind = spec.pop("type", shared.annotation if shared else types[key])
            if not {"default", "default_factory"} & set(spec):
                if field.default is not dataclasses.MISSING:
                    spec["default"] = field.default
                else:
                    spec["default_factory"] = field.default_factory
            if shared is None:
                spec.setdefault("description", field.metadata.get("help") or documented.get(key))
            made[key] = (kind, Field(**spec))
        for key in TargetSettings.model_fields.keys() - fields.keys() - {"name"}:  # PEFT has it for other methods only
            kind = Annotated[TargetSettings.model_fields[key].annotation, AfterValidator(_only_null)]  # type: ignore[name-defined]
            made[key] = (kind, Field(None))
        return create_model(f"{config.__name__.removesuffix('Config')}Settings", __base__=TargetSettings, **made)

    def build(self, settings: MethodSettings, seed: int) -> PeftConfig | None:
        """Return the PEFT config for `settings` in a run with `seed`."""
        config = self.config_class
        if config is None:
            return None
        fields = {one.name for one in dataclasses.fields(config)}
        arguments = settings.model_dump(include=fields) | dict(self.fixed) | dict(self.derived(settings, seed))
        return config(task_type="CAUSAL_LM", **arguments)  # type: ignore[arg-type]
