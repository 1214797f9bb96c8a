"""JSON schemas of the YAML files, from the pydantic classes: editors complete keys and mark mistakes by them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from ..methods import METHODS
from ..settings import meanings
from .aliases import accepted
from .compare_settings import ComparisonSettings
from .run_settings import RunSettings

_SECTIONS: dict[str, tuple[str, ...]] = {
    "RunSettings": (),
    "ModelSettings": ("model",),
    "DataSettings": ("data",),
    "TrainSettings": ("train",),
}
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def run_schema() -> dict[str, Any]:
    """Return the schema of a run's YAML."""
    schema = _documented(RunSettings)
    definitions = schema["$defs"]
    definitions.pop("MethodSettings")
    for method in METHODS.values():
        one = _documented(method.settings)
        definitions |= one.pop("$defs", {})
        one["properties"]["name"] = {"const": method.name, "description": method.title}
        definitions[f"method-{method.name}"] = one
    properties = schema["properties"]
    properties["model"] = _also_a_name(properties["model"], {"type": "string", "minLength": 1})
    references = [{"$ref": f"#/$defs/method-{name}"} for name in METHODS]
    properties["method"] = {
        "description": properties["method"]["description"],
        "anyOf": [{"enum": list(METHODS)}, *references],
    }
    return {"$schema": DIALECT, "title": "A run of dude train", **_without_titles(schema)}


def comparison_schema() -> dict[str, Any]:
    """Return the schema of a comparison's YAML; a run inside it has the keys of `run_schema`, none of them required."""
    schema, run = _documented(ComparisonSettings), run_schema()
    section = {key: value for key, value in run.items() if key in ("type", "properties", "additionalProperties")}
    schema["$defs"] = {**schema.get("$defs", {}), **run["$defs"]}
    schema["properties"]["run"] = {"description": schema["properties"]["run"]["description"], **section}
    return {"$schema": DIALECT, "title": "A comparison of dude compare", **_without_titles(schema)}


def _documented(model: type[BaseModel]) -> dict[str, Any]:
    """Return pydantic's schema with the meanings of the docstrings as descriptions."""
    schema = model.model_json_schema()
    classes = {one.__name__: one for one in (model, *_below(model))}
    for name, part in (*schema.get("$defs", {}).items(), (model.__name__, schema)):
        known = meanings(classes[name]) if name in classes else {}
        for key, value in part.get("properties", {}).items():
            if key in known:
                value["description"] = known[key] + accepted(_SECTIONS.get(name, (name,)), key)
        part.pop("description", None)  # of the class
    return schema


def _below(model: type[BaseModel]) -> list[type[BaseModel]]:
    """Return the classes of the sections of a class, and of those in them."""
    found: list[type[BaseModel]] = []
    for field in model.model_fields.values():
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found += [kind, *_below(kind)]
    return found


def _also_a_name(section: dict[str, Any], name: dict[str, Any]) -> dict[str, Any]:
    return {"description": section.pop("description", ""), "anyOf": [name, section]}


def _without_titles(value: Any) -> Any:
    """Drop pydantic's titles, which repeat the keys."""
    if isinstance(value, dict):
        return {
            key: _without_titles(one) for key, one in value.items() if not (key == "title" and isinstance(one, str))
        }
    return [_without_titles(one) for one in value] if isinstance(value, list) else value
