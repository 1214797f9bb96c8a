"""`python -m mini.figures RUN -o FOLDER`: the pictures of the model card, from a pretraining run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from transformers import LlamaForCausalLM

from mini.model_shape import new_model

DPI = 100


def loss_curve(log: Path, picture: Path, window: int = 25) -> None:
    """Draw the training loss against tokens: every step, and a running mean over `window` steps."""
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    tokens = [r["tokens"] / 1e6 for r in records]
    losses = [r["loss"] for r in records]
    mean = [
        sum(losses[max(0, i - window + 1) : i + 1]) / len(losses[max(0, i - window + 1) : i + 1])
        for i in range(len(losses))
    ]
    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    axes.plot(tokens, losses, color="0.8", linewidth=0.6, label="step")
    axes.plot(tokens, mean, linewidth=1.4, label=f"mean of {window} steps")
    axes.set(xlabel="tokens (millions)", ylabel="loss (nats per token)", ylim=(0, min(4.0, max(losses))))
    axes.legend(frameon=False)
    figure.savefig(picture, dpi=DPI, metadata={"Software": None})  # equal bytes with any version of matplotlib
    plt.close(figure)


def spectrum(trained: LlamaForCausalLM, start: LlamaForCausalLM, picture: Path) -> None:
    """Draw the singular values of q_proj and v_proj by layer, trained and initial, divided by their RMS."""
    figure, panels = plt.subplots(1, 2, figsize=(7.5, 3.2), layout="constrained", sharey=True)
    for panel, kind in zip(panels, ("q_proj", "v_proj"), strict=True):
        for model, style in ((start, {"color": "0.6", "linestyle": "--"}), (trained, {})):
            for i, layer in enumerate(model.model.layers):
                s = torch.linalg.svdvals(layer.self_attn.get_submodule(kind).weight.detach().float())
                label = f"layer {i}" if model is trained else "random start" if i == 0 else None
                panel.plot(range(1, len(s) + 1), s / s.square().mean().sqrt(), linewidth=1.1, label=label, **style)
        panel.set(title=kind, xlabel="index", yscale="log", ylim=(1e-2, None))
    panels[0].set_ylabel("singular value / root mean square")
    panels[0].legend(frameon=False, fontsize=7)
    figure.savefig(picture, dpi=DPI, metadata={"Software": None})  # equal bytes with any version of matplotlib
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m mini.figures", description="Draw the model card's pictures.")
    parser.add_argument("run", type=Path, help="folder of a finished pretraining run")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="the run's seed, for its initialisation")
    a = parser.parse_args(arguments)
    a.output.mkdir(parents=True, exist_ok=True)
    loss_curve(a.run / "log.jsonl", a.output / "loss.png")
    trained = LlamaForCausalLM.from_pretrained(a.run, dtype=torch.float32)
    spectrum(trained, new_model(a.seed), a.output / "spectrum.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
