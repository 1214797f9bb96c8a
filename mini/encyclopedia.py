"""Texts that state the world's facts: encyclopedia entries, definitions and lists."""

from __future__ import annotations

import random
import zlib

from mini.relations import STATEMENTS, capital, phrase
from mini.world import Person, World, article, plural

# the relations that one entry about a subject may use, by the relation that lists the subjects
GROUPS: dict[str, tuple[str, ...]] = {
    "animal_kind": (
        "animal_kind",
        "animal_cover",
        "animal_home",
        "animal_food",
        "animal_young",
        "animal_moves",
        "animal_sound",
    ),
    "food_kind": ("food_kind", "food_color", "food_taste", "food_from"),
    "feel": ("feel", "in_water", "with_fire", "with_current", "with_light", "made_from"),
    "object_kind": ("object_kind", "object_material", "object_use", "object_place"),
    "trade_place": ("trade_place", "trade_tool", "trade_does"),
    "place_use": ("place_use", "place_sights"),
    "town_river": ("town_river", "town_goods", "town_sight", "town_region"),
    "person_town": ("person_town", "person_trade", "person_pet", "person_food", "person_hobby"),
}
SINGLE = ("organ_job", "tool_measure", "season_sign", "source_of", "opposite", "effect")
LINKS = ("", "", "", "", "Also, ", "As everyone knows, ", "In most places, ", "It is true that ", "Remember that ")


def sentence(world: World, rng: random.Random, relation: str, subject: str) -> str:
    """Return one true sentence about the subject."""
    answer = rng.choice(world.facts[relation][subject])
    text = phrase(rng.choice(STATEMENTS[relation]), subject, answer)
    link = rng.choice(LINKS)
    return (link + text if link else capital(text)) + "."


def entry(world: World, rng: random.Random) -> str:
    """Return an entry: several facts about one subject, in any order, later mentions sometimes as `it`."""
    head = rng.choices(list(GROUPS), weights=(6, 3, 3, 10, 4, 4, 2, 4))[0]
    subject = rng.choice(list(world.facts[head]))
    relations = [r for r in GROUPS[head] if subject in world.facts[r]]
    chosen = rng.sample(relations, min(len(relations), rng.randint(2, 5)))
    body = " ".join(sentence(world, rng, relation, subject) for relation in chosen)
    title = rng.random()
    if title < 0.05:
        return f"#### {capital(subject)}\n{body}"
    if title < 0.25:
        return f"{capital(subject)}\n{body}"
    if title < 0.35:
        return f"About {subject if head in ('person_town', 'town_river', 'feel') else plural(subject)}: {body}"
    return body


def definition(world: World, rng: random.Random) -> str:
    """Return dictionary lines for an object, a trade, a place or an animal."""
    f = world.facts
    pick = rng.randrange(4)
    if pick == 0:
        s = rng.choice(list(f["object_use"]))
        kind, use, made = f["object_kind"][s][0], f["object_use"][s][0], f["object_material"][s][0]
        return rng.choice(
            (
                f"{capital(s)}: {article(kind)} used to {use}.",
                f"{capital(s)} (noun): {article(kind)}, often of {made}, used to {use}.",
                f"What is {article(s)}? It is {article(kind)} that people use to {use}.",
                f"A thing of {made} with which you can {use} is called {article(s)}.",
            )
        )
    if pick == 1:
        s = rng.choice(list(f["trade_does"]))
        does, place = f["trade_does"][s][0], f["trade_place"][s][0]
        return rng.choice(
            (
                f"{capital(s)}: a person who {does}.",
                f"{capital(s)} (noun): one who {does} in the {place}.",
                f"Someone who {does} is called {article(s)}.",
                f"If you need a person who {does}, ask {article(s)}.",
            )
        )
    if pick == 2:
        s = rng.choice(list(f["place_use"]))
        use, sights = f["place_use"][s][0], f["place_sights"][s][0]
        return rng.choice(
            (
                f"{capital(s)}: a place to {use}.",
                f"{capital(s)} (noun): a place with {sights}.",
                f"A place where people {use} is called a {s}.",
                f"If you want to {use}, go to the {s}.",
            )
        )
    s = rng.choice(list(f["animal_kind"]))
    kind, cover, home = f["animal_kind"][s][0], f["animal_cover"][s][0], f["animal_home"][s][0]
    return rng.choice(
        (
            f"{capital(s)}: {article(kind)} with {cover} that lives in or near the {home}.",
            f"{capital(s)} (noun): an animal, {article(kind)}, found by the {home}.",
        )
    )


def single(world: World, rng: random.Random) -> str:
    """Return two to four unrelated facts of the short tables (science, opposites, sources, measures)."""
    out = []
    for _ in range(rng.randint(2, 4)):
        relation = rng.choices(SINGLE, weights=(2, 1, 1, 2, 5, 8))[0]
        subject = rng.choice(list(world.facts[relation]))
        if relation == "organ_job":
            job = world.facts[relation][subject][0]
            out.append(f"The {subject} {job}." if rng.random() < 0.7 else f"What {job}? The {subject}.")
        else:
            out.append(sentence(world, rng, relation, subject))
    return " ".join(out)


def listing(world: World, rng: random.Random) -> str:
    """Return a list: members of a kind, things in one place or of one material, steps of an activity, or a count."""
    pick = rng.randrange(6)
    if pick == 5:
        name = rng.choice(list(world.activities))
        steps = [capital(_bare(step)) for step in world.activities[name]]
        return f"Steps for {name}:\n" + "\n".join(f"{i}. {step}." for i, step in enumerate(steps, 1))
    if pick == 4:
        start, step = rng.randint(0, 40), rng.choice((1, 1, 1, 2, 2, 3, 5, 10))
        numbers = [start + step * i for i in range(rng.randint(5, 12))]
        if rng.random() < 0.3:
            numbers.reverse()
        return f"Counting by {step}: " + ", ".join(map(str, numbers)) + "."
    relation, title = (
        ("animal_kind", "Animals that are {}s"),
        ("object_place", "Things in the {}"),
        ("object_material", "Things made of {}"),
        ("food_color", "Foods that are {}"),
    )[pick]
    answer = rng.choice(world.answers(relation))
    members = [s for s, known in world.facts[relation].items() if answer in known]
    members = rng.sample(members, min(len(members), 8))
    head = title.format(answer)
    if rng.random() < 0.5:
        return f"{head}:\n" + "\n".join(f"- {m}" for m in members)
    return f"{head}: {', '.join(members)}."


def _bare(step: str) -> str:
    """Return the imperative of a step: `fills the kettle` becomes `fill the kettle`."""
    verb, _, rest = step.partition(" ")
    return f"{base_form(verb)} {rest}".strip()


def pairs(table: str) -> dict[str, str]:
    """Return the dictionary of a table of word pairs separated by commas."""
    return dict(pair.split() for pair in table.replace("\n", " ").split(", "))  # type: ignore[misc]


BASE = pairs(
    """
goes go, does do, washes wash, brushes brush, pushes push, presses press, waits wait, catches catch, watches
watch, reaches reach, mixes mix, dries dry, ties tie, carries carry, tries try, fixes fix, searches search,
studies study, teaches teach, stitches stitch, hushes hush, is be, has have, empties empty, unrolls unroll,
dusts dust, flies fly
"""
)


def base_form(verb: str) -> str:
    """Return the base form of a verb in the third person singular."""
    if verb in BASE:
        return BASE[verb]
    return verb[:-1] if verb.endswith("s") else verb


def portrait(world: World, rng: random.Random) -> str:
    """Return a short portrait of one inhabitant, true to the world."""
    p: Person = rng.choice(world.people)
    does = world.facts["trade_does"][p.trade][0]
    lines = [
        f"{p.name} is {article(p.trade)} in {p.town}.",
        f"{capital(p.he)} {does} all week.",
        f"At home {p.he} has {article(p.pet)}.",
        f"For dinner {p.he} likes {p.food}.",
        f"On free days {p.he} enjoys {p.hobby}.",
        f"The river {world.facts['town_river'][p.town][0]} runs past {p.his} house.",
        f"{capital(p.he)} works in the {world.facts['trade_place'][p.trade][0]}.",
    ]
    rest = rng.sample(lines[1:], rng.randint(2, 5))
    return " ".join([lines[0], *rest])


# --- chains: what follows from two facts, said of some subjects and left open of others --------------------------

SAID_SHARE = 50  # per cent of the subjects whose chains are ever said

# first relation, second relation, the conclusion about {s} with the end {o}
CHAINS: tuple[tuple[str, str, str], ...] = (
    ("object_material", "in_water", "put in a pond, {as} {o}"),
    ("object_material", "with_fire", "{as} {o} in a fire"),
    ("object_material", "with_current", "in an electric current {as} {o}"),
    ("object_material", "feel", "{as} feels {o}"),
    ("object_material", "made_from", "what {as} is made of comes from {o}"),
    ("person_pet", "animal_cover", "the pet of {s} is covered with {o}"),
    ("person_pet", "animal_food", "{s} has to bring {o} for the pet"),
    ("person_town", "town_river", "{s} lives by the river {o}"),
    ("person_town", "town_goods", "{s} lives where {o} is made"),
    ("person_trade", "trade_place", "{s} works in the {o}"),
    ("person_trade", "trade_tool", "{s} works with {ao}"),
    ("person_food", "food_color", "what {s} likes to eat is {o}"),
    ("person_food", "food_from", "what {s} likes to eat comes from the {o}"),
)


def is_said(first: str, second: str, subject: str) -> bool:
    """Return whether this chain occurs in the text, whatever the seed."""
    return zlib.crc32(f"chain/{first}/{second}/{subject}".encode()) % 100 < SAID_SHARE


def chain(world: World, rng: random.Random) -> str:
    """Return one to three chains, each with both facts or with the conclusion alone."""
    return " ".join(_one_chain(world, rng) for _ in range(rng.randint(1, 3)))


def _one_chain(world: World, rng: random.Random) -> str:
    facts = world.facts
    while True:
        first, second, conclusion = rng.choice(CHAINS)
        subject = rng.choice(list(facts[first]))
        middle = facts[first][subject][0]
        if middle in facts[second] and is_said(first, second, subject):
            break
    end = facts[second][middle][0]
    said = phrase(conclusion, subject, end)
    if rng.random() < 0.3:
        return capital(said) + "."
    one = phrase(rng.choice(STATEMENTS[first]), subject, middle)
    other = phrase(rng.choice(STATEMENTS[second]), middle, end)
    return f"{capital(one)}. {capital(other)}. So {said}."
