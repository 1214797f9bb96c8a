"""`mini_csqa`: five-choice questions on the world's common sense, in CommonsenseQA's own format.

The questions use wordings that the pretraining text does not have, in both directions of a relation (from the thing
to its use, from the use to the thing). Facts, not records, are dealt to the splits: what a test question asks is
asked by no training question.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from mini.relations import phrase
from mini.splits import split_of
from mini.world import World, article, the_world

SHARES = (66, 8, 26)
LABELS = "ABCDE"

# relation -> stems that ask for the answer of a subject
FORWARD: dict[str, tuple[str, ...]] = {
    "animal_kind": (
        "A child points at {as}. To which group of animals does it belong?",
        "If you had to sort {as} into a class of animals, which class would it be?",
    ),
    "animal_cover": (
        "You stroke {as}. What do your fingers touch?",
        "What keeps the body of {as} safe on the outside?",
    ),
    "animal_home": ("{n} hopes to see {as}. Where should {h} look?", "Where would {as} feel at home?"),
    "animal_food": (
        "{n} has to feed {as}. What would it be glad to get?",
        "What is {as} most likely looking for when it is hungry?",
    ),
    "animal_young": ("{n} sees {as} with its little one. What is the little one?", "What will grow up to be {as}?"),
    "animal_moves": ("{n} watches {as} go by. What does it do?",),
    "animal_sound": ("{n} hears {as} in the dark. What does it do?",),
    "food_kind": ("{n} puts {s} on a shopping list. Under which heading does it go?",),
    "food_color": ("{n} paints a picture of {s}. Which color does {h} need?",),
    "food_taste": ("{n} takes a bite of {s}. What does {h} notice?",),
    "food_from": ("{n} wants fresh {s}. What has to be there first?",),
    "feel": ("{n} touches a piece of {s}. What does {h} notice?",),
    "with_fire": ("A piece of {s} falls into the flames. What then?",),
    "made_from": ("{n} wants to produce {s}. What does {h} have to start from?", "Without what would there be no {s}?"),
    "object_kind": ("A shop sorts its goods. Where does {as} belong?",),
    "object_material": ("{n} makes {as}. What does {h} need a supply of?", "Which stuff would you expect in {as}?"),
    "object_use": ("{n} bought {as}. What is {h} going to do?", "Why would someone want {as}?"),
    "object_place": (
        "{n} needs {as}. Where should {h} go?",
        "Where would {as} most likely be when no one is using it?",
    ),
    "trade_place": ("{n} became {as}. Where does {h} go each morning?",),
    "trade_tool": ("{n} became {as}. What does {h} hold in the hand?",),
    "trade_does": ("{n} became {as}. Which sentence is about {h2}?",),
    "place_use": ("{n} is on the way to the {s}. What for?", "Why would someone be at the {s}?"),
    "place_sights": ("{n} took a picture at the {s}. What is in it?",),
    "tool_measure": ("{n} looks at {as}. What does {h} want to know?",),
    "source_of": ("{n} goes looking for {s}. What is {h} after?",),
    "opposite": ("It was not {s} at all. It was", "{n} had hoped for {s}, but got just the reverse:"),
    "effect": ("{n} sees that {s}. What can {h} expect?", "Suppose {s}. What comes of it?"),
}

# relation -> stems that ask for the subject of an answer
BACKWARD: dict[str, tuple[str, ...]] = {
    "object_use": ("{n} wants to {o}. What would help?", "Someone who has to {o} should bring"),
    "trade_does": ("{n} {o}. What is {n}?", "In this family the father {o}. He must be"),
    "trade_tool": ("Whose hands would hold {ao} all day long?",),
    "place_use": ("{n} would like to {o}. Which place is right?", "Where would you be if you could {o}?"),
    "place_sights": ("{n} is surrounded by {o}. Which place is it?",),
    "animal_young": ("{ao} comes out to play. Which animal is its mother?",),
    "animal_sound": ("Something {o} outside. Which animal could it be?",),
    "organ_job": ("Something in a living body {o2}. What part is meant?",),
    "tool_measure": ("{n} has to find out the {o}. What should {h} use?",),
    "effect": ("It happens that {o}. What may have been the cause?",),
    "source_of": ("There is plenty of {o}. What does it come from?",),
    "object_place": ("What would you expect to see in the {o}?",),
    "animal_home": ("Which animal might turn up near the {o}?",),
}


def _answer_form(relation: str, answer: str) -> str:
    return article(answer) if relation in ("animal_young", "trade_tool") else answer


def _items(world: World, rng: random.Random, split: str) -> Iterator[tuple[str, str, str, list[str]]]:
    """Yield every (identity, stem, answer, distractors) of a split: each fact in each wording once, in table order."""
    for relation, subject, answer in world.all_facts():
        if split_of("mini_csqa", f"{relation}/{subject}", SHARES) != split:
            continue
        identity = f"{relation}/{subject}/{answer}"
        for stem in FORWARD.get(relation, ()):
            p = rng.choice(world.people)
            text = phrase(stem.replace("{n}", p.name).replace("{h2}", p.him).replace("{h}", p.he), subject)
            wrong = world.wrong(relation, subject, rng, 4)
            yield (
                identity + "/forward",
                text,
                _answer_form(relation, answer),
                [_answer_form(relation, w) for w in wrong],
            )
        for stem in BACKWARD.get(relation, ()):
            p = rng.choice(world.people)
            text = phrase(stem.replace("{n}", p.name).replace("{h}", p.he).replace("{o2}", answer), subject, answer)
            others = [s for s, known in world.facts[relation].items() if answer not in known]
            near = _near(world, relation, subject, others)
            wrong = rng.sample(near, min(2, len(near)))
            wrong += rng.sample([o for o in others if o not in wrong], 4 - len(wrong))
            yield identity + "/backward", text, subject, wrong


def _near(world: World, relation: str, subject: str, others: list[str]) -> list[str]:
    """Return the other subjects that share a kind or a place with the subject."""
    for link in ("object_place", "object_kind", "animal_kind", "food_kind"):
        mine = world.facts[link].get(subject)
        if mine and link != relation:
            near = [o for o in others if set(world.facts[link].get(o, ())) & set(mine)]
            if len(near) >= 2:
                return near
    return []


def csqa_records(split: str, rounds: int) -> list[dict[str, Any]]:
    """Return the records of a split, shuffled: every fact and wording `rounds` times, with other distractors."""
    world = the_world()
    records, seen = [], set()
    for number in range(rounds):
        rng = random.Random(f"mini_csqa/{split}/{number}")
        for identity, stem, answer, wrong in _items(world, rng, split):
            options = [answer, *wrong]
            if len(set(options)) < 5:
                continue
            rng.shuffle(options)
            if (stem, *sorted(options)) in seen:
                continue
            seen.add((stem, *sorted(options)))
            choices = [{"label": LABELS[i], "text": text} for i, text in enumerate(options)]
            question = {
                "question_concept": identity.split("/")[1],
                "choices": choices,
                "stem": stem[:1].upper() + stem[1:],
            }
            records.append({"answerKey": LABELS[options.index(answer)], "id": "", "question": question})
    random.Random(f"mini_csqa/{split}/order").shuffle(records)
    for i, record in enumerate(records):
        record["id"] = f"mini_csqa-{split}-{i}"
    return records
