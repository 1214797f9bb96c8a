"""Promise: whatever file or argument is handed to the command, it succeeds or says what is wrong: no traceback, nothing
accepted in silence, nothing written, no message of thousands of characters.

The table is `bad_inputs.every_case()`. Here runs what fits a CI job: of the many settings that are alike every twelfth,
of models and data every second. `make test-reliability` runs the whole table.
"""

from __future__ import annotations

import math
from pathlib import Path

import bad_inputs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dude_lab.config.yaml_file import override, parse_run, to_yaml
from dude_lab.config.yaml_reader import MAX_ALIASES, MAX_BYTES, MAX_DEPTH, MAX_VALUES, dump_yaml, load_yaml, read_yaml
from dude_lab.settings import MAX_TEXT
from dude_peft.errors import DudeError, some

EVERY = {"settings": 12, "model": 2, "data": 2, "slow": 0}  # the others whole


def _chosen() -> list[bad_inputs.Case]:
    groups: dict[str, list[bad_inputs.Case]] = {}
    for case in bad_inputs.every_case():
        groups.setdefault(case.name.partition("/")[0], []).append(case)
    steps = {name: EVERY.get(name, 1) for name in groups}
    return [case for name, cases in groups.items() if steps[name] for case in cases[:: steps[name]]]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bad_inputs.make_shared(tmp_path_factory.mktemp("shared"))


@pytest.mark.parametrize("case", _chosen(), ids=lambda case: case.name)
def test_bad_input(case: bad_inputs.Case, tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    found = bad_inputs.outcome(case, tmp_path, shared)
    assert found.good, f"{found.kind}: {found.text}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: " + "[" * 50 + "]" * 50, [f"more than {MAX_DEPTH} levels"]),
        ("a: [" + "1," * 21_000 + "]", [f"more than {MAX_VALUES:,} values"]),
        ("a: &a x\nb: [" + "*a," * 1_500 + "]", [f"more than {MAX_ALIASES:,} aliases"]),
        ("#" * (MAX_BYTES + 1), [f"limit is {MAX_BYTES:,}"]),
        ("a: 1e999", ["t.yaml:1:4", "'1e999' is not a number", "finite"]),
        ("b: 1\na: .nan", ["t.yaml:2:4", "finite"]),
        ("a: " + "9" * 5000, ["64 bits"]),
        ("a: 9223372036854775808", ["64 bits"]),
        ("? [a]\n: b", ["a key must be text, got a list or mapping"]),
        ("1: b", ["a key must be text, got '1'; quote it"]),
        ("a: !!timestamp 2024-01-01", ["unsupported tag '!!timestamp'"]),
        ("a: !!python/name:os.system", ["unsupported tag"]),
        ("a: &a [*a]", ["is inside its own value"]),
        ("a: 1\n---\nb: 1", ["t.yaml:2:1"]),
    ],
)
def test_yaml_out_of_bounds_is_refused_with_the_limit(text: str, words: list[str]) -> None:
    with pytest.raises(DudeError) as caught:
        load_yaml(text, "t.yaml")
    for word in words:
        assert word in str(caught.value)
    assert len(str(caught.value)) < 500


def test_an_alias_that_grows_is_counted_as_written_out() -> None:
    text = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    text += "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 9))
    with pytest.raises(DudeError, match=r"t\.yaml:5:\d+: .*expanding the aliases"):
        load_yaml(text, "t.yaml")


def test_scalars_are_those_of_yaml_1_2() -> None:
    text = "[2024-01-01, 1:30, 010, 0o17, 1_000, 2e-4, 0x1f, +3, .5, 5., yes, ~, 12:30:45.5, '7']"
    assert load_yaml(text, "t") == [
        "2024-01-01", "1:30", 10, "0o17", "1_000", 2e-4, 31, 3, 0.5, 5.0, True, None, "12:30:45.5", "7",
    ]  # fmt: skip


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)
    | st.sampled_from(["2e-4", "010", "1:30", "2024-01-01", "0x1f", "yes", "~", "=", "<<", "0o17", "1_0"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc_<=1.~", max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_what_is_dumped_reads_back_equal(value: object) -> None:
    assert load_yaml(dump_yaml({"x": value}), "t") == {"x": value}


@pytest.mark.parametrize("mark", ["\x85", "\u2028", "\u2029", "\ufeff", "\x7f"])
def test_text_with_odd_line_breaks_is_dumped_as_it_is(mark: str) -> None:
    for value in (mark, f"a{mark}b", f"{mark} a", f"a {mark}\n b"):
        assert load_yaml(dump_yaml({"x": value, value: 1}), "t") == {"x": value, value: 1}


PIECES = [
    "a", ": ", "- ", "\n", "  ", "[", "]", "{", "}", ", ", "&a ", "*a", "<<: ", "!!int ", "!!map ", "!x ", "? ", "| \n",
    "> \n", "'", '"', "#", "---\n", "...\n", "%YAML 1.1\n", "\t", "1e999", ".nan", "2024-01-01", "0x", "9" * 30, "~",
    "\\ud800", "@", "`", "é", "\ufeff", "\x00", "\x07", "=", "- - ", "!!binary ", "!!set ", "!<x> ",
]  # fmt: skip


def _plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and _plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_plain, value))
    return value is None or type(value) in (str, bool, int) or (type(value) is float and math.isfinite(value))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join) | st.text(max_size=60))
def test_any_text_is_read_as_plain_values_or_refused(text: str) -> None:
    try:
        value = load_yaml(text, "fuzz.yaml")
    except DudeError as error:
        assert str(error).startswith("fuzz.yaml") and len(str(error)) < 1_000
    else:
        assert _plain(value)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "fuzz.yaml"
    file.write_bytes(content)
    try:
        assert isinstance(read_yaml(file), dict)
    except DudeError as error:
        assert "fuzz.yaml" in str(error)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(["mini", "dude", "gsm8k", "mini_gsm", "auto", "all-linear", "(", "[a", "a{9}", "\x00", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["name", "r", "a", "suite", "q_proj"]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
SECTION_KEYS = [
    f"{section}.{key}"
    for section, keys in [
        ("model", ["name", "dtype", "revision", "trust_remote_code"]),
        ("method", ["name", "r", "rank_pattern", "alpha_pattern", "target_modules", "layers_to_transform",
                    "modules_to_save", "lora_alpha", "lora_dropout", "svd_seed", "magnitude_axis"]),
        ("data", ["name", "train", "hub", "root", "split", "validation", "limit", "sample", "prompt", "seed"]),
        ("train", ["steps", "epochs", "batch_size", "learning_rate", "warmup", "adam_beta1", "max_length", "seed"]),
        ("eval", ["suite", "tasks", "limit", "every", "num_fewshot", "protocol", "root"]),
    ]
    for key in keys
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from([*SECTION_KEYS, "model", "method", "data", "train", "eval", "output"]), ANY,
                       max_size=3))  # fmt: skip
def test_any_settings_are_valid_or_refused(changes: dict[str, object]) -> None:
    raw: dict = {"model": {"name": "mini"}, "method": {"name": "dude"}, "data": {"name": "mini_gsm"}, "output": "x"}
    for dotted, value in changes.items():
        section, _, key = dotted.partition(".")
        if not key:
            raw[section] = value
        elif isinstance(raw.setdefault(section, {}), dict):
            raw[section] = {**raw[section], key: value}
    try:
        run = parse_run(raw, "fuzz")
    except DudeError as error:
        assert len(str(error)) < 10_000
    else:
        assert load_yaml(to_yaml(run), "again") == run.resolved()  # what is accepted can be written and read


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40) | st.lists(st.sampled_from(["train", ".", "=", "steps", "[", "1", "&a", "*a", "{", "~"]),
                                       max_size=10).map("".join))  # fmt: skip
def test_any_override_is_valid_or_refused(pair: str) -> None:
    raw = {"model": "mini", "method": "dude", "data": {"name": "mini_gsm"}, "output": "x"}
    try:
        parse_run(override(raw, [pair]))
    except DudeError as error:
        assert len(str(error)) < 3_000


@pytest.mark.parametrize("value", [True, "5", 5.5, float("nan"), float("inf"), [], {}])
def test_a_number_is_not_coerced(value: object) -> None:
    raw = {"model": "mini", "method": "dude", "data": {"name": "mini_gsm"}, "output": "x"}
    with pytest.raises(DudeError, match=r"'train\.steps'"):
        parse_run({**raw, "train": {"steps": value}})


@pytest.mark.parametrize("text", ["", " ", "a\0b", "\ud800", "x" * (MAX_TEXT + 1)])
def test_text_that_names_nothing_is_refused(text: str) -> None:
    raw = {"model": "mini", "method": "dude", "data": {"name": "mini_gsm"}}
    with pytest.raises(DudeError, match="'output'") as caught:
        parse_run({**raw, "output": text})
    assert len(str(caught.value)) < 400


def test_a_file_name_may_hold_spaces() -> None:
    raw = {"model": "mini", "method": "dude", "data": {"train": "my file.jsonl"}, "output": "x"}
    assert parse_run(raw).data.train == "my file.jsonl"


def test_a_list_in_a_message_is_short() -> None:
    assert some(["a", "b"]) == "a, b"
    assert some(map(str, range(12))).endswith("9, and 2 more") and len(some(["x" * 1000])) <= 130
