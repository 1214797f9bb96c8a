"""`python -m mini.pretrain`: pretrain the base model `mini` on text that the project generates.

Seeded and resumable: with the same seed, machine and number of threads, an interrupted and resumed run gives the same
bits as an uninterrupted one. The rate warms up, stays constant and falls linearly to zero over the last part of the
budget, so a run still in its constant part may be resumed with another `--tokens`.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from dude_peft.errors import DudeError
from dude_peft.files import write_bytes
from mini.model_shape import SHAPE, Packer, held_out, new_model
from mini.stream import GENRES
from mini.tokenizer import train_tokenizer

LENGTH = 256
DECAY_SHARE = 0.4


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Return the rate of a step (from 0): linear warm-up, constant, linear to zero over the last `DECAY_SHARE`."""
    falling = max(1, round(DECAY_SHARE * steps))
    return peak * min(1.0, (step + 1) / max(1, warmup), (steps - step) / falling)


def fast_bfloat16(device: str) -> bool:
    """Return whether bfloat16 matrix products are faster than float32, by timing both."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(256, 256, dtype=dtype)
        times = []
        for _ in range(4):
            start = time.perf_counter()
            a @ a
            times.append(time.perf_counter() - start)
        seconds[dtype] = min(times)
    return seconds[torch.bfloat16] < 0.7 * seconds[torch.float32]


def make_optimizer(model: LlamaForCausalLM, peak: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95), eps=1e-8)


def next_token_loss(model: LlamaForCausalLM, x: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of the next token over rows x (rows, length); documents packed into a row see each other."""
    hidden = model.model(input_ids=x).last_hidden_state[:, :-1]
    logits = model.lm_head(hidden).float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten())


@torch.no_grad()
def perplexities(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: int = 24) -> dict[str, float]:
    """Return held-out perplexity per token, by genre."""
    model.eval()
    device = model.device
    out = {}
    for genre in GENRES:
        x = held_out(tokenizer, genre, rows, LENGTH).to(device)
        losses = [next_token_loss(model, part).item() for part in x.split(8)]
        out[genre] = math.exp(sum(losses) / len(losses))
    model.train()
    return out


def save_pretrained(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write config, bfloat16 weights and tokenizer in the Hugging Face layout; the model itself is left as it is."""
    import copy

    half = copy.deepcopy(model).to("cpu", torch.bfloat16)
    half.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())


def _cut_log(log: Path, steps: int) -> None:
    """Remove the steps after the checkpoint from the log: they are repeated."""
    lines = log.read_text(encoding="utf-8").splitlines()
    log.write_text("".join(line + "\n" for line in lines if json.loads(line)["step"] <= steps), encoding="utf-8")


def pretrain(
    folder: Path,
    *,
    tokens: int,
    seed: int = 0,
    rows: int = 8,
    peak: float = 2.5e-3,
    warmup: int = 100,
    weight_decay: float = 0.1,
    resume: bool = False,
    every: int = 100,
    shape: dict[str, Any] | None = None,
    device: str = "cpu",
    dtype: str = "auto",
    stop_after: int | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
    progress: bool = True,
) -> LlamaForCausalLM:
    """Train on about `tokens` tokens (whole steps of `rows` rows of 256) and save into `folder`.

    Args:
        folder: gets config, weights, tokenizer, `log.jsonl`, `perplexity.json` and, while running, `checkpoint.pt`.
        tokens: the budget; the schedule is laid out over it.
        every: steps between checkpoints.
        stop_after: leave after this many steps of the schedule (as an interruption would), checkpoint written.

    Returns:
        The trained model, float32.

    Raises:
        DudeError: `folder` has a run and `resume` is false, or there is nothing to resume.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    checkpoint = folder / "checkpoint.pt"
    if resume and not checkpoint.exists():
        raise DudeError(f"nothing to resume: {checkpoint} does not exist; start without --resume")
    if not resume and (checkpoint.exists() or (folder / "model.safetensors").exists()):
        raise DudeError(f"{folder} has a run already; use --resume, or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer or train_tokenizer()
    model = new_model(seed, shape or SHAPE).to(device)
    model.train()
    optimizer = make_optimizer(model, peak, weight_decay)
    packer = Packer(tokenizer, seed=seed, length=LENGTH)
    first = 0
    if resume:
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        packer.restore(state["packer"])
        first = state["step"]
        _cut_log(folder / "log.jsonl", first)
    steps = max(1, tokens // (rows * LENGTH))
    half = dtype == "bfloat16" or (dtype == "auto" and fast_bfloat16(device))

    def keep(step: int) -> None:
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "packer": packer.state(),
            "step": step,
        }
        _write_checkpoint(checkpoint, state)

    bar = Progress(
        TextColumn("mini"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.3f}, {task.fields[rate]:.0f} tokens/s"),
        disable=not progress,
    )
    with bar, (folder / "log.jsonl").open("a", encoding="utf-8") as log:
        task = bar.add_task("mini", total=steps, completed=first, loss=float("nan"), rate=0.0)
        for step in range(first, steps):
            start = time.perf_counter()
            rate = learning_rate(step, steps, peak, warmup)
            for group in optimizer.param_groups:
                group["lr"] = rate
            x = packer.batch(rows).to(device)
            with torch.autocast(device, torch.bfloat16, enabled=half):
                loss = next_token_loss(model, x)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            speed = x.numel() / (time.perf_counter() - start)
            record = {
                "step": step + 1,
                "tokens": (step + 1) * x.numel(),
                "loss": round(loss.item(), 5),
                "lr": rate,
                "grad_norm": round(norm.item(), 4),
                "tokens_per_second": round(speed, 1),
            }
            log.write(json.dumps(record) + "\n")
            log.flush()
            bar.update(task, completed=step + 1, loss=loss.item(), rate=speed)
            if stop_after is not None and step + 1 >= stop_after:
                keep(step + 1)
                return model
            if (step + 1) % every == 0 and step + 1 < steps:
                keep(step + 1)
    save_pretrained(model, tokenizer, folder)
    result = {
        "perplexity": perplexities(model, tokenizer),
        "steps": steps,
        "tokens": steps * rows * LENGTH,
        "seed": seed,
    }
    (folder / "perplexity.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    keep(steps)
    return model


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m mini.pretrain", description="Pretrain the base model `mini`.")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the run and of the finished model")
    parser.add_argument("--tokens", type=int, default=8_192_000, help="training budget in tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=8, help="rows of 256 tokens in a step")
    parser.add_argument("--lr", type=float, default=2.5e-3)
    parser.add_argument("--resume", action="store_true", help="resume from the checkpoint in the folder")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (part of what makes a run repeatable)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--stop-after", type=int, help="leave after this step with a checkpoint")
    a = parser.parse_args(arguments)
    torch.set_num_threads(a.threads)
    try:
        pretrain(
            a.output,
            tokens=a.tokens,
            seed=a.seed,
            rows=a.rows,
            peak=a.lr,
            resume=a.resume,
            device=a.device,
            dtype=a.dtype,
            stop_after=a.stop_after,
        )
    except DudeError as error:
        print(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
