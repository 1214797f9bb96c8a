"""`dude env` and `dude methods`: what is installed, and what there is to choose from."""

from __future__ import annotations

from ..methods import METHODS, MethodSettings, TargetSettings
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
    """Every method with its keys and its source."""
    shared, lora = set(TargetSettings.model_fields), METHODS["lora"].keys.keys()
    rows = table("method", "name in tables", "keys", "merges", "source")
    for method in METHODS.values():
        keys = [key for key in method.settings.model_fields if key not in shared]
        if lora <= method.keys.keys() and method.name != "lora":
            keys = ["those of lora", *(key for key in keys if key not in lora)]
        merges = "yes" if method.merges else "no"
        rows.add_row(method.name, method.title, ", ".join(keys) or "-", merges, method.source)
    out = console()
    out.print(rows)
    keys = [key for key in TargetSettings.model_fields if key not in MethodSettings.model_fields]
    out.print("and, for all but full: " + ", ".join(keys))
