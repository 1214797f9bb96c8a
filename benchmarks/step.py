"""One training step of the embedded model, for each method as a ratio to PEFT's LoRA, interleaved in one run.

python benchmarks/step.py [--batch 8] [--length 128] [--rank 16] [--rounds 12] [--json FILE]
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
from transformers import AutoModelForCausalLM

from dude_peft import DudeConfig
from dude_peft.mini import model_dir


class Contestant:
    """A method on its own copy of the model, with its optimizer."""

    def __init__(self, config: Any) -> None:
        base = AutoModelForCausalLM.from_pretrained(model_dir(), dtype=torch.float32)
        begin = time.perf_counter()
        self.model = (base if config is None else get_peft_model(base, config)).train()
        self.start = time.perf_counter() - begin
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.trainable = sum(p.numel() for p in trainable)
        self.optimizer = torch.optim.AdamW(trainable, lr=1e-4)
        self.seconds: list[float] = []

    def step(self, ids: torch.Tensor) -> float:
        """Seconds of one forward, backward and update."""
        begin = time.perf_counter()
        self.model(input_ids=ids, labels=ids).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - begin


def main() -> None:
    """Print the table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    shared: dict[str, Any] = {"r": options.rank, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    contestants = {
        "PEFT LoRA": Contestant(LoraConfig(**shared)),
        "PEFT DoRA": Contestant(LoraConfig(**shared, use_dora=True)),
        "PEFT DoRA + PiSSA": Contestant(LoraConfig(**shared, use_dora=True, init_lora_weights="pissa")),
        "DuDe": Contestant(DudeConfig(**shared)),
        "full": Contestant(None),
    }
    ids = torch.randint(2, 2048, (options.batch, options.length))
    for contestant in contestants.values():
        contestant.step(ids)
    for _ in range(options.rounds):
        for contestant in contestants.values():
            contestant.seconds.append(contestant.step(ids))
    lora = contestants["PEFT LoRA"].seconds
    rows = {}
    for name, contestant in contestants.items():
        low, middle, high = statistics.quantiles([a / b for a, b in zip(contestant.seconds, lora, strict=True)], n=4)
        rows[name] = {
            "ratio": middle,
            "quartiles": [low, high],
            "milliseconds": 1e3 * statistics.median(contestant.seconds),
            "start_seconds": contestant.start,
            "trainable": contestant.trainable,
        }
        print(
            f"{name:18} {middle:.2f} ({low:.2f}-{high:.2f})  {rows[name]['milliseconds']:.0f} ms  start "
            f"{contestant.start:.2f} s  {contestant.trainable:,} trainable"
        )
    if options.json:
        about = {"torch": torch.__version__, "hardware": platform.processor() or platform.machine()}
        settings = {key: value for key, value in vars(options).items() if key != "json"}
        options.json.write_text(
            json.dumps({**about, "threads": torch.get_num_threads(), **settings, "rows": rows}, indent=2)
        )


if __name__ == "__main__":
    main()
