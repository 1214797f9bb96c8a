"""Stories: activities step by step, social situations with their feelings, days in the towns, causes at work."""

from __future__ import annotations

import random

from mini.encyclopedia import base_form, pairs
from mini.facts_social import PRONOUNS
from mini.relations import capital
from mini.world import Person, World, article, rows

OPENINGS = (
    "One day",
    "One morning",
    "Last Sunday",
    "On a warm afternoon",
    "Early in the day",
    "In the evening",
    "After lunch",
    "On Monday",
    "Before school",
    "One winter day",
    "During the holidays",
    "Late on Friday",
    "Yesterday",
)
THEN = ("Then", "Next", "After that", "Soon after", "A little later", "When that was done,")
LAST = ("At last", "Finally", "In the end")
MOODS = ("pleased with the work", "glad", "tired but happy", "content")
PLACES_OUT = (
    "at the market",
    "in the park",
    "at school",
    "by the river",
    "at home",
    "in the street",
    "at the station",
    "on the farm",
    "in the library",
    "at the harbor",
)
FEELING_LINES = ("{N} felt {f}.", "{N} was {f} about it.", "It made {N} feel {f}.", "Now {N} was {f}.")

PAST = pairs(
    """
puts put, goes went, takes took, cuts cut, lets let, digs dug, sets set, writes wrote, sticks stuck, throws
threw, feels felt, steps stepped, drinks drank, pours poured, gets got, reads read, falls fell, buys bought,
finds found, holds held, runs ran, sits sat, makes made, hangs hung, tells told, hears heard, sees saw, sews
sewed, leads led, speaks spoke, blows blew, rides rode, wears wore, sweeps swept, lays laid, drops dropped,
stops stopped, chops chopped, rubs rubbed, dips dipped, fits fitted, wrings wrung, spreads spread, scrubs
scrubbed, eats ate, shovels shoveled, ties tied, hides hid, says said, pays paid, is was, lights lit
"""
)


def past(verb: str) -> str:
    """Return the past form of a verb given in the third person singular."""
    if verb in PAST:
        return PAST[verb]
    base = base_form(verb)
    if base.endswith("e"):
        return base + "d"
    if base.endswith("y") and base[-2] not in "aeiou":
        return base[:-1] + "ied"
    return base + "ed"


def past_step(step: str) -> str:
    """Return a step of an activity in the past tense."""
    verb, _, rest = step.partition(" ")
    return f"{past(verb)} {rest}".strip()


def activity_story(world: World, rng: random.Random) -> str:
    """Return a story: a person does an activity, step after step, sometimes with a feeling at the end."""
    p = rng.choice(world.people)
    name = rng.choice(list(world.activities))
    steps = world.activities[name]
    first = rng.randrange(0, 2)
    use_past = rng.random() < 0.6
    tell = past_step if use_past else (lambda step: step)
    lines = [
        f"{rng.choice(OPENINGS)} {p.name} {tell(steps[first])}."
        if rng.random() < 0.5
        else f"{p.name} {'was' if use_past else 'is'} {name}. First {p.he} {tell(steps[first])}."
    ]
    for i, step in enumerate(steps[first + 1 :], first + 1):
        start = rng.choice(LAST) if i == len(steps) - 1 and rng.random() < 0.6 else rng.choice((*THEN, "", "", ""))
        who = rng.choice((p.he, p.he, p.name))
        lines.append(capital(f"{start} {who} {tell(step)}.".strip()))
    if rng.random() < 0.4:
        lines.append(f"{p.name} {'was' if use_past else 'is'} {rng.choice(MOODS)}.")
    if rng.random() < 0.25:
        return f"{capital(name)}\n" + " ".join(lines)
    return " ".join(lines)


def two_people(world: World, rng: random.Random) -> tuple[Person, Person]:
    """Return two different inhabitants."""
    a, b = rng.sample(world.people, 2)
    return a, b


def social_story(world: World, rng: random.Random) -> str:
    """Return a story: someone does something to someone, each feels something, and what happens next."""
    a, b = two_people(world, rng)
    s = rng.choice(world.situations)
    lines = [
        f"{rng.choice(OPENINGS)} {a.name} {s.action.format(b=b.name)}."
        if rng.random() < 0.6
        else f"{capital(rng.choice(PLACES_OUT))}, {a.name} {s.action.format(b=b.name)}."
    ]
    tail = [
        rng.choice(FEELING_LINES).format(N=a.name, f=s.a_feels),
        rng.choice(FEELING_LINES).format(N=b.name, f=s.b_feels),
        rng.choice(("Next {n} wanted to {w}.", "Then {n} tried to {w}.", "After this {n} hoped to {w}.")).format(
            n=a.name, w=s.a_wants.format(b=b.name)
        ),
        rng.choice(
            ("People say that {n} is {t}.", "{n} is {t}, everyone thought.", "That is how {t} {n} can be.")
        ).format(n=a.name, t=s.a_is),
    ]
    lines += rng.sample(tail, rng.randint(2, 4))
    return " ".join(lines)


def errand_story(world: World, rng: random.Random) -> str:
    """Return a story: someone needs to do something, fetches a thing for it from its place and uses it."""
    p = rng.choice(world.people)
    thing = rng.choice(list(world.facts["object_use"]))
    use, place = world.facts["object_use"][thing][0], world.facts["object_place"][thing][0]
    wrong = rng.choice(world.answers("object_place"))
    lines = [
        rng.choice(
            ("{n} wanted to {u}.", "{n} had to {u}, so {h} needed {a}.", "It was time to {u}, and {n} looked for {a}.")
        ).format(n=p.name, u=use, h=p.he, a=article(thing))
    ]
    if wrong != place and rng.random() < 0.4:
        lines.append(f"There was no {thing} in the {wrong}.")
    lines.append(
        rng.choice(
            ("{H} went to the {p} and found {a}.", "{H} took the {t} from the {p}.", "In the {p} there was {a}.")
        ).format(H=capital(p.he), p=place, a=article(thing), t=thing)
    )
    lines.append(
        rng.choice(
            ("With the {t}, {n} could {u}.", "Now {h} could {u}.", "Then {h} put the {t} back in the {p}.")
        ).format(t=thing, n=p.name, u=use, h=p.he, p=place)
    )
    return " ".join(lines)


def cause_story(world: World, rng: random.Random) -> str:
    """Return a story: a law of nature at work, or an act and its reason, as seen by someone."""
    p = rng.choice(world.people)
    if rng.random() < 0.5:
        cause, effect = rng.choice(world.causes)
        return rng.choice(
            (
                f"{p.name} asked what happens when {cause}. The answer is that {effect}.",
                f"{p.name} saw it with {p.his} own eyes: when {cause}, {effect}.",
                f"At school {p.name} learned that {effect} when {cause}.",
                f'"Why is it that {effect}?" asked {p.name}. "Because {cause}," said {p.his} teacher.',
            )
        )
    act, why = rng.choice(world.reasons)
    clause = (
        why
        if " is " in why
        or " are " in why
        or " has " in why
        or "does" in why
        or "belongs" in why
        or "tastes" in why
        or "squeaks" in why
        or "leaves" in why
        else None
    )
    if why.startswith(("to ", "so that")):
        return f"{p.name} {act} {why}."
    if clause:
        return rng.choice(
            (
                f"{p.name} {act} because {why}.",
                f"Because {why}, {p.name} {act}.",
                f"It is clear why {p.name} {act}: {why}.",
            )
        )
    return rng.choice(
        (
            f"{p.name} {act} because of {why}.",
            f"The reason that {p.name} {act} is {why}.",
            f"It is {why} that makes {p.name} act. {capital(p.he)} {act}.",
        )
    )


def pronoun_story(world: World, rng: random.Random) -> str:
    """Return sentences in which one word says which of two things or people is meant, which is then named in full."""
    out = []
    for _ in range(rng.randint(1, 3)):
        text, word_x, word_y, couples = rng.choice(rows(PRONOUNS))
        first = rng.random() < 0.5
        a, b = two_people(world, rng)
        x, _, y = rng.choice([couple.strip() for couple in couples.split(";")]).partition("/")
        people = "{n1}" in text
        answer = (a.name if first else b.name) if people else (x if first else y)
        told = text.format(x=x, y=y, w=word_x if first else word_y, n1=a.name, n2=b.name).strip('"')
        out.append(told.replace("_", answer))
    return " ".join(out)


def day_story(world: World, rng: random.Random) -> str:
    """Return a day of an inhabitant: place, work, an animal met, the evening."""
    p, q = two_people(world, rng)
    f = world.facts
    animal = rng.choice(list(f["animal_home"]))
    place = rng.choice(list(f["place_use"]))
    mover = f["animal_moves"][animal][0]
    parts = [
        f"{rng.choice(OPENINGS)} {p.name} left the house in {p.town} and went to the {place}.",
        f"There one can {f['place_use'][place][0]}.",
        f"{capital(p.he)} saw {f['place_sights'][place][0]}.",
        f"Near the {f['animal_home'][animal][0]} {p.he} met {article(animal)}.",
        f"It {mover} and eats {f['animal_food'][animal][0]}.",
        f"{q.name} came too, for {q.he} likes {q.hobby}.",
        f"They ate {rng.choice((p.food, q.food))} together.",
        f"In the evening {p.name} fed {p.his} {p.pet} and went to bed.",
    ]
    keep = sorted(rng.sample(range(1, len(parts)), rng.randint(3, 6)))
    if 4 in keep and 3 not in keep:
        keep.remove(4)
    return " ".join([parts[0], *(parts[i] for i in keep)])
