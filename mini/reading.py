"""Reading: passages of invented particulars, true nowhere else, with questions that only the passage answers."""

from __future__ import annotations

import random
from dataclasses import dataclass

from mini.relations import capital
from mini.world import HOBBIES, Person, World, article

COLORS = ("red", "blue", "green", "white", "black", "brown", "yellow", "gray")
Told = tuple[Person, str, str]  # of whom, which particular, its value
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True)
class Particular:
    """One thing that a passage tells of a person: as told, asked to be confirmed, and asked openly.

    In the templates `{n}` is the person, `{o}` the value and `{ao}` the value with its article.
    """

    told: str
    confirm: str
    ask: str


PARTICULARS: dict[str, Particular] = {
    "town": Particular("{n} lives in {o}.", "does {n} live in {o}", "Where does {n} live"),
    "trade": Particular("{n} works as {ao}.", "is {n} {ao}", "What is the trade of {n}"),
    "pet": Particular("{n} owns {ao}.", "does {n} have {ao} as a pet", "What pet does {n} have"),
    "food": Particular("{n} likes {o} best of all foods.", "does {n} like {o} best", "What food does {n} like best"),
    "hobby": Particular(
        "In the evening {n} enjoys {o}.", "does {n} enjoy {o} in the evening", "What does {n} enjoy in the evening"
    ),
    "house": Particular("The house of {n} is {o}.", "is the house of {n} {o}", "What color is the house of {n}"),
    "friend": Particular("A friend of {n} is {o}.", "is {o} a friend of {n}", "Who is a friend of {n}"),
    "bought": Particular("{n} bought {ao} yesterday.", "did {n} buy {ao} yesterday", "What did {n} buy yesterday"),
    "visit": Particular("{n} went to the {o}.", "did {n} go to the {o}", "Where did {n} go"),
    "day": Particular("{n} rests on {o}.", "does {n} rest on {o}", "When does {n} rest"),
    "count": Particular("{n} has {o} books.", "does {n} have {o} books", "How many books does {n} have"),
}


def values(world: World, kind: str) -> list[str]:
    """Return the possible values of a particular."""
    if kind in ("town", "trade", "pet"):
        return world.answers(f"person_{kind}")
    if kind == "count":
        return [str(n) for n in range(2, 30)]
    return {
        "food": list(world.facts["food_kind"]),
        "hobby": list(HOBBIES),
        "house": list(COLORS),
        "friend": [person.name for person in world.people],
        "bought": list(world.facts["object_kind"]),
        "visit": list(world.facts["place_use"]),
        "day": list(DAYS),
    }[kind]


def tell(kind: str, person: Person, value: str, name: bool) -> str:
    """Return the sentence of the passage; the person by name or by pronoun."""
    who = person.name if name or kind in ("house", "friend") else person.he
    return capital(PARTICULARS[kind].told.format(n=who, o=value, ao=article(value)))


def comprehension(world: World, rng: random.Random) -> str:
    """Return a passage on one or two people and a few questions on it, to be confirmed or answered."""
    people = rng.sample(world.people, 1 if rng.random() < 0.7 else 2)
    told: list[Told] = []
    passage: list[str] = []
    for person in people:
        kinds = rng.sample(list(PARTICULARS), rng.randint(2, 5) if len(people) == 1 else 2)
        for i, kind in enumerate(kinds):
            value = rng.choice([v for v in values(world, kind) if v != person.name])
            told.append((person, kind, value))
            passage.append(tell(kind, person, value, name=i == 0))
    lines = [" ".join(passage)]
    for _ in range(rng.randint(2, 4)):
        person, kind, value = one = rng.choice(told)
        if rng.random() < 0.3:
            lines.append(f"Question: {PARTICULARS[kind].ask.format(n=person.name)}?\nAnswer: {value}")
        else:
            lines.append(confirm(world, rng, one))
    return "\n".join(lines)


def confirmations(world: World, rng: random.Random) -> str:
    """Return a short passage on one person and many yes-or-no questions on it."""
    person = rng.choice(world.people)
    told: list[Told] = []
    for kind in rng.sample(list(PARTICULARS), rng.randint(1, 4)):
        told.append((person, kind, rng.choice([v for v in values(world, kind) if v != person.name])))
    passage = " ".join(tell(kind, person, value, name=i == 0) for i, (_, kind, value) in enumerate(told))
    return "\n".join([passage, *(confirm(world, rng, rng.choice(told)) for _ in range(rng.randint(3, 7)))])


def confirm(world: World, rng: random.Random, told: Told) -> str:
    """Return a question on what was told, with the true value or another, and its answer."""
    person, kind, value = told
    true = rng.random() < 0.5
    claim = value if true else rng.choice([v for v in values(world, kind) if v not in (value, person.name)])
    ask = PARTICULARS[kind].confirm.format(n=person.name, o=claim, ao=article(claim))
    return f"Question: {ask}?\nAnswer: {'yes' if true else 'no'}"
