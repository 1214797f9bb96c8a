"""Promise: the pretraining text is seeded, true to its world, and leaves to fine-tuning what `mini_gsm` asks."""

from __future__ import annotations

import hashlib
import random
import re
from itertools import islice

import pytest

from dude_lab.mini import records
from mini.arithmetic import TWO_STEP_SHARE
from mini.encyclopedia import CHAINS, base_form, chain, is_said
from mini.gsm import WORKED_STEPS, worked_problem
from mini.narrative import past
from mini.reading import PARTICULARS
from mini.relations import phrase
from mini.stream import ANNEAL_AT, GENRES, document_at, documents
from mini.world import article, build_world, plural, the_world

EQUATION = re.compile(r"(?<![\d*/+-] )(?<![\d.])\b(\d+) ?([-+*/]) ?(\d+) ?= ?(\d+)")


@pytest.fixture(scope="module")
def texts() -> list[tuple[str, str]]:
    return list(islice(documents(0), 6000))


def test_stream_is_the_same_again_and_can_be_entered_anywhere(texts: list[tuple[str, str]]) -> None:
    assert [document_at(0, i) for i in (0, 17, 5999)] == [texts[0], texts[17], texts[5999]]
    assert [text for _, text in islice(documents(1), 50)] != [text for _, text in texts[:50]]


def test_world_is_the_same_again() -> None:
    again = build_world()
    assert list(again.all_facts()) == list(the_world().all_facts())
    assert again.people == the_world().people
    assert len(list(again.all_facts())) > 1500


def test_every_genre_occurs(texts: list[tuple[str, str]]) -> None:
    counts = {genre: sum(g == genre for g, _ in texts) / len(texts) for genre in GENRES}
    for genre, (share, _) in GENRES.items():
        assert abs(counts[genre] - share) < 0.03, genre
    assert sum(share for share, _ in GENRES.values()) == pytest.approx(1.0)


def test_held_out_text_is_not_training_text(texts: list[tuple[str, str]]) -> None:
    """By index it never is; but for definitions and lists, of which there are few, documents seldom meet by chance."""
    seen = {text for _, text in texts}
    held = [document_at(0, i, split="held-out") for i in range(1000)]
    again = [text in seen for genre, text in held if genre not in ("definitions", "lists")]
    assert sum(again) / len(again) < 0.02


def test_sums_in_the_text_are_right(texts: list[tuple[str, str]]) -> None:
    n = 0
    for genre, text in texts:
        if genre in ("arithmetic", "word problems"):
            for a, op, b, c in EQUATION.findall(text):
                x, y = int(a), int(b)
                assert {"+": x + y, "-": x - y, "*": x * y}.get(op, x / y if y else None) == int(c), text
                n += 1
    assert n > 3000


def test_no_worked_solution_in_the_manner_of_mini_gsm(texts: list[tuple[str, str]]) -> None:
    """Its marks are known tokens, its lines (`Then she has 3+4=<<3+4=7>>7 pears.`) are not."""
    assert not any("=<<" in text or re.search(r">>\d", text) for _, text in texts)
    assert any("<<" in text for _, text in texts)
    assert any(re.search(r"#### \d", text) for _, text in texts)


def test_word_problems_are_of_one_step_or_two(texts: list[tuple[str, str]]) -> None:
    problems = [text for genre, text in texts if genre == "word problems"]
    steps = [len(re.findall(r"\d = \d", text)) for text in problems]
    assert max(steps) == 2
    assert abs(sum(n == 2 for n in steps) / len(steps) - TWO_STEP_SHARE) < 0.05
    for text in problems:
        if found := re.search(r"= (\d+)\.\n#### (\d+)$", text):
            assert found.group(1) == found.group(2), text


def test_readings_are_answered_by_their_passage() -> None:
    """What is confirmed or named stands in the passage, in such a sentence; what is denied does not."""
    seen = {"yes": 0, "no": 0, "open": 0}
    for index in range(300):
        passage, *lines = document_at(0, index, genre="reading")[1].split("\n")
        for ask, said in zip(lines[::2], lines[1::2], strict=True):
            answer = said.removeprefix("Answer: ")
            if answer not in ("yes", "no"):
                assert re.search(rf"\b{answer}\b", passage), (passage, ask, said)
                seen["open"] += 1
                continue
            claims = [(form, value) for form in PARTICULARS.values() if (value := _fits(form.confirm, ask))]
            assert claims, ask
            sentences = [s + "." for s in passage.removesuffix(".").split(". ")]
            matching = any(_fits(form.told, s) == value for form, value in claims for s in sentences)
            assert matching == (answer == "yes"), (passage, ask, said)
            seen[answer] += 1
    assert min(seen.values()) > 100
    assert abs(seen["yes"] - seen["no"]) < 0.15 * (seen["yes"] + seen["no"])


def test_chains_follow_from_the_facts_and_leave_half_open() -> None:
    world, rng = the_world(), random.Random(3)
    seen = set()
    for text in (chain(world, rng) for _ in range(150)):
        for first, second, conclusion in CHAINS:
            for subject, (middle, *_) in world.facts[first].items():
                for end in world.facts[second].get(middle, ())[:1]:
                    if phrase(conclusion, subject, end) in text:
                        seen.add((first, second, subject))
        for said in re.findall(r"So ([^.]+)\.", text):
            assert any(
                said == phrase(c, s, world.facts[b][m][0])
                for a, b, c in CHAINS
                for s, (m, *_) in world.facts[a].items()
                if m in world.facts[b]
            ), said
    possible = [(a, b, s) for a, b, _ in CHAINS for s, (m, *_) in world.facts[a].items() if m in world.facts[b]]
    assert all(is_said(*one) for one in seen)
    assert 0.4 < sum(is_said(*one) for one in possible) / len(possible) < 0.6


def test_worked_problems_have_two_steps_and_are_right() -> None:
    """In plain words, without marks; no problem of `mini_gsm` has so few steps."""
    assert all(record["answer"].count("\n") > WORKED_STEPS for record in records("mini_gsm", "test"))
    rng, ends = random.Random(4), set()
    for _ in range(400):
        text = worked_problem(the_world(), rng)
        equations = EQUATION.findall(text)
        assert len(equations) == WORKED_STEPS and "<<" not in text, text
        for a, op, b, c in equations:
            x, y = int(a), int(b)
            assert {"+": x + y, "-": x - y, "*": x * y}.get(op, x / y) == int(c), text
        if found := re.search(r"(?:#### |The answer is )(\d+)", text):
            assert found[1] == equations[-1][3], text
            ends.add(found[0].split(" ")[0])
    assert ends == {"####", "The"}


def _fits(template: str, text: str) -> str | None:
    """The value in a sentence or question of the template's form, without its article."""
    pattern = re.escape(template).replace(r"\{n\}", r"[A-Za-z]+").replace(r"\{ao\}", r"(?:an? )?(?P<v>[\w ]+)")
    pattern = pattern.replace(r"\{o\}", r"(?P<v>[\w ]+)")
    found = re.fullmatch(rf"(?:Question: )?{pattern}\??", text, flags=re.IGNORECASE)
    return found["v"] if found else None


def test_the_text_is_the_one_that_the_shipped_model_was_trained_on() -> None:
    """Documents of both parts of the stream and of every genre: another text would be another model."""
    places = [*range(400), *range(ANNEAL_AT, ANNEAL_AT + 400)]
    text = "\n".join(document_at(0, i)[1] for i in places)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "4d588100b2ca1340"


def test_no_template_is_left_unfilled(texts: list[tuple[str, str]]) -> None:
    for _, text in texts:
        assert "{" not in text and "}" not in text, text
        assert "  " not in text, text


@pytest.mark.parametrize(
    ("given", "want"),
    [
        (article("owl"), "an owl"),
        (article("saw"), "a saw"),
        (article("scissors"), "scissors"),
        (plural("mouse"), "mice"),
        (plural("box"), "boxes"),
        (plural("cherry"), "cherries"),
        (base_form("washes"), "wash"),
        (past("takes"), "took"),
        (past("stacks"), "stacked"),
    ],
)
def test_forms_of_words(given: str, want: str) -> None:
    assert given == want
