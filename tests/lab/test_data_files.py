"""Promise: whatever is wrong with a user's data file is told with its place and what to do about it."""

from __future__ import annotations

import gzip
import json

import pytest

from dude_lab.config.data_settings import DataSettings
from dude_lab.training.training_data import load_training
from dude_peft.errors import DudeError

GOOD = [{"prompt": f"What is {k} + 1?", "completion": str(k + 1)} for k in range(5)]


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def load(path, **more):
    return load_training(DataSettings(train=str(path), **more))


def refused(path, **more) -> str:
    with pytest.raises(DudeError) as caught:
        load(path, **more)
    return str(caught.value)


def test_every_kind_of_file_gives_the_same(tmp_path):
    import pyarrow
    import pyarrow.parquet

    text = {
        "a.jsonl": lines(GOOD),
        "a.json": json.dumps(GOOD, indent=1),
        "a.csv": "prompt,completion\n" + "".join(f"{row['prompt']},{row['completion']}\n" for row in GOOD),
    }
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(GOOD), tmp_path / "a.parquet")
    files = [tmp_path / "a.parquet"]
    for name, content in text.items():
        files += [tmp_path / name, tmp_path / f"{name}.gz"]
        files[-2].write_text(content, encoding="utf-8-sig")  # a byte order mark does no harm
        files[-1].write_bytes(gzip.compress(content.encode()))
    digests = set()
    for file in files:
        data = load(file)
        assert data.train.column_names == ["prompt", "completion"]
        assert data.train[4] == {"prompt": "What is 4 + 1?", "completion": " 5"}
        digests.add(data.sha256)
    assert len(files) == 7 and len(digests) == 1


def test_broken_line_is_named(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(lines(GOOD[:2]) + "\n" + '{"prompt": "x", "completion": }\n' + lines(GOOD[2:]))
    assert f"{file}, line 4: broken JSON (Expecting value at column 31)" in refused(file)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "x", "completion": null}', "line 3: column 'completion' is null"),
        ('{"prompt": "x", "completion": ""}', "line 3: the completion is empty"),
        ('{"prompt": "x", "completion": " \\n "}', "line 3: the completion is white space only"),
        ('{"prompt": null, "completion": "x"}', "line 3: column 'prompt' is null"),
        ('{"prompt": "", "completion": "x"}', "line 3: the prompt is empty"),
        ('{"prompt": "x", "completion": 42}', "line 3: column 'completion' has int 42, not text"),
        ('{"prompt": "x", "completion": ["y"]}', "line 3: column 'completion' has list ['y'], not text"),
        ('{"prompt": "x", "answer": "y"}', "line 3: no column 'completion' in this record; it has: prompt, answer"),
        ('{"prompt": "x", "completion": "a \\ud83d"}', "line 3: the completion has '\\ud83d', half of a surrogate"),
        ('{"prompt": ' + "9" * 5000 + "}", "line 3: cannot be read"),
        ("[" * 100000, "line 3: "),
        ('["x", "y"]', "line 3: expected a JSON object, got an array"),
        ("12", "line 3: expected a JSON object, got a number"),
    ],
)
def test_bad_record_is_named(tmp_path, line, said):
    file = tmp_path / "a.jsonl"
    file.write_text(lines(GOOD[:2]) + line + "\n" + lines(GOOD[2:]))
    assert said in refused(file)


def test_number_can_be_had_as_text_as_the_message_says(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": "x", "completion": 42}\n')
    assert "template '{completion}'" in refused(file)
    assert load(file, completion="{completion}").train[0]["completion"] == " 42"


def test_missing_column_names_those_there_are(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(lines([{"question": "x", "answers": "y"}]))
    assert "no column 'prompt'" in refused(file) and "The columns are: question, answers." in refused(file)
    said = refused(file, prompt="question", completion="answer")
    assert "data.completion: no column 'answer'. Did you mean 'answers'?" in said
    assert "no column 'questoin'. Did you mean 'question'" in refused(file, prompt="Q: {questoin}\nA:")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("Q: {prompt", "is malformed"),
        ("Q: {{prompt}}", "names no column"),
        ("Q: {prompt:>9}", "plain {column} fields only"),
        ("Q: {prompt!r}", "plain {column} fields only"),
        ("Q: {}", "no column ''"),
        ("Q: {prompt.__class__}", "no column 'prompt.__class__'"),
    ],
)
def test_bad_template_is_told(tmp_path, template, said):
    file = tmp_path / "a.jsonl"
    file.write_text(lines(GOOD))
    assert said in refused(file, prompt=template)


def test_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "problems.jsonl").write_text(lines(GOOD))
    assert "Did you mean 'problems.jsonl'?" in refused(tmp_path / "problem.jsonl")
    assert "there is no folder" in refused(tmp_path / "nowhere" / "problems.jsonl")
    assert "is a folder" in refused(tmp_path)


def test_files_that_cannot_be_read(tmp_path):
    for name, content, said in [
        ("a.txt", b"x", "unknown type of file"),
        ("a", b"x", "unknown type of file"),
        ("a.jsonl", b"", "has no records"),
        ("b.jsonl", b"\n\n", "has no records"),
        ("a.json", b"", "has no records"),
        ("b.json", b"[]", "has no records"),
        ("c.json", b'{"prompt": "x"}', "expected an array of objects, got one object"),
        ("d.json", b'[{"prompt": "x"},\n {"prompt": }]', "line 2: broken JSON"),
        ("e.json", b'{"prompt": "x"}\n{"prompt": "y"}', "one object per line .jsonl"),
        ("f.json", b'[{"prompt": "x"}, 3]', "record 2: expected a JSON object"),
        ("a.csv", b"prompt,completion\n", "has no records"),
        ("b.csv", b'prompt,completion\n"x\ny",z\nw\n', "line 4: 1 cells, but the header has 2"),
        ("c.csv", b"prompt,prompt\nx,y\n", "duplicate column"),
        ("d.csv", b'prompt,completion\nx,"y\n', "broken CSV"),
        ("e.csv", b"prompt,completion\nx,\n", "line 2: the completion is empty"),
        (
            "c.jsonl",
            '{"prompt": "x", "completion": "y"}\n{"prompt": "é"}'.encode("latin-1"),
            "line 2: not UTF-8 (byte 0xe9",
        ),
        ("d.jsonl.gz", gzip.compress(lines(GOOD * 99).encode())[:-20], "Is the file complete?"),
        ("e.jsonl.gz", lines(GOOD).encode(), "Is the file complete?"),
        ("a.parquet", b"nonsense", "not a parquet file"),
    ]:
        file = tmp_path / name
        file.write_bytes(content)
        assert said in refused(file), name


def test_second_of_two_files_is_named(tmp_path):
    one, two = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    one.write_text(lines(GOOD))
    two.write_text(lines(GOOD) + "{\n")
    with pytest.raises(DudeError, match=r"b\.jsonl, line 6"):
        load_training(DataSettings(train=[str(one), str(two)]))
    two.write_text(lines(GOOD[:1]))
    assert len(load_training(DataSettings(train=[str(one), str(two)])).train) == 6
