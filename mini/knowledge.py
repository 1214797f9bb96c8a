"""`mini_mmlu` (four choices in sixteen subjects of four groups) and `mini_gpqa` (questions of several hops)."""

from __future__ import annotations

import random
from typing import Any

from mini.arithmetic import operands
from mini.narrative import two_people
from mini.world import World, article

Drawn = tuple[str, dict[str, Any]]

# subject -> (group, the relations it asks about; none where it has a maker of its own)
SUBJECTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "biographies": ("humanities", ("person_town", "person_trade", "person_pet", "person_food", "person_hobby")),
    "language": ("humanities", ("opposite",)),
    "crafts": ("humanities", ("object_material", "trade_tool")),
    "manners": ("humanities", ()),
    "geography": ("social_sciences", ("town_river", "town_goods", "town_sight", "town_region")),
    "professions": ("social_sciences", ("trade_place", "trade_does")),
    "psychology": ("social_sciences", ()),
    "public_places": ("social_sciences", ("place_use", "place_sights")),
    "arithmetic": ("stem", ()),
    "zoology": ("stem", ("animal_kind", "animal_cover", "animal_home", "animal_food", "animal_young")),
    "materials": ("stem", ("feel", "with_fire", "made_from")),
    "physics": ("stem", ("effect",)),
    "anatomy": ("stem", ("organ_job",)),
    "nutrition": ("other", ("food_kind", "food_color", "food_taste", "food_from")),
    "household": ("other", ("object_use", "object_place")),
    "measurement": ("other", ("tool_measure", "source_of")),
}


# what an examiner calls each relation; the pretraining text never does
TITLES = {
    "person_town": "home town",
    "person_trade": "profession",
    "person_pet": "household animal",
    "person_food": "preferred dish",
    "person_hobby": "pastime",
    "opposite": "antonym",
    "object_material": "usual material",
    "trade_tool": "typical equipment",
    "town_river": "watercourse",
    "town_goods": "main product",
    "town_sight": "principal attraction",
    "town_region": "region",
    "trade_place": "workplace",
    "trade_does": "duty",
    "place_use": "purpose",
    "place_sights": "usual equipment",
    "animal_kind": "zoological class",
    "animal_cover": "outer covering",
    "animal_home": "habitat",
    "animal_food": "diet",
    "animal_young": "offspring",
    "feel": "texture or weight",
    "with_fire": "behavior when heated",
    "made_from": "origin",
    "effect": "consequence",
    "organ_job": "function",
    "food_kind": "food group",
    "food_color": "coloring",
    "food_taste": "flavor",
    "food_from": "place of origin",
    "object_use": "function",
    "object_place": "customary place",
    "tool_measure": "measured quantity",
    "source_of": "yield",
}


def _manners(world: World, rng: random.Random, field: str) -> tuple[str, str, str, list[str]]:
    a, b = two_people(world, rng)
    s = rng.choice(world.situations)
    right = getattr(s, field)
    others = sorted({getattr(t, field) for t in world.situations} - {right})
    ask = f"What is {a.name} like" if field == "a_is" else f"How does {b.name} feel"
    return f"{s.action}/{field}", f"{a.name} {s.action.format(b=b.name)}. {ask}?", right, rng.sample(others, 3)


def _sum(rng: random.Random) -> tuple[str, str, str, list[str]]:
    op = rng.choice("+-*/")
    a, b, c = operands(rng, op)
    near = [n for n in (c - 10, c - 2, c - 1, c + 1, c + 2, c + 10) if n >= 0]
    return f"{a}{op}{b}", f"What is {a} {op} {b}?", str(c), [str(n) for n in rng.sample(near, 3)]


def mmlu(world: World, rng: random.Random) -> Drawn:
    """Return a question of a random subject: `question`, four `choices`, `answer` (an index), `subject`, `group`."""
    subject = rng.choice(list(SUBJECTS))
    group, relations = SUBJECTS[subject]
    if subject == "arithmetic":
        identity, stem, right, wrong = _sum(rng)
    elif not relations:
        identity, stem, right, wrong = _manners(world, rng, "a_is" if subject == "manners" else "b_feels")
    else:
        relation = rng.choice(relations)
        thing = rng.choice(list(world.facts[relation]))
        named = f'"when {thing}"' if relation == "effect" else thing
        if relation.startswith(("animal_", "object_", "trade_", "tool_")):
            named = article(thing)
        elif relation.startswith("place_"):
            named = f"the {thing}"
        right = rng.choice(world.facts[relation][thing])
        wrong = world.wrong(relation, thing, rng, 3)
        identity, stem = f"{relation}/{thing}", f"Which of these is the {TITLES[relation]} of {named}?"
    options = [right, *wrong]
    rng.shuffle(options)
    record = {"question": stem, "choices": options, "answer": options.index(right), "subject": subject, "group": group}
    return f"{subject}/{identity}", record


# the hops of a chain after the person, with its question
CHAINS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("What covers the body of the pet that {n} owns?", ("person_pet", "animal_cover")),
    ("What does the pet of {n} eat?", ("person_pet", "animal_food")),
    ("What is the young of the animal that {n} owns called?", ("person_pet", "animal_young")),
    ("Which river runs through the town where {n} lives?", ("person_town", "town_river")),
    ("What is the home town of {n} known for?", ("person_town", "town_goods")),
    ("What would a visitor see in the town of {n}?", ("person_town", "town_sight")),
    ("In which place does {n} work?", ("person_trade", "trade_place")),
    ("With what does {n} work all day?", ("person_trade", "trade_tool")),
    ("What is the tool of the trade of {n} made of?", ("person_trade", "trade_tool", "object_material")),
    ("Where is the tool of the trade of {n} kept?", ("person_trade", "trade_tool", "object_place")),
    ("What color is the favorite food of {n}?", ("person_food", "food_color")),
    ("Where does the favorite food of {n} come from?", ("person_food", "food_from")),
    (
        "Where do the main materials of the tool of {n} come from?",
        ("person_trade", "trade_tool", "object_material", "made_from"),
    ),
)


def gpqa(world: World, rng: random.Random) -> Drawn:
    """Return a chain of two to four facts about an inhabitant, with three wrong ends, in GPQA's schema."""
    while True:
        person = rng.choice(world.people)
        stem, hops = rng.choice(CHAINS)
        value = person.name
        for relation in hops:
            known = world.facts[relation].get(value)
            if known is None:
                break
            last, value = value, known[0]
        else:
            break
    wrong = world.wrong(hops[-1], last, rng, 3)
    forms = [article(v) if hops[-1] in ("trade_tool", "animal_young") else v for v in (value, *wrong)]
    record = {"Question": stem.format(n=person.name), "Correct Answer": forms[0]}
    record |= {f"Incorrect Answer {i}": form for i, form in enumerate(forms[1:], 1)}
    return f"{person.name}/{'/'.join(hops)}", record | {"High-level domain": "world", "Subdomain": hops[0]}
