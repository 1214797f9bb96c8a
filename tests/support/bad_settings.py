"""Bad inputs, first part: YAML files, the keys of every section, overrides and command lines."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from bad_inputs import VALIDATE, Case, config

HUGE = 10**30
NAN, INF = math.nan, math.inf
NESTED = {"a": {"b": [1, {"c": None}]}}
LONG = "x" * 200_000

# What is wrong for a key of each kind.
WRONG: dict[str, list[Any]] = {
    "count": ["many", "", -1, 0, 2.5, HUGE, NAN, INF, -INF, [], [1], {}, NESTED, True, "5", LONG],
    "count from 0": ["many", "", -1, 2.5, HUGE, NAN, INF, [], {}, NESTED, True, "5"],
    "integer": ["many", "", 2.5, HUGE, -HUGE, NAN, INF, [], {}, NESTED, True, "5"],
    "positive": ["much", "", -1.0, 0, NAN, INF, -INF, [], [0.1], {}, NESTED, True, "0.5", 10**400],
    "from 0": ["much", "", -1.0, NAN, INF, -INF, [], {}, NESTED, True, "0.5"],
    "number": ["much", "", NAN, INF, -INF, [], {}, NESTED, True, "0.5", 10**400],
    "share": ["much", "", -0.5, 1.0, 7, NAN, INF, [], {}, NESTED, True, "0.5"],
    "flag": ["yes please", "", 1, 0, 2, NAN, [], {}, NESTED, "true"],
    "choice": ["nonsense", "", 0, NAN, [], {}, NESTED, True, LONG],
    "name": ["", "  ", "\0", "a\0b", 0, 1.5, NAN, [], ["a"], {}, NESTED, True, LONG],
    "names": ["", "\0", 0, NAN, [], [""], [0], [None], [["a"]], {}, NESTED, True, ["\0"], [LONG], ["nowhere"]],
    "whole numbers": ["many", "", -3, 99, HUGE, NAN, [], [-3], ["a"], [True], [HUGE], [[0]], {}, NESTED],
    "ranks": ["many", "", 0, NAN, [], ["q_proj"], {"q_proj": 0}, {"q_proj": -1}, {"q_proj": "4"}, {"q_proj": NAN},
              {"q_proj": HUGE}, {"q_proj": True}, {"q_proj": None}, {"q_proj": [1]}, {0: 4}, {"": 4}, {"(": 4},
              {"nowhere": 4}, {"[": 4}, {"(a+)+$": 4}, {"\0": 4}, NESTED, {LONG: 4}],
    "expression": ["(", "[a", "*", "(a+)+$", "(.*)*x", "(?P<n>a)(?P<n>b)", "a{99999999999}", "\\", "(?", "\0",
                   "((((((((((a*)*)*)*)*)*)*)*)*)*)b", LONG, "(" * 5000, "nowhere", "(?<=a*)b"],
}  # fmt: skip

KEYS: dict[str, dict[str, str]] = {
    "model": {"name": "name", "dtype": "choice", "revision": "name", "trust_remote_code": "flag",
              "chat_template": "name"},
    "data": {
        "name": "name", "train": "names", "hub": "name", "root": "name", "subset": "name", "split": "name",
        "protocol": "choice", "calculator_marks": "choice", "prompt": "name", "completion": "name",
        "validation": "share", "limit": "count", "sample": "count", "seed": "count from 0",
        "format": "choice", "column": "name", "chat_template": "flag",
    },
    "train": {
        "steps": "count", "epochs": "positive", "batch_size": "count", "gradient_accumulation": "count",
        "learning_rate": "positive", "schedule": "choice", "warmup": "from 0", "weight_decay": "from 0",
        "adam_beta1": "share", "adam_beta2": "share", "adam_epsilon": "positive", "max_grad_norm": "positive",
        "max_length": "count", "overlong": "choice", "completion_only_loss": "flag", "group_by_length": "flag",
        "packing": "flag",
        "gradient_checkpointing": "flag", "seed": "count from 0", "data_seed": "count from 0", "save_every": "count",
        "keep_checkpoints": "count", "log_every": "count", "device": "choice",
    },
    "eval": {
        "suite": "name", "tasks": "names", "every": "count", "limit": "count", "batch_size": "count",
        "num_fewshot": "count from 0", "max_new_tokens": "count", "protocol": "choice", "root": "name", "split": "name",
        "seed": "count from 0",
    },
}  # fmt: skip

_TARGETS = {"target_modules": "names", "layers_to_transform": "whole numbers", "modules_to_save": "names"}
_RANKS = {"r": "count", "rank_pattern": "ranks"}
METHOD_KEYS: dict[str, dict[str, str]] = {
    "dude": _TARGETS | _RANKS | {
        "lora_alpha": "positive", "lora_dropout": "share", "use_rslora": "flag", "alpha_pattern": "ranks",
        "magnitude_axis": "choice", "detach_norm": "flag", "svd": "choice", "svd_seed": "integer",
    },
    "lora": _RANKS | {"lora_alpha": "positive", "lora_dropout": "share", "target_modules": "expression"},
    "vera": {"r": "count", "vera_dropout": "share", "d_initial": "number", "projection_prng_key": "count from 0",
             "target_modules": "expression"},
    "oft": {"oft_block_size": "count", "use_cayley_neumann": "flag", "module_dropout": "share",
            "target_modules": "expression"},
    "krona": {"r": "count", "module_dropout": "share", "decompose_factor": "integer"},
    "delora": _RANKS | {"delora_lambda": "positive", "module_dropout": "share", "modules_to_save": "names"},
    "lora_xs": _RANKS | {"lora_alpha": "positive", "init_std": "from 0", "svd": "choice", "svd_seed": "integer"},
    "svft": {"off_diag": "count from 0", "target_modules": "expression"},
    "bitfit": _TARGETS,
    "adapter": _TARGETS | {"r": "count"},
    "full": {"name": "name"},
}  # fmt: skip

COMPARISON: dict[str, str] = {
    "run": "ranks", "methods": "names", "shared": "shared", "ranks": "whole numbers", "seeds": "seeds",
    "learning_rates": "rates", "jobs": "count", "threads": "count", "output": "name", "search": "search",
}  # fmt: skip
WRONG_IN_COMPARISON: dict[str, list[Any]] = {
    "shared": ["x", "", 0, [], {"nowhere": 1}, {"r": "x"}, {"r": -1}, {"r": NAN}, {0: 1}, NESTED],
    "seeds": ["x", "", 0, [], [-1], [2**40], [HUGE], [True], [NAN], [1, 1], [[1]], {}],
    "rates": ["x", "", 0, [], [0], [-1e-3], [NAN], [INF], ["0.001"], [True], [1e-3, 1e-3], [[1e-3]], {}, [10**400]],
    "search": ["x", 0, [], {"seed": -1}, {"seed": True}, {"steps": 0}, {"eval": 3}, {"eval": {"limit": NAN}},
               {"eval": {"split": "test"}}, {"nowhere": 1}, {"eval": {"suite": "nowhere"}}],
}  # fmt: skip

# An odd value that a key may well take, and why.
FINE = {
    ("data", "name", "0"),
    ("method", "target_modules", "many"),
}

BOMB = "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}' if k else 'lol'] * 9)}]\n" for k in range(10)
)  # a 'billion laughs'
HEAD = yaml.safe_dump(config())

YAML: dict[str, str | bytes] = {
    "empty": "",
    "only-comment": "# nothing\n",
    "binary": bytes(range(256)) * 4,
    "nul": HEAD.replace("base", "ba\0se"),
    "utf16": HEAD.encode("utf-16"),
    "utf16-no-mark": HEAD.encode("utf-16-le"),
    "latin1": "model: café\n".encode("latin-1"),
    "tabs": HEAD + "eval:\n\tsuite: gsm8k\n",
    "duplicate-key": HEAD + "output: other\n",
    "duplicate-nested-key": HEAD + "eval: {suite: mini_gsm, suite: mini_gsm}\n",
    "list": "- a\n- b\n",
    "text": "words\n",
    "number": "3\n",
    "deep-flow": "a: " + "[" * 5000,
    "deep-flow-closed": "a: " + "[" * 3000 + "]" * 3000,
    "deep-block": "".join(" " * k + f"k{k}:\n" for k in range(800)),
    "deep-mapping": "a: " + "{a: " * 3000 + "1" + "}" * 3000,
    "deep-but-readable": HEAD + "eval: " + "[" * 200 + "]" * 200,
    "bomb": BOMB + HEAD,
    "bomb-in-key": HEAD + BOMB,
    "many-aliases": HEAD + "eval: [" + "&a x, " + ", ".join(["*a"] * 20_000) + "]\n",
    "merge-bomb": "a0: &a0 {k: 1}\n" + "".join(
        f"a{k}: &a{k} {{<<: [{', '.join([f'*a{k - 1}'] * 9)}], k{k}: 1}}\n" for k in range(1, 9)) + HEAD,
    "recursive-list": HEAD + "eval: &a [*a]\n",
    "recursive-mapping": HEAD + "eval: &a {suite: *a}\n",
    "unknown-alias": HEAD + "eval: *nowhere\n",
    "merge-number": HEAD + "eval: {<<: 3}\n",
    "merge-list": HEAD + "eval: {<<: [1, 2]}\n",
    "merge-self": HEAD + "eval: &e {<<: *e}\n",
    "python-tag": HEAD + "eval: !!python/object/apply:os.system ['true']\n",
    "python-name": HEAD + "eval: !!python/name:os.system\n",
    "unknown-tag": HEAD + "eval: !x {suite: gsm8k}\n",
    "binary-tag": HEAD + "eval: {suite: !!binary aGVsbG8=}\n",
    "binary-tag-broken": HEAD + "eval: {suite: !!binary 'a'}\n",
    "set-tag": HEAD + "eval: !!set {a, b}\n",
    "omap-tag": HEAD + "eval: !!omap [a: 1]\n",
    "pairs-tag": HEAD + "eval: !!pairs [a: 1]\n",
    "timestamp-tag": HEAD + "eval: !!timestamp 2024-01-01\n",
    "timestamp-tag-broken": HEAD + "eval: !!timestamp nowhen\n",
    "int-tag": HEAD + "eval: !!int x\n",
    "float-tag": HEAD + "eval: !!float x\n",
    "bool-tag": HEAD + "eval: !!bool x\n",
    "date-month-13": HEAD + "eval: 2024-13-45\n",
    "date-year-0": HEAD + "eval: 0000-01-01\n",
    "timestamp-hour-99": HEAD + "eval: 2024-01-01 99:99:99\n",
    "date-for-number": yaml.safe_dump(config(train={"steps": 3})).replace("3", "2024-01-01"),
    "date-key": HEAD + "2024-01-01: x\n",
    "unhashable-key": HEAD + "? [a]\n: b\n",
    "unhashable-key-flow": HEAD + "eval: {{a: 1}: 2}\n",
    "number-key": HEAD + "1: x\n",
    "bool-key": HEAD + "on: x\n",
    "null-key": HEAD + "~: x\n",
    "nan-key": HEAD + ".nan: x\n",
    "nested-number-key": yaml.safe_dump(config(method={"name": "lora", "rank_pattern": {7: 4}})),
    "huge-integer": HEAD.replace("steps: 2", "steps: " + "9" * 5000),
    "huge-hex": HEAD.replace("steps: 2", "steps: 0x" + "f" * 5000),
    "octal-with-9": HEAD.replace("steps: 2", "steps: 0o9"),
    "sexagesimal": HEAD.replace("steps: 2", "steps: 1:30"),
    "sexagesimal-float": HEAD.replace("steps: 2", "learning_rate: 190:20:30.15"),
    "overflow": HEAD.replace("steps: 2", "learning_rate: 1e999"),
    "negative-overflow": HEAD.replace("steps: 2", "learning_rate: -1e999"),
    "inf": HEAD.replace("steps: 2", "learning_rate: .inf"),
    "nan": HEAD.replace("steps: 2", "learning_rate: .nan"),
    "underflow": HEAD.replace("steps: 2", "learning_rate: 1e-999"),
    "underscores": HEAD.replace("steps: 2", "steps: _"),
    "value-sign": HEAD.replace("steps: 2", "steps: ="),
    "two-documents": HEAD + "---\n" + HEAD,
    "two-documents-empty": HEAD + "---\n",
    "end-then-more": HEAD + "...\nmore\n",
    "directive": "%YAML 9.9\n---\n" + HEAD,
    "broken-directive": "%YAML x\n---\n" + HEAD,
    "surrogate": HEAD + 'eval: {suite: "\\ud800"}\n',
    "surrogate-output": HEAD.replace("output: run", 'output: "\\ud800"'),
    "nul-escape": HEAD.replace("output: run", 'output: "a\\0b"'),
    "bad-escape": HEAD + 'eval: "\\q"\n',
    "unclosed-string": HEAD + 'eval: "abc\n',
    "unclosed-list": HEAD + "eval: [a\n",
    "wrong-indent": HEAD + "  eval: 3\n",
    "colon-only": ":\n",
    "question-only": "?\n",
    "control-character": HEAD + "eval: a\x07b\n",
    "large": HEAD + "#" + "x" * 3_000_000 + "\n",
    "large-list": HEAD + "eval: [" + "1, " * 400_000 + "]\n",
    "long-string": HEAD + f"eval: {LONG}\n",
    "long-key": HEAD + f"{LONG[:900]}: 1\n",
    "many-keys": HEAD + "".join(f"k{k}: 1\n" for k in range(3000)),
}  # fmt: skip
YAML_FINE = {
    "byte-order-mark": b"\xef\xbb\xbf" + HEAD.encode(),
    "crlf": HEAD.replace("\n", "\r\n"),
    "date-output": HEAD.replace("output: run", "output: 2024-01-01"),
    "document-marks": "---\n" + HEAD + "...\n",
    "merge-key": HEAD.replace("train:", "train: &t") + "eval: {<<: {suite: mini_gsm}, limit: 2}\n",
}

OVERRIDES: list[str] = [
    "train.steps=", "=3", ".=3", "..=3", "a..b=1", ".train.steps=1", "train.=1", "train", "", " ", "=",
    "train.steps==", "train.steps=[", "train.steps={", "train.steps=:", "train.steps=*a", "train.steps=&a",
    "train.steps=!!python/name:os.system", "train.steps=!x", "train.steps=2024-01-01", "train.steps=2024-99-99",
    "train.steps=1e999", "train.steps=.nan", "train.steps=.inf", "train.steps=" + "9" * 5000,
    "train.steps=" + "[" * 3000, "train.steps=&a [*a]", "train.steps={[a]: 1}", "train.steps={a: 1, a: 2}",
    "train.steps=\0", 'train.steps="\\ud800"', "train.steps=!!binary aGVsbG8=", "train.steps=true", "train.steps='5'",
    "train=3", "train=[]", "train=x", "model=", "model=[]", "model.name=[]", "model.name.x=1", "method=",
    "method=[lora]",
    "method={}", "method.name=", "method.name=[]", "method.name={}", "output=", "output=[]", "output.x=1", "data=",
    "data.train=[]", "eval=[]", "eval={}", "größe=1", "\u202e=1", "train.größe=1", ".".join(["a"] * 5000) + "=1",
    "a" * 100_000 + "=1", "train.steps=" + "x" * 1_000_000, "method.r=" + "1" * 4000, "train.steps=1\n2: [",
    "train.steps=--- 1\n--- 2", "method.target_modules=" + "(" * 300, "train.learning_rate=1_0:0", "train.steps=0o17",
    "data.train=\udcff.jsonl", "output=\udcff", "model.name=\udcff",
]  # fmt: skip

COMMANDS: list[tuple[str, ...]] = [
    ("nowhere",), ("--nowhere",), ("train",), ("train", "--nowhere", "run.yaml"), ("train", "nowhere.yaml"),
    ("train", "run.yaml", "--resume"), ("train", "run.yaml", "--resume", "nowhere"),
    ("train", "run.yaml", "--resume", ""), ("train", "run.yaml", "--resume", "\0"), ("train", ""), ("train", "\0"),
    ("train", "x" * 5000), ("train", "."), ("train", "sums.jsonl"), ("train", "base/model.safetensors"),
    ("train", "base/tokenizer.json"), ("train", "\udcff.yaml"), ("train", "/dev/null"), ("train", "run.yaml/x"),
    ("validate",), ("validate", "nowhere.yaml"), ("validate", "run.yaml", "nowhere"), ("validate", "\udcff"),
    ("eval",), ("eval", "base"), ("eval", "base", "--suite"), ("eval", "base", "--suite", ""),
    ("eval", "base", "--suite", "nowhere"), ("eval", "base", "--suite", "\udcff"),
    ("eval", "base", "--suite", "x" * 100_000), ("eval", "base", "--suite", "lm_eval:"),
     ("eval", "base", "--suite", "lm_eval:\0"),
    ("eval", "nowhere/x/y", "--suite", "mini_gsm"), ("eval", "", "--suite", "mini_gsm"),
    ("eval", "\0", "--suite", "mini_gsm"), ("eval", "\udcff", "--suite", "mini_gsm"),
    ("eval", "x" * 5000, "--suite", "mini_gsm"),
    *(("eval", "base", "--suite", "mini_gsm", *more) for more in (
        ("--limit", "0"), ("--limit", "-1"), ("--limit", "x"), ("--limit", "1.5"), ("--limit", ""),
        ("--limit", "9" * 5000), ("--batch-size", "0"), ("--batch-size", "x"), ("--shots", "-1"), ("--shots", "x"),
        ("--limit", "1", "--shots", str(HUGE)), ("--limit", "1", "--shots", "99999"), ("--dtype", "nowhere"),
        ("--dtype", ""), ("--dtype", "nn"), ("--dtype", "int8"), ("--device", "nowhere"), ("--device", ""),
        ("--device", "meta"), ("--device", "cuda:99"), ("--output", ""), ("--output", "\0"),
        ("--output", "sums.jsonl"), ("--output", "sums.jsonl/x"), ("--output", "x" * 5000), ("--root", "nowhere"),
        ("--root", ""),
    )),
    ("eval", "finished", "--suite", "mini_gsm", "--limit", "1", "--dtype", "nowhere", "-o", "out"),
    ("eval", "finished", "--suite", "mini_gsm", "--limit", "1", "--device", "nowhere", "-o", "out"),
    ("merge",), ("merge", "finished"), ("merge", "nowhere", "-o", "out"), ("merge", "base", "-o", "out"),
    ("merge", "finished", "-o", ""), ("merge", "finished", "-o", "\0"), ("merge", "finished", "-o", "sums.jsonl"),
    ("merge", "finished", "-o", "sums.jsonl/x"), ("merge", "finished", "-o", "base"),
    ("merge", "finished", "-o", "out", "--dtype", "nowhere"), ("merge", "finished", "-o", "out", "--dtype", "int8"),
    ("merge", "finished", "-o", "out", "--dtype", ""), ("merge", "finished", "-o", "out", "--dtype", "nn"),
    ("merge", "finished", "-o", "x" * 5000), ("merge", "sums.jsonl", "-o", "out"), ("merge", "\0", "-o", "out"),
    ("merge", "", "-o", "out"),
    ("compare",), ("compare", "nowhere"), ("compare", "nowhere.yaml"), ("compare", "run.yaml"), ("compare", ""),
    ("compare", "base"), ("compare", "finished", "nowhere"), ("compare", "sums.jsonl"), ("compare", "\0"),
    ("compare", "run.yaml", "-o", "out"), ("compare", "finished", "--dry-run"), ("compare", "finished", "-o", "\0"),
    ("compare", "finished", "-o", "sums.jsonl"), ("compare", "finished", "-o", "sums.jsonl/x"),
    ("compare", "x" * 5000), ("compare", "finished", "finished"),
    ("report",), ("report", "finished"), ("report", "nowhere", "-o", "out"), ("report", "base", "-o", "out"),
    ("report", "finished", "-o", "sums.jsonl"), ("report", "finished", "-o", "sums.jsonl/x"),
    ("report", "finished", "-o", "\0"), ("report", "\0", "-o", "out"), ("report", "", "-o", "out"),
    ("report", "x" * 5000, "-o", "out"), ("report", "sums.jsonl", "-o", "out"),
    ("reproduce",), ("reproduce", "nowhere"), ("reproduce", "table1", "--scale", "nowhere"),
    ("reproduce", "table1", "--row", "nowhere", "--dry-run"), ("reproduce", "table1", "run.train.steps=", "--dry-run"),
    ("reproduce", "table1", "nowhere=1", "--dry-run"), ("reproduce", "table1", "=", "--dry-run"),
    ("reproduce", "table1", "run=3", "--dry-run"), ("reproduce", "table1", "methods=3", "--dry-run"),
    ("reproduce", "table1", "run.train.steps=" + "9" * 5000, "--dry-run"),
    ("reproduce", "table1", "run.train.steps=.nan", "--dry-run"), ("reproduce", "table1", "ranks=[0]", "--dry-run"),
    ("reproduce", "table1", "-o", "sums.jsonl", "--dry-run"), ("reproduce", "table1", "-o", "\0", "--dry-run"),
    ("reproduce", "\udcff"), ("reproduce", "table1", "-o", "sums.jsonl/x", "--dry-run"),
    ("bench", "nowhere"), ("bench", "--device", "nowhere"), ("bench", "--threads", "0"), ("bench", "--threads", "x"),
    ("bench", "layer", "--tiny", "-o", "sums.jsonl"), ("bench", "layer", "--tiny", "-o", "sums.jsonl/x"),
    ("bench", "layer", "--tiny", "-o", "\0"), ("env", "more"), ("methods", "more"), ("methods", "--nowhere"),
]  # fmt: skip


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _folder(path: Path) -> None:
    path.mkdir()


def _lost(path: Path) -> None:
    path.symlink_to("nowhere")


SPECIAL_FILES = {"fifo": _fifo, "symlink-loop": _loop, "folder": _folder, "symlink-to-nothing": _lost}


def _sections() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Name, key, kind, and the section that the key is put into, for every key of a run's config."""
    for section, keys in KEYS.items():
        for key, kind in keys.items():
            base: dict[str, Any] = dict(config()[section]) if isinstance(config().get(section), dict) else {}
            if section == "model":
                base = {"name": "base"}
            if section == "eval":
                base = {} if key in ("suite", "tasks") else {"suite": "mini_gsm"}
            if key in ("name", "hub") or (section == "data" and key in ("root", "protocol", "calculator_marks")):
                base = {} if section == "data" else base
                if section == "data" and key not in ("name", "hub"):
                    base = {"name": "gsm8k"}
            if key in ("subset", "split") and section == "data":
                base = {"hub": "nobody/nothing"}
            if key == "epochs":
                base.pop("steps")
            yield section, key, kind, base
    for method, keys in METHOD_KEYS.items():
        for key, kind in keys.items():
            yield f"method-{method}", key, kind, {"name": method, "target_modules": ["q_proj"]}


def _settings() -> Iterator[Case]:
    for section, key, kind, base in _sections():
        for number, value in enumerate(WRONG[kind]):
            if _is_fine(section, key, value):
                continue
            base = dict(base)
            if section == "method-full":
                base.pop("target_modules", None)
            raw = config(**{section.partition("-")[0]: {**base, key: value}})
            yield Case(f"settings/{section}.{key}-{number}-{_label(value)}", files={"run.yaml": yaml.safe_dump(raw)})
    for section in ("model", "method", "data", "train", "eval", "output"):
        for number, value in enumerate([None, [], "", 0, NAN, [None], True, [[]], {"x": 1}, LONG, NESTED]):
            if (section, value) in (("eval", None),):
                continue
            raw = config(**{section: value})
            yield Case(f"settings/{section}-{number}-{_label(value)}", files={"run.yaml": yaml.safe_dump(raw)})
    comparison = {
        "run": {"model": "base", "data": {"train": "sums.jsonl"}, "train": {"steps": 2, "device": "cpu"}},
        "methods": ["lora"], "ranks": [2], "learning_rates": [1e-3], "output": "cmp",
    }  # fmt: skip
    for key, kind in COMPARISON.items():
        for number, value in enumerate((WRONG_IN_COMPARISON | WRONG)[kind]):
            if key == "ranks" and value == [HUGE]:
                continue
            text = yaml.safe_dump({**comparison, key: value})
            yield Case(
                f"settings/compare.{key}-{number}-{_label(value)}",
                argv=("compare", "cmp.yaml", "--dry-run"),
                files={"cmp.yaml": text},
            )


def _is_fine(section: str, key: str, value: Any) -> bool:
    """Values of a kind's list that are right for this key."""
    if key == "decompose_factor":
        return False
    if key == "alpha_pattern":  # numbers, not ranks
        return value == {"q_proj": HUGE}
    if key in ("max_length", "oft_block_size"):
        return False
    return False


def _label(value: Any) -> str:
    return "".join(sign if sign.isalnum() or sign in "-." else "_" for sign in repr(value))[:24]


def cases() -> list[Case]:
    """All of this part."""
    made = [Case(f"yaml/{name}", files={"run.yaml": text}) for name, text in YAML.items()]
    made += [Case(f"yaml/{name}", files={"run.yaml": text}, accepted=True) for name, text in YAML_FINE.items()]
    made += [Case(f"yaml/{name}", ("validate", "odd.yaml"), {"odd.yaml": make}) for name, make in SPECIAL_FILES.items()]
    made += list(_settings())
    made += [Case(f"override/{k:02}-{_label(text)}", (*VALIDATE, text)) for k, text in enumerate(OVERRIDES)]
    # lm-evaluation-harness reads some ten thousand files of its own to know its tasks.
    made.append(Case("slow/task", ("eval", "base", "--suite", "lm_eval:nowhere"), seconds=300))
    made += [Case(f"command/{k:03}-{words[0] if words else ''}", words) for k, words in enumerate(COMMANDS)]
    return made
