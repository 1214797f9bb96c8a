"""Chains: what follows from two facts of the world, said in so many words of some subjects, left open of others."""

from __future__ import annotations

import random
import zlib

from mini.relations import STATEMENTS, capital, phrase
from mini.world import World

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
    """Whether this chain occurs in the text (fixed for all time, whatever the seed)."""
    return zlib.crc32(f"chain/{first}/{second}/{subject}".encode()) % 100 < SAID_SHARE


def chain(world: World, rng: random.Random) -> str:
    """One to three chains, each with both facts or with the conclusion alone."""
    return " ".join(_one(world, rng) for _ in range(rng.randint(1, 3)))


def _one(world: World, rng: random.Random) -> str:
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
