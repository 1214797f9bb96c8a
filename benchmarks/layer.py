"""Time of one linear layer, forward and backward, as ratios to PEFT's LoRA, interleaved in one run.

python benchmarks/layer.py [--sizes 1024 4096] [--tokens 256 1024] [--dtypes float32 bfloat16] [--rank 16] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from dude_peft import DudeConfig


def layers(d: int, r: int, dtype: torch.dtype) -> dict[str, nn.Module]:
    """One layer of each kind on the same weight, (d, d): the frozen one, PEFT's LoRA, DoRA and PiSSA + DoRA, DuDe."""
    torch.manual_seed(0)
    weight = (torch.randn(d, d) / d**0.5).to(dtype)
    configs: dict[str, Any] = {
        "frozen": None,
        "PEFT LoRA": LoraConfig(r=r, target_modules=["0"]),
        "PEFT DoRA": LoraConfig(r=r, target_modules=["0"], use_dora=True),
        "DuDe": DudeConfig(r=r, target_modules=["0"]),
        "DuDe, axis in": DudeConfig(r=r, target_modules=["0"], magnitude_axis="in"),
    }
    made = {}
    for name, config in configs.items():
        base = nn.Sequential(nn.Linear(d, d, bias=False).to(dtype)).requires_grad_(False)
        with torch.no_grad():
            base[0].weight.copy_(weight)
        made[name] = base if config is None else get_peft_model(base, config)
    return made


def one_pass(layer: nn.Module, x: torch.Tensor, G: torch.Tensor) -> float:
    """Seconds of one forward and backward; x requires its gradient, as in a deep model."""
    x.grad = None
    with torch.no_grad():
        for p in layer.parameters():
            if p.requires_grad:
                p.mul_(1.0001)  # as after an optimizer step: the norm kept from the last pass holds no longer
    if x.device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    layer(x).backward(G)
    if x.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def measure(d: int, tokens: int, r: int, dtype: torch.dtype, rounds: int, device: str) -> dict[str, Any]:
    """Median ratio to PEFT's LoRA, with the quartiles, over rounds in which every layer runs once."""
    kinds = {name: layer.to(device) for name, layer in layers(d, r, dtype).items()}
    x = torch.randn(tokens, d, device=device).to(dtype).requires_grad_()
    G = torch.randn(tokens, d, device=device).to(dtype)
    for layer in kinds.values():
        one_pass(layer, x, G)
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, layer in kinds.items():
            seconds[name].append(one_pass(layer, x, G))
    ratios = {}
    for name in kinds:
        each = [a / b for a, b in zip(seconds[name], seconds["PEFT LoRA"], strict=True)]
        low, middle, high = statistics.quantiles(each, n=4)
        ratios[name] = {
            "ratio": middle,
            "quartiles": [low, high],
            "milliseconds": 1e3 * statistics.median(seconds[name]),
        }
    return {"d": d, "tokens": tokens, "dtype": str(dtype).removeprefix("torch."), "ratios": ratios}


def main() -> None:
    """Print the table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024])
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--dtypes", nargs="+", default=["float32"])
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for dtype in options.dtypes:
        for d in options.sizes:
            for tokens in options.tokens:
                size = (d, tokens, options.rank, getattr(torch, dtype), options.rounds, options.device)
                row = measure(*size)
                rows.append(row)
                cells = "  ".join(f"{name} {v['ratio']:.2f}" for name, v in row["ratios"].items())
                print(f"{dtype} d=k={d} tokens={tokens}: {cells}", flush=True)
    if options.json:
        hardware = (
            torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
        )
        about = {"torch": torch.__version__, "device": options.device, "hardware": hardware, "rank": options.rank}
        options.json.write_text(json.dumps({**about, "rounds": options.rounds, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
