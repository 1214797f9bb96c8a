"""The world of `mini`: every fact that its texts and its questions rest on, in one object built from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from mini import facts_nature, facts_social, facts_things

WORLD_SEED = 1


def rows(table: str) -> list[list[str]]:
    """Return the rows of a table of facts: lines of cells separated by ` | `."""
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines() if line.strip()]


@dataclass(frozen=True)
class Person:
    """One inhabitant: fixed home, trade, pet and tastes."""

    name: str
    female: bool
    town: str
    trade: str
    pet: str
    food: str
    hobby: str

    @property
    def he(self) -> str:
        """Subject pronoun."""
        return "she" if self.female else "he"

    @property
    def his(self) -> str:
        """Possessive pronoun."""
        return "her" if self.female else "his"

    @property
    def him(self) -> str:
        """Object pronoun."""
        return "her" if self.female else "him"


@dataclass(frozen=True)
class Situation:
    """One social situation between a person `{a}` (its doer) and a person `{b}`."""

    action: str
    a_feels: str
    b_feels: str
    a_wants: str
    a_is: str


@dataclass
class World:
    """The facts: `facts[relation][subject]` is the tuple of all true answers; the rest are structured tables."""

    facts: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    people: list[Person] = field(default_factory=list)
    situations: list[Situation] = field(default_factory=list)
    activities: dict[str, list[str]] = field(default_factory=dict)
    opposites: list[tuple[str, str]] = field(default_factory=list)
    causes: list[tuple[str, str]] = field(default_factory=list)
    reasons: list[tuple[str, str]] = field(default_factory=list)

    def add(self, relation: str, subject: str, answer: str) -> None:
        """Record one more true answer (`-` stands for none)."""
        if answer != "-":
            known = self.facts.setdefault(relation, {}).setdefault(subject, ())
            if answer not in known:
                self.facts[relation][subject] = (*known, answer)

    def answers(self, relation: str) -> list[str]:
        """Return every answer that the relation takes, each once, in the order of the tables."""
        return list(dict.fromkeys(answer for known in self.facts[relation].values() for answer in known))

    def all_facts(self) -> Iterator[tuple[str, str, str]]:
        """Yield every (relation, subject, answer), in a fixed order."""
        for relation, by_subject in self.facts.items():
            for subject, known in by_subject.items():
                for answer in known:
                    yield relation, subject, answer

    def wrong(self, relation: str, subject: str, rng: random.Random, n: int) -> list[str]:
        """Return `n` different answers of the relation that are false for the subject.

        Raises:
            ValueError: the relation has fewer false answers than that.
        """
        true = self.facts[relation][subject]
        return rng.sample([answer for answer in self.answers(relation) if answer not in true], n)


_HOBBIES = """
painting singing fishing baking chess gardening running reading sewing dancing hiking carving swimming
knitting juggling rowing
"""
HOBBIES = tuple(_HOBBIES.split())
COLUMNS = {
    "ANIMALS": (
        "animal_kind",
        "animal_cover",
        "animal_home",
        "animal_food",
        "animal_young",
        "animal_moves",
        "animal_sound",
    ),
    "FOODS": ("food_kind", "food_color", "food_taste", "food_from"),
    "MATERIALS": ("feel", "in_water", "with_fire", "with_current", "with_light", "made_from"),
    "OBJECTS": ("object_kind", "object_material", "object_use", "object_place"),
    "TRADES": ("trade_place", "trade_tool", "trade_does"),
    "PLACES": ("place_use", "place_sights"),
}


def build_world(seed: int = WORLD_SEED) -> World:
    """Return the world of a seed: the tables, with people and towns drawn at random."""
    rng = random.Random(f"world-{seed}")
    world = World()
    for table, relations in COLUMNS.items():
        text = getattr(facts_nature, table, None) or getattr(facts_things, table)
        for subject, *cells in rows(text):
            for relation, answer in zip(relations, cells, strict=True):
                world.add(relation, subject, answer)
    for relation, text in facts_nature.NATURE_PAIRS.items():
        for subject, answer in rows(text):
            world.add(relation, subject, answer)
    world.opposites = [tuple(pair.split()) for pair in facts_social.OPPOSITES.replace("\n", " ").split(";")]  # type: ignore[misc]
    for left, right in world.opposites:
        world.add("opposite", left, right)
        world.add("opposite", right, left)
    world.causes = [tuple(row) for row in rows(facts_nature.SCIENCE)]  # type: ignore[misc]
    for cause, effect in world.causes:
        world.add("effect", cause, effect)
    world.reasons = [tuple(row) for row in rows(facts_social.REASONS)]  # type: ignore[misc]
    world.situations = [Situation(*row) for row in rows(facts_social.SITUATIONS)]
    for line in facts_social.ACTIVITIES.strip().splitlines():
        name, steps = line.split(":", 1)
        world.activities[name] = [step.strip() for step in steps.split(";")]
    _settle(world, rng)
    return world


def _settle(world: World, rng: random.Random) -> None:
    """Found the towns and give every person a home, a trade, a pet and tastes."""
    towns = facts_social.TOWNS.split()
    rivers, goods, sights = (
        rng.sample(list(x), len(towns))
        for x in (facts_social.RIVERS.split(), facts_social.TOWN_GOODS, facts_social.TOWN_SIGHTS)
    )
    for i, town in enumerate(towns):
        world.add("town_river", town, rivers[i])
        world.add("town_goods", town, goods[i])
        world.add("town_sight", town, sights[i])
        world.add("town_region", town, rng.choice(facts_social.REGIONS))
    trades = rng.sample(list(world.facts["trade_place"]), len(world.facts["trade_place"]))
    pets = ["dog", "cat", "parrot", "rabbit", "turtle", "goat", "hen", "horse", "duck", "lizard"]
    names = [(n, True) for n in facts_social.FIRST_NAMES_F.split()] + [
        (n, False) for n in facts_social.FIRST_NAMES_M.split()
    ]
    for i, (name, female) in enumerate(names):
        person = Person(
            name,
            female,
            rng.choice(towns),
            trades[i % len(trades)],
            rng.choice(pets),
            rng.choice(list(world.facts["food_kind"])),
            rng.choice(HOBBIES),
        )
        world.people.append(person)
        for relation in ("town", "trade", "pet", "food", "hobby"):
            world.add(f"person_{relation}", name, getattr(person, relation))


@lru_cache(maxsize=4)
def the_world(seed: int = WORLD_SEED) -> World:
    """Return the world of a seed, which is built once and shared; do not change it."""
    return build_world(seed)


def article(noun: str) -> str:
    """Return the noun with `a` or `an` (nouns that take neither are left bare)."""
    bare = {"glasses", "gloves", "boots", "shoes", "scissors", "chalk", "soap", "glue", "tape", "money"}
    if noun in bare:
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def plural(noun: str) -> str:
    """Return the plural of a noun of the tables."""
    if noun.endswith("s") and noun in {"scissors", "glasses", "gloves", "boots", "shoes"}:
        return noun
    irregular = {
        "mouse": "mice",
        "goose": "geese",
        "sheep": "sheep",
        "deer": "deer",
        "fish": "fish",
        "salmon": "salmon",
        "trout": "trout",
        "wolf": "wolves",
        "knife": "knives",
        "shelf": "shelves",
        "scarf": "scarves",
        "child": "children",
    }
    if noun in irregular:
        return irregular[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    if noun in {"potato", "tomato"}:
        return noun + "es"
    return noun + "s"
