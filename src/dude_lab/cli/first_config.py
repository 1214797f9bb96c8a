"""The commented YAML that `dude init` writes for a data set and a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dude_peft.errors import DudeError

from ..config.data_settings import DataSettings
from ..config.run_settings import ModelSettings, TrainSettings
from ..config.yaml_file import parse_run
from ..config.yaml_reader import dump_yaml, load_yaml
from ..data.catalogue import SETS
from ..data.data_files import SUFFIXES, read_rows
from ..methods import METHODS, parse_method
from ..settings import parse
from ..training.base_model import find_base
from ..training.estimates import step_count
from ..training.examples import READ, length_limit, tokenize
from ..training.training_data import load_training

if TYPE_CHECKING:
    from ..training.base_model import Base
    from ..training.training_data import Columns

QUESTIONS = ("question", "query", "input", "source", "problem", "instruction")
ANSWERS = ("answer", "response", "output", "target", "solution", "label")
"""Columns that are taken for prompt and completion if the format is not recognised."""

SAMPLE = 1_000  # records that are tokenised for the lengths
FEW = 40  # records, below which none are held out


@dataclass(frozen=True)
class _Lengths:
    longest: int
    limit: int


def first_config(data: str, model: str, method: str, output: str) -> str:
    """Return a commented config of a run, which `load_config` reads.

    Args:
        data: a file, a named data set, or the name of a data set on the hub.
        model: a folder, `mini`, or a name on the hub.
        method: name of the method.
        output: folder of the run.

    Raises:
        DudeError: data or model that cannot be read, or an unknown method.
    """
    parse_method(method, "dude init")
    base = find_base(parse(ModelSettings, {"name": model}, "dude init: model"))
    section = _source(data)
    loaded = load_training(parse(DataSettings, section, "dude init: data"))
    has_template = bool(base.tokenizer.chat_template)
    pairs = section.get("name") is None and loaded.both is not None
    if pairs and has_template:
        section["chat_template"] = True
        loaded = load_training(parse(DataSettings, section, "dude init: data"))
    count = len(loaded.train)
    lengths = _lengths(loaded.train, base)
    remarks = {
        "model": f"{base.config.model_type}, {'with a' if has_template else 'without a'} chat template",
        "method": "`dude methods` lists the others, `dude keys " + method + "` their keys",
        "train": f"{count:,} records" + (f" of the format {loaded.format}" if loaded.format else ""),
        "chat_template": "the model has one; false trains on the texts as they are",
        "validation": "share of the records; or a file",
        "epochs": "or steps: N",
        "learning_rate": "of AdamW, at its peak, for a large model; `dude tune` chooses one for this model and data",
        "max_length": f"tokens; the longest of {min(count, SAMPLE):,} records has {lengths.longest:,}",
        "packing": "true fills sequences of max_length tokens with several records",
        "warmup": "share of the steps",
        "eval": "a suite such as mini or gsm8k, evaluated before and after: eval: {suite: gsm8k}",
        "every": "steps from one validation loss to the next; questions: suite: gsm8k, or file: FILE",
    }
    remarks["name"] = remarks["hub"] = remarks["train"]

    def line(key: str, value: object, indent: str = "  ") -> str:
        text = f"{indent}{key}: {_plain(value)}"
        return f"{text}  # {remarks[key]}" if key in remarks else text

    held_out = count >= FEW
    defaults = TrainSettings()
    epochs = 1 if count > 10_000 else 3
    evaluation = [f"# {remarks['eval']}"]
    if held_out:
        steps, _ = step_count(TrainSettings(epochs=epochs), round(0.95 * count))
        evaluation = ["eval:", line("every", max(1, steps // 10))]
    text = "\n".join(
        [
            "# Written by `dude init`. Check it with `dude validate`, see what is trained with `dude train --dry-run`;",
            "# `dude keys` lists every key.",
            line("model", model, ""),
            line("method", method, ""),
            "data:",
            *(line(key, value) for key, value in section.items()),
            *([line("validation", 0.05)] if held_out else []),
            "train:",
            line("epochs", epochs),
            line("batch_size", defaults.batch_size),
            line("learning_rate", METHODS[method].learning_rate),
            line("schedule", defaults.schedule),
            line("warmup", defaults.warmup),
            line("max_length", lengths.limit),
            line("packing", False),
            line("seed", defaults.seed),
            *evaluation,
            line("output", output, ""),
            "",
        ]
    )
    parse_run(load_yaml(text, "dude init"), "dude init")
    return text


def _plain(value: object) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, float) and value < 1e-3:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    text = dump_yaml({"x": value}).removeprefix("x: ").strip()
    return text.removesuffix("...").strip()


def _source(data: str) -> dict[str, object]:
    """Return the `data:` section of a file, a named data set or a hub data set."""
    if data in SETS:
        return {"name": data}
    if not Path(data).suffix.lower().startswith((*SUFFIXES, ".gz")) and not Path(data).exists():
        if data.count("/") == 1:
            return {"hub": data}
        raise DudeError(
            f"{data}: neither a file ({', '.join(SUFFIXES)}), a named data set (`dude keys data`), nor owner/name."
        )
    row = read_rows(data).rows[0]
    section: dict[str, object] = {"train": data}
    prompt = next((name for name in QUESTIONS if name in row), None)
    completion = next((name for name in ANSWERS if name in row and name != prompt), None)
    known = {"prompt", "completion", "messages", "conversations", "text"} & row.keys()
    if not known and prompt and completion and not {"instruction", "output"} <= row.keys():
        section |= {"prompt": f"{{{prompt}}}", "completion": f"{{{completion}}}"}
    return section


def _lengths(records: Columns, base: Base) -> _Lengths:
    train = TrainSettings()
    some = records.select(range(min(SAMPLE, len(records))))
    longest = tokenize(some, base.tokenizer, train, READ).longest
    window = getattr(base.config.get_text_config(), "max_position_embeddings", None) or READ
    limit = length_limit(train, base.config)
    while limit < min(longest, window, 4096):
        limit = min(2 * limit, window)
    return _Lengths(longest, limit)
