"""`dude env` and `dude methods`: what is installed, and what there is to choose from."""

from __future__ import annotations

from ..methods import METHODS, LoraSettings, MethodSettings
from .console import console, facts, size, table


def run() -> None:
    """Versions and hardware, in a form to paste into a bug report; no paths, no names."""
    from ..training.provenance import git_state, hardware, versions

    git, machine = git_state(), hardware()
    memory = size(machine["memory_bytes"])
    rows = [(name, version or "not installed") for name, version in versions().items()]
    if git:
        rows.append(("commit", git["sha"][:12] + (" with changes" if git["dirty"] else "")))
    rows += [
        ("system", machine["system"]),
        ("processor", f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} torch threads"),
        ("memory", memory),
        ("GPU", ", ".join(machine["gpus"]) or "none"),
        ("CUDA", machine["cuda"] or "none"),
    ]
    console().print(facts(rows))


def list_methods() -> None:
    """Every method with the keys that are its own."""
    shared = set(LoraSettings.model_fields)
    rows = table("method", "name in tables", "start", "keys beside the shared ones")
    for method in METHODS.values():
        own = [key for key in method.settings.model_fields if key not in shared]
        rows.add_row(method.name, method.title, method.init, ", ".join(own) or "-")
    out = console()
    out.print(rows)
    keys = [key for key in LoraSettings.model_fields if key not in MethodSettings.model_fields]
    out.print("shared by all but full: " + ", ".join(keys))
