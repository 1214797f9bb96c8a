"""Where a number comes from: code version, libraries, hardware, data, all without a private path."""

from __future__ import annotations

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
    """Python, this package, and the libraries that decide a result; None where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "dude_peft": __version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


@cache
def git_state() -> dict[str, Any] | None:
    """Commit of this package's own repository and whether its code differs from it; None where it has none.

    What lies beside the code, such as the run files that a reproduction is adding to, does not count.

    An installed copy inside somebody else's repository has none: git must track this very file.
    """
    here = Path(__file__).resolve()

    def git(*words: str) -> str:
        command = ["git", "-C", str(here.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        changes = git("status", "--porcelain", "--untracked-files=no", "--", str(here.parents[1]))
        return {"sha": git("rev-parse", "HEAD"), "dirty": bool(changes)}
    except (OSError, subprocess.SubprocessError):
        return None


@cache
def hardware() -> dict[str, Any]:
    """Processor, threads that torch uses, memory, and GPUs."""
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
    """The most memory held at any time: of the GPU's allocator, or of the process with everything in it."""
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
