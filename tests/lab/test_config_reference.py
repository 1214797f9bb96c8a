"""Promise: every key of the YAML files has a type, a default and a meaning, read from the classes that check it."""

from __future__ import annotations

from dude_lab.config.compare_settings import ComparisonSettings
from dude_lab.config.run_settings import RunSettings, TrainSettings
from dude_lab.config.yaml_keys import Key, keys
from dude_lab.methods import METHODS
from dude_lab.settings import Settings, meanings


def test_every_key_has_a_meaning() -> None:
    assert [
        f"{key.section}.{key.key}" for key in keys() if len(key.meaning) < 10 or not key.type or not key.default
    ] == []


def test_every_section_and_every_method_is_listed() -> None:
    listed = keys()
    found = {(key.section, key.key) for key in listed}
    assert len(found) == len(listed)
    assert {("run", name) for name in RunSettings.model_fields} <= found
    assert {("comparison", name) for name in ComparisonSettings.model_fields} <= found
    assert {("train", name) for name in TrainSettings.model_fields} <= found
    assert {section for section, _ in found} >= {"model", "data", "eval", "search", "method"}
    for method in METHODS.values():
        sections = [key for key in listed if method.name in key.section.removeprefix("method: ").split(", ")]
        allowed = {key.key for key in [*sections, *(key for key in listed if key.section == "method")]}
        assert set(method.settings.model_fields) <= allowed


def test_a_row() -> None:
    by_name = {(key.section, key.key): key for key in keys()}
    assert by_name["train", "batch_size"][:4] == ("train", "batch_size", "int >= 1", "8")
    assert by_name["train", "steps"][2:4] == ("int >= 1 | null", "null")
    assert by_name["train", "schedule"][2:4] == ("cosine | linear | constant", "cosine")
    assert by_name["run", "output"][2:4] == ("path", "required")
    assert isinstance(by_name["data", "name"], Key)


def test_no_docstring_describes_a_key_that_is_not_there() -> None:
    def every(cls: type) -> list[type]:
        return [cls, *(one for sub in cls.__subclasses__() for one in every(sub))]

    for cls in every(Settings)[1:]:
        assert set(meanings(cls)) <= set(cls.model_fields), cls.__name__  # type: ignore[attr-defined]


def test_meanings_go_over_lines_and_end_at_the_next_section() -> None:
    class Base:
        """A base.

        Attributes:
            one: first
                and on.
            two: second.
        """

    class Derived(Base):
        """Another.

        Attributes:
            two: replaced.

        Raises:
            three: no attribute.
        """

    assert meanings(Derived) == {"one": "first and on.", "two": "replaced."}
