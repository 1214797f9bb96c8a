"""Bad inputs, second part: data files, model folders, run folders."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from bad_inputs import SHARED, Case, config
from bad_settings import HUGE, SPECIAL_FILES

ROW = '{"prompt": "a", "completion": " b"}\n'
DEEP = "[" * 5000 + "]" * 5000


def _parquet(columns: list[str], values: list[list[Any]], path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table([pyarrow.array(v) for v in values], names=columns), path)


def _dates(path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    times = pyarrow.array([2**62], type=pyarrow.timestamp("us"))
    pyarrow.parquet.write_table(pyarrow.table({"prompt": times, "completion": ["b"]}), path)


def _torn_parquet(path: Path) -> None:
    _parquet(["prompt", "completion"], [["a"], ["b"]], path)
    path.write_bytes(path.read_bytes()[:-30])


def _flipped_parquet(path: Path) -> None:
    _parquet(["prompt", "completion"], [["a" * 500], ["b"]], path)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 40] = b"\xff" * 40
    path.write_bytes(bytes(raw))


# Files to train on; each is wrong.
DATA: dict[str, tuple[str, bytes | str | Callable[[Path], None]]] = {
    "empty": ("d.jsonl", ""),
    "blank-lines": ("d.jsonl", "\n\n \n"),
    "nan": ("d.jsonl", '{"prompt": NaN, "completion": "b"}\n'),
    "infinity": ("d.jsonl", '{"prompt": "a", "completion": Infinity}\n'),
    "nan-elsewhere": ("d.jsonl", ROW + '{"prompt": "a", "completion": "b", "weight": NaN}\n'),
    "number-overflow": ("d.jsonl", '{"prompt": 1e999, "completion": "b"}\n'),
    "lone-surrogate": ("d.jsonl", '{"prompt": "\\ud800", "completion": "b"}\n'),
    "lone-surrogate-key": ("d.jsonl", '{"\\ud800": "a", "completion": "b"}\n'),
    "10-mb-of-brackets": ("d.jsonl", "[" * 10_000_000),
    "10-mb-not-json": ("d.jsonl", "x" * 10_000_000),
    "10-mb-number": ("d.jsonl", '{"prompt": ' + "9" * 10_000_000 + "}"),
    "10-mb-list": ("d.jsonl", '{"prompt": [' + "1, " * 3_000_000 + '1], "completion": "b"}'),
    "10-mb-key": ("d.jsonl", '{"' + "k" * 10_000_000 + '": "a"}'),
    "10-mb-nested-value": ("d.jsonl", '{"prompt": {"a": "' + "x" * 10_000_000 + '"}, "completion": "b"}'),
    "100-mb-line": ("d.jsonl", lambda p: p.write_bytes(b'{"prompt": "' + b"x" * 100_000_000)),
    "gz-bomb": ("d.jsonl.gz", lambda p: p.write_bytes(gzip.compress(b"x" * 400_000_000, 1))),
    "deep": ("d.jsonl", DEEP),
    "deep-value": ("d.jsonl", '{"prompt": ' + DEEP + "}"),
    "null-row": ("d.jsonl", "null\n"),
    "null-prompt": ("d.jsonl", '{"prompt": null, "completion": "b"}\n'),
    "null-completion": ("d.jsonl", ROW + '{"prompt": "a", "completion": null}\n'),
    "list-row": ("d.jsonl", "[1, 2]\n"),
    "text-row": ("d.jsonl", '"words"\n'),
    "number-row": ("d.jsonl", "3\n"),
    "number-column": ("d.jsonl", '{"prompt": 3, "completion": "b"}\n'),
    "list-column": ("d.jsonl", '{"prompt": ["a"], "completion": "b"}\n'),
    "object-column": ("d.jsonl", '{"prompt": {"a": 1}, "completion": "b"}\n'),
    "bool-column": ("d.jsonl", '{"prompt": true, "completion": "b"}\n'),
    "mixed-columns": ("d.jsonl", ROW + '{"question": "a", "answer": "b"}\n'),
    "no-column": ("d.jsonl", "{}\n"),
    "many-columns": ("d.jsonl", json.dumps({f"c{k}": k for k in range(20_000)})),
    "empty-prompt": ("d.jsonl", '{"prompt": "", "completion": "b"}\n'),
    "empty-completion": ("d.jsonl", '{"prompt": "a", "completion": " "}\n'),
    "duplicate-key": ("d.jsonl", '{"prompt": "a", "completion": "b", "completion": "c"}\n'),
    "trailing-comma": ("d.jsonl", '{"prompt": "a", "completion": "b",}\n'),
    "half-a-line": ("d.jsonl", ROW + ROW[:20]),
    "nul-bytes": ("d.jsonl", ROW.encode() + b"\0\0\0\0\n"),
    "nul-in-text": ("d.jsonl", '{"prompt": "a\\u0000b", "completion": "b"}\n'),
    "utf16": ("d.jsonl", ROW.encode("utf-16")),
    "utf16-no-mark": ("d.jsonl", ROW.encode("utf-16-le")),
    "latin1": ("d.jsonl", '{"prompt": "é", "completion": "b"}\n'.encode("latin-1")),
    "huge-integer": ("d.jsonl", '{"prompt": ' + "9" * 5000 + ', "completion": "b"}\n'),
    "json-object": ("d.json", '{"prompt": "a"}'),
    "json-lines": ("d.json", ROW + ROW),
    "json-number": ("d.json", "3"),
    "json-empty-list": ("d.json", "[]"),
    "json-list-of-null": ("d.json", "[null]"),
    "json-deep": ("d.json", DEEP),
    "json-huge-integer": ("d.json", "[" + "9" * 5000 + "]"),
    "json-nan": ("d.json", '[{"prompt": "a", "completion": "b", "weight": NaN}]'),
    "json-duplicate": ("d.json", '[{"prompt": "a", "prompt": "c", "completion": "b"}]'),
    "json-torn": ("d.json", '[{"prompt": "a"'),
    "csv-header-only": ("d.csv", "prompt,completion\n"),
    "csv-empty": ("d.csv", ""),
    "csv-no-column": ("d.csv", "a,b\n1,2\n"),
    "csv-ragged": ("d.csv", "prompt,completion\na\n"),
    "csv-ragged-long": ("d.csv", "prompt,completion\na,b,c\n"),
    "csv-duplicate-column": ("d.csv", "prompt,prompt,completion\na,b,c\n"),
    "csv-long-duplicates": ("d.csv", ",".join(["c"] * 20_000) + "\n"),
    "csv-nul": ("d.csv", "prompt,completion\na\0,b\n"),
    "csv-open-quote": ("d.csv", 'prompt,completion\n"a,b\n'),
    "csv-stray-quote": ("d.csv", 'prompt,completion\n"a"x,b\n'),
    "csv-10-mb-header": ("d.csv", "x" * 10_000_000 + "\n1\n"),
    "csv-empty-cell": ("d.csv", "prompt,completion\na,\n"),
    "gz-torn": ("d.jsonl.gz", gzip.compress(ROW.encode() * 1000)[:-20]),
    "gz-not": ("d.jsonl.gz", ROW),
    "gz-empty": ("d.jsonl.gz", b""),
    "gz-flipped": ("d.jsonl.gz", gzip.compress(os.urandom(2000))[:20] + b"\xff" * 200),
    "gz-of-binary": ("d.jsonl.gz", gzip.compress(bytes(range(256)))),
    "parquet-garbage": ("d.parquet", b"PAR1" + bytes(range(256)) + b"PAR1"),
    "parquet-empty": ("d.parquet", b""),
    "parquet-torn": ("d.parquet", _torn_parquet),
    "parquet-flipped": ("d.parquet", _flipped_parquet),
    "parquet-no-rows": ("d.parquet", lambda p: _parquet(["prompt", "completion"], [[], []], p)),
    "parquet-duplicate": ("d.parquet", lambda p: _parquet(["prompt", "prompt"], [["a"], ["b"]], p)),
    "parquet-null": ("d.parquet", lambda p: _parquet(["prompt", "completion"], [[None], ["b"]], p)),
    "parquet-dates": ("d.parquet", _dates),
    "parquet-footer-lies": ("d.parquet", b"PAR1" + b"\0" * 40 + struct.pack("<I", 2**31 - 1) + b"PAR1"),
    "unknown-suffix": ("d.xyz", ROW),
    "no-suffix": ("d", ROW),
    "pickle": ("d.pkl", b"cos\nsystem\n(S'true'\ntR."),
    "parquet-gz": ("d.parquet.gz", b""),
    **{name: ("d.jsonl", make) for name, make in SPECIAL_FILES.items()},
}
DATA_FINE: dict[str, tuple[str, str]] = {
    "10-mb-prompt": ("d.jsonl", ROW + json.dumps({"prompt": "word " * 2_000_000, "completion": "b"})),
    "10-mb-word": ("d.jsonl", ROW + json.dumps({"prompt": "x" * 10_000_000, "completion": "b"})),
    "10-mb-cell": ("d.csv", 'prompt,completion\na,b\n"' + "x " * 5_000_000 + '",b\n'),
    "10-mb-unused": ("d.jsonl", '{"prompt": "a", "completion": "b", "unused": "' + "x" * 10_000_000 + '"}'),
    "byte-order-mark": ("d.jsonl", "\ufeff" + ROW),
}

TEMPLATES = ["{", "}", "{}", "{0}", "{prompt!r}", "{prompt:>9999999999}", "{prompt.x}", "{prompt[0]}", "{nowhere}",
             "{" * 5000, "{prompt", "text alone {}", "{{}}", "{weight}", "{list}", "{null}", "nowhere"]  # fmt: skip

# Records of named sets, which have fields and types of their own.
RECORDS: dict[str, list[tuple[str, str]]] = {
    "gsm8k/train.jsonl": [
        ("gsm8k", '{"question": 3, "answer": "#### 1"}'), ("gsm8k", '{"question": "a", "answer": null}'),
        ("gsm8k", '{"question": "a", "answer": ["b"]}'), ("gsm8k", '{"question": "a"}'), ("gsm8k", "{}"),
        ("gsm8k", '{"question": "", "answer": "#### 1"}'), ("gsm8k", '{"question": "a", "answer": ""}'),
        ("gsm8k", '{"question": "\\ud800", "answer": "#### 1"}'), ("gsm8k", '{"question": null, "answer": "#### 1"}'),
    ],
    "boolq/train.jsonl": [
        ("boolq", '{"passage": "p", "question": "q", "label": 7}'),
        ("boolq", '{"passage": "p", "question": "q", "label": NaN}'),
        ("boolq", '{"passage": null, "question": "q", "label": 1}'),
        ("boolq", '{"passage": {"a": 1}, "question": "q", "label": 1}'),
    ],
    "piqa/train.jsonl": [
        ("piqa", '{"goal": "g", "sol1": "a", "sol2": "b", "label": -1}'),
        ("piqa", '{"goal": "g", "sol1": "a", "sol2": "b", "label": 1e999}'),
        ("piqa", '{"goal": "g", "sol1": null, "sol2": "b", "label": 0}'),
        ("piqa", '{"goal": "g", "sol1": 3, "sol2": "b", "label": 0}'),
        ("piqa", '{"goal": "g", "sol1": "a", "sol2": "b", "label": null}'),
        ("piqa", '{"goal": "g", "sol1": "a", "sol2": "b", "label": 0.7}'),
        ("piqa", '{"goal": "g", "sol1": "a", "sol2": "b", "label": []}'),
    ],
    "arc_easy/ARC-Easy-Train.jsonl": [
        ("arc_easy", '{"question": {"stem": "s", "choices": []}, "answerKey": "A"}'),
        ("arc_easy", '{"question": {"stem": "s", "choices": null}, "answerKey": "A"}'),
        ("arc_easy", '{"question": {"stem": 3, "choices": [{"label": "A", "text": "x"}]}, "answerKey": "A"}'),
        ("arc_easy", '{"question": {"stem": "s", "choices": [{"label": "A", "text": 3}]}, "answerKey": "A"}'),
        ("arc_easy", '{"question": {"stem": "s", "choices": [{"label": 1, "text": "x"}]}, "answerKey": 1}'),
        ("arc_easy", '{"question": {"stem": "s", "choices": [{"label": 1, "text": "x"}]}, "answerKey": "1"}'),
        ("arc_easy", '{"question": "s", "choices": {"label": "A", "text": "x"}, "answerKey": "A"}'),
        ("arc_easy", '{"question": "s", "choices": {"label": ["A"], "text": []}, "answerKey": "A"}'),
    ],
    "hellaswag/hellaswag_train.jsonl": [
        ("hellaswag", '{"activity_label": "a", "ctx": "c", "endings": "abcd", "label": 0}'),
        ("hellaswag", '{"activity_label": "a", "ctx": "c", "endings": [1, 2], "label": 0}'),
        ("hellaswag", '{"activity_label": "a", "ctx_a": 1, "ctx_b": 2, "endings": ["x", "y"], "label": 0}'),
    ],
    "winogrande/train_xl.jsonl": [
        ("winogrande", '{"sentence": "no blank", "option1": "a", "option2": "b", "answer": "1"}'),
        ("winogrande", '{"sentence": "a _ b", "option1": "a", "option2": "b", "answer": ""}'),
        ("winogrande", '{"sentence": ["_"], "option1": "a", "option2": "b", "answer": "1"}'),
        ("winogrande", '{"sentence": "a _ b", "option1": null, "option2": "b", "answer": "1"}'),
    ],
    "mmlu/auxiliary_train/x.csv": [("mmlu", "a,b\n"), ("mmlu", ""), ("mmlu", "q,a,b,c,d,E\n"), ("mmlu", '"q')],
    "gpqa/gpqa_main.csv": [
        ("gpqa_main", "Question\nq\n"),
        ("gpqa_main", "Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3\nq,a\n"),
    ],
}  # fmt: skip


def base_with(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """A maker of the tiny model's folder with a change."""

    def make(path: Path) -> None:
        shutil.copytree(path.parent / SHARED / "base", path)
        change(path)

    return make


def _json_with(file: str, **changes: Any) -> Callable[[Path], None]:
    """Change keys of a JSON file; None removes a key."""

    def change(folder: Path) -> None:
        raw = json.loads((folder / file).read_text())
        for key, value in changes.items():
            if value is None:
                raw.pop(key, None)
            else:
                raw[key] = value
        (folder / file).write_text(json.dumps(raw))

    return change


def _text(file: str, text: str | bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / file).write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)

    return change


def _special(file: str, make: Callable[[Path], None]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / file).unlink()
        make(folder / file)

    return change


def _index(weight_map: Any, **more: Any) -> Callable[[Path], None]:
    """An index in place of the single file, which becomes the shard `a.safetensors`."""

    def change(folder: Path) -> None:
        shutil.copy(folder / "model.safetensors", folder.parent / "outside.safetensors")
        (folder / "model.safetensors").rename(folder / "a.safetensors")
        raw = {"metadata": {}, "weight_map": weight_map, **more}
        (folder / "model.safetensors.index.json").write_text(json.dumps(raw))

    return change


def _weights(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(change(file.read_bytes()))

    return apply


def _header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Rewrite the header of the safetensors file."""

    def apply(raw: bytes) -> bytes:
        size = struct.unpack("<Q", raw[:8])[0]
        header = change(json.loads(raw[8 : 8 + size]))
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + raw[8 + size :]

    return _weights(apply)


def _first(header: dict[str, Any], **changes: Any) -> dict[str, Any]:
    name = next(name for name in header if name != "__metadata__")
    return {**header, name: {**header[name], **changes}}


LLAMA_NUMBERS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
                 "num_key_value_heads", "max_position_embeddings")  # fmt: skip
EVERY_NAME = "model.embed_tokens.weight"

MODELS: dict[str, Callable[[Path], None]] = {
    "config-missing": lambda p: (p / "config.json").unlink(),
    "config-empty": _text("config.json", ""),
    "config-broken": _text("config.json", "{"),
    "config-list": _text("config.json", "[]"),
    "config-null": _text("config.json", "null"),
    "config-number": _text("config.json", "3"),
    "config-object-empty": _text("config.json", "{}"),
    "config-deep": _text("config.json", '{"a": ' + DEEP + "}"),
    "config-binary": _text("config.json", bytes(range(256))),
    "config-utf16": _text("config.json", "{}".encode("utf-16")),
    "config-huge-integer": _text("config.json", '{"model_type": "llama", "hidden_size": ' + "9" * 5000 + "}"),
    "config-nan": _json_with("config.json", rms_norm_eps=float("nan")),
    "config-no-type": _json_with("config.json", model_type=None, architectures=None),
    "config-type-unknown": _json_with("config.json", model_type="nowhere"),
    "config-type-number": _json_with("config.json", model_type=3),
    "config-type-list": _json_with("config.json", model_type=[]),
    "config-type-other": _json_with("config.json", model_type="gpt2"),
    "config-type-encoder": _json_with("config.json", model_type="vit"),
    "config-auto-map": _json_with("config.json", model_type="x", auto_map={"AutoConfig": "evil.Evil"}),
    "config-auto-map-number": _json_with("config.json", model_type="x", auto_map=3),
    "config-rope-text": _json_with("config.json", rope_parameters="x"),
    "config-rope-type": _json_with("config.json", rope_parameters={"rope_type": "nowhere", "rope_theta": 1.0}),
    "config-act-unknown": _json_with("config.json", hidden_act="nowhere"),
    "config-dtype-unknown": _json_with("config.json", dtype="nowhere"),
    "config-quantization": _json_with("config.json", quantization_config={"quant_method": "nowhere"}),
    "config-quantization-text": _json_with("config.json", quantization_config="x"),
    "config-attn": _json_with("config.json", attn_implementation="nowhere"),
    "config-layer-types": _json_with("config.json", layer_types=["nowhere"]),
    "config-eps-text": _json_with("config.json", rms_norm_eps="x"),
    "config-head-dim-0": _json_with("config.json", head_dim=0),
    "config-heads-odd": _json_with("config.json", num_attention_heads=5),
    **{
        f"config-{key}-{label}": _json_with("config.json", **{key: value})
        for key in LLAMA_NUMBERS
        for label, value in (
            ("negative", -1),
            ("zero", 0),
            ("huge", 10**12),
            ("vast", HUGE),
            ("text", "x"),
            ("float", 2.5),
            ("list", [1]),
            ("true", True),
        )
    },
    "tokenizer-missing": lambda p: [f.unlink() for f in p.glob("tokenizer*")],
    "tokenizer-empty": _text("tokenizer.json", ""),
    "tokenizer-broken": _text("tokenizer.json", "{"),
    "tokenizer-list": _text("tokenizer.json", "[]"),
    "tokenizer-object": _text("tokenizer.json", "{}"),
    "tokenizer-deep": _text("tokenizer.json", DEEP),
    "tokenizer-binary": _text("tokenizer.json", bytes(range(256))),
    "tokenizer-model-unknown": _json_with("tokenizer.json", model={"type": "nowhere"}),
    "tokenizer-model-null": _json_with("tokenizer.json", model={}),
    "tokenizer-vocab-list": _json_with("tokenizer.json", model={"type": "BPE", "vocab": [], "merges": 3}),
    "tokenizer-ids-above": _json_with("config.json", vocab_size=40),
    "tokenizer-added-text": _json_with("tokenizer.json", added_tokens="x"),
    "tokenizer-config-broken": _text("tokenizer_config.json", "{"),
    "tokenizer-config-list": _text("tokenizer_config.json", "[]"),
    "tokenizer-config-deep": _text("tokenizer_config.json", DEEP),
    "tokenizer-config-eos-number": _json_with("tokenizer_config.json", eos_token=3),
    "tokenizer-config-eos-list": _json_with("tokenizer_config.json", eos_token=[]),
    "tokenizer-config-no-eos": _json_with("tokenizer_config.json", eos_token=None),
    "index-broken": lambda p: (_index({})(p), _text("model.safetensors.index.json", "{")(p)),
    "index-list": lambda p: (_index({})(p), _text("model.safetensors.index.json", "[]")(p)),
    "index-deep": lambda p: (_index({})(p), _text("model.safetensors.index.json", DEEP)(p)),
    "index-no-map": lambda p: (_index({})(p), _text("model.safetensors.index.json", "{}")(p)),
    "index-map-empty": _index({}),
    "index-map-list": _index([]),
    "index-map-text": _index("a.safetensors"),
    "index-map-null": _index(None),
    "index-entry-number": _index({EVERY_NAME: 3}),
    "index-entry-list": _index({EVERY_NAME: ["a.safetensors"]}),
    "index-entry-object": _index({EVERY_NAME: {}}),
    "index-entry-null": _index({EVERY_NAME: None}),
    "index-entry-mixed": _index({EVERY_NAME: "a.safetensors", "x": 3}),
    "index-outside": _index({EVERY_NAME: "../outside.safetensors"}),
    "index-outside-deep": _index({EVERY_NAME: "x/../../outside.safetensors"}),
    "index-absolute": _index({EVERY_NAME: "/etc/passwd"}),
    "index-missing-shard": _index({EVERY_NAME: "nowhere.safetensors"}),
    "index-nul": _index({EVERY_NAME: "a\0.safetensors"}),
    "index-empty-name": _index({EVERY_NAME: ""}),
    "index-dot": _index({EVERY_NAME: "."}),
    "index-long-name": _index({EVERY_NAME: "x" * 5000}),
    "index-pickle": lambda p: (_index({EVERY_NAME: "a.bin"})(p), (p / "a.bin").write_bytes(b"cos\nsystem\n")),
    "index-many-missing": _index({f"t{k}": f"{k}.safetensors" for k in range(5000)}),
    "weights-missing": lambda p: (p / "model.safetensors").unlink(),
    "weights-pickle": lambda p: (p / "model.safetensors").rename(p / "pytorch_model.bin"),
    "weights-empty": _weights(lambda raw: b""),
    "weights-seven-bytes": _weights(lambda raw: raw[:7]),
    "weights-header-only": _weights(lambda raw: raw[: 8 + struct.unpack("<Q", raw[:8])[0]]),
    "weights-torn": _weights(lambda raw: raw[:-100]),
    "weights-too-long": _weights(lambda raw: raw + b"\0" * 8),
    "weights-header-lies": _weights(lambda raw: struct.pack("<Q", 99_000_000) + raw[8:]),
    "weights-header-above-cap": _weights(lambda raw: struct.pack("<Q", 200_000_000) + raw[8:]),
    "weights-header-vast": _weights(lambda raw: b"\xff" * 8 + raw[8:]),
    "weights-header-zero": _weights(lambda raw: b"\0" * 8 + raw[8:]),
    "weights-header-binary": _header(lambda h: b"\xff" * 100),
    "weights-header-deep": _header(lambda h: DEEP.encode()),
    "weights-header-list": _header(lambda h: []),
    "weights-header-none": _header(lambda h: {}),
    "weights-overlap": _header(lambda h: {**h, "x": next(v for k, v in h.items() if k != "__metadata__")}),
    "weights-dtype-unknown": _header(lambda h: _first(h, dtype="X9")),
    "weights-shape-negative": _header(lambda h: _first(h, shape=[-1, 3])),
    "weights-shape-vast": _header(lambda h: _first(h, shape=[2**62, 2**62])),
    "weights-shape-text": _header(lambda h: _first(h, shape="x")),
    "weights-shape-other": _header(lambda h: _first(h, shape=[1])),
    "weights-offsets-back": _header(lambda h: _first(h, data_offsets=[8, 0])),
    "weights-offsets-beyond": _header(lambda h: _first(h, data_offsets=[0, 2**60])),
    "weights-folder": _special("model.safetensors", lambda p: p.mkdir()),
    **{f"config-{name}": _special("config.json", make) for name, make in SPECIAL_FILES.items()},
}
MODELS_FINE = {
    # A part of a file that PEFT and transformers leave alone, or a size that is odd and no mistake.
    "config-more-keys": _json_with("config.json", nowhere=1),
    "tokenizer-config-class": _json_with("tokenizer_config.json", tokenizer_class="Nowhere", auto_map=None),
    "generation-config-broken": _text("generation_config.json", "{"),
    "generation-config-values": _json_with("generation_config.json", temperature="x"),
    "index-inside": lambda p: _index(dict.fromkeys(_names(p), "a.safetensors"))(p),
}


def _names(folder: Path) -> list[str]:
    raw = (folder / "model.safetensors").read_bytes()
    return [k for k in json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]]) if k != "__metadata__"]


# Damage to a finished run's folder, and the commands that read one.
RUNS: dict[str, tuple[str, str | bytes | None]] = {
    "record-broken": ("run.json", "{"),
    "record-list": ("run.json", "[]"),
    "record-empty-object": ("run.json", "{}"),
    "record-deep": ("run.json", DEEP),
    "record-binary": ("run.json", bytes(range(256))),
    "record-missing": ("run.json", None),
    "adapter-config-broken": ("adapter/adapter_config.json", "{"),
    "adapter-config-list": ("adapter/adapter_config.json", "[]"),
    "adapter-config-missing": ("adapter/adapter_config.json", None),
    "adapter-empty": ("adapter/adapter_model.safetensors", b""),
    "adapter-garbage": ("adapter/adapter_model.safetensors", b"\xff" * 100),
    "adapter-missing": ("adapter/adapter_model.safetensors", None),
}
READERS: dict[str, tuple[str, ...]] = {
    "eval": ("eval", "finished", "--suite", "mini_gsm", "--limit", "1", "-o", "out"),
    "merge": ("merge", "finished", "-o", "out"),
    "compare": ("compare", "finished", "-o", "out"),
    "report": ("report", "finished", "-o", "out"),
}


def _damaged(file: str, content: str | bytes | None) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        shutil.copytree(path.parent / SHARED / "finished", path)
        if content is None:
            (path / file).unlink()
        else:
            (path / file).write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def _data_config(file: str, **more: Any) -> str:
    return yaml.safe_dump(config(data={"train": file, **more}))


def _data() -> Iterator[Case]:
    both: list[tuple[bool, Mapping[str, Any]]] = [(False, DATA), (True, DATA_FINE)]
    for accepted, table in both:
        for name, (file, content) in table.items():
            yield Case(f"data/{name}", files={"run.yaml": _data_config(file), file: content}, accepted=accepted)
    rows = '{"prompt": "a", "completion": " b", "weight": null, "list": [1], "null": null}\n'
    for number, spec in enumerate(TEMPLATES):
        files = {"run.yaml": _data_config("d.jsonl", prompt=spec), "d.jsonl": rows}
        yield Case(f"data/template-{number:02}", files=files)
    for file, entries in RECORDS.items():
        for number, (name, record) in enumerate(entries):
            text = yaml.safe_dump(config(data={"name": name, "root": "."}))
            yield Case(f"data/{name}-{number}", files={"run.yaml": text, file: record + "\n"})
    for number, file in enumerate(["/nowhere/x.jsonl", "nowhere.jsonl", "x" * 5000 + ".jsonl", "sums.jsonl/x.jsonl",
                                   "~nobody/x.jsonl", "../" * 50 + "x.jsonl"]):  # fmt: skip
        yield Case(f"data/path-{number}", files={"run.yaml": _data_config(file)})


def cases() -> list[Case]:
    """All of this part."""
    made = list(_data())
    for accepted, table in ((False, MODELS), (True, MODELS_FINE)):
        made += [
            Case(f"model/{name}", files={"base": base_with(one)}, accepted=accepted) for name, one in table.items()
        ]
    for reader, argv in READERS.items():
        made += [
            Case(
                f"run/{reader}-{name}",
                argv,
                {"finished": _damaged(file, content)},
                accepted=reader in ("compare", "report"),
            )
            for name, (file, content) in RUNS.items()
            if not (reader in ("compare", "report") and name.startswith("adapter"))
        ]
    return made
