"""Provenance of a result: code version, libraries and hardware, without private paths."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from dude_peft._version import __version__

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "datasets",
    "lm_eval",
    "safetensors",
    "tokenizers",
    "numpy",
)


def versions() -> dict[str, str | None]:
    """Return the versions of Python, this package and the libraries that affect results; None if not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "dude_peft": __version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


@cache
def git_state() -> dict[str, Any] | None:
    """Return the commit of this package's repository and whether its code has changes; None without one.

    Changes outside the package, such as results, do not count. A copy installed inside another repository has no
    commit: git must track this file.
    """
    this_file = Path(__file__).resolve()

    def git(*words: str) -> str:
        command = ["git", "-C", str(this_file.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", this_file.name)
        changes = git("status", "--porcelain", "--untracked-files=no", "--", str(this_file.parents[1]))
        return {"sha": git("rev-parse", "HEAD"), "dirty": bool(changes)}
    except (OSError, subprocess.SubprocessError):
        return None


@cache
def hardware() -> dict[str, Any]:
    """Return processor, torch threads, memory and GPUs."""
    import psutil
    import torch

    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": gpus,
        "cuda": torch.version.cuda,
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def peak_memory(device: str) -> dict[str, Any]:
    """Return the peak memory: of the GPU's allocator, or of the whole process."""
    if device == "cuda":
        import torch

        return {"bytes": torch.cuda.max_memory_allocated(), "kind": "cuda_allocated"}
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return {"bytes": psutil.Process().memory_info().peak_wset, "kind": "process_resident"}
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "kind": "process_resident"}


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
