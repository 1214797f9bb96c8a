"""Dialogues: two inhabitants ask and answer, greet, bargain, plan."""

from __future__ import annotations

import random

from mini.narrative import two_people
from mini.relations import QUESTIONS, capital, phrase
from mini.world import World, article, plural

GREETINGS = (
    ("Good morning", "Good morning to you"),
    ("Hello", "Hello"),
    ("Hi", "Hi, nice to see you"),
    ("How are you", "I am fine, thank you"),
)
SURE = ("I know that.", "That is easy.", "Let me think.", "Of course.", "I learned it at school.", "My father told me.")
THANKS = ("Thank you!", "Thanks.", "I see.", "That is good to know.", "I did not know that.", "You are right.")


def question_and_answer(world: World, rng: random.Random) -> tuple[str, str]:
    """Return a question on a fact of the world and its true answer as it would be spoken."""
    relation = rng.choice(list(QUESTIONS))
    subject = rng.choice(list(world.facts[relation]))
    answer = rng.choice(world.facts[relation][subject])
    text = phrase(rng.choice(QUESTIONS[relation]), subject)
    question, _, lead = text.partition("?")
    if relation in ("object_place", "animal_home", "trade_place", "food_from"):
        near = ("in", "in or near", "by")
        word = rng.choice(near) if relation == "animal_home" else "from" if relation == "food_from" else "in"
        answer = f"{word} the {answer}"
    elif relation in (
        "animal_kind",
        "animal_young",
        "food_kind",
        "object_kind",
        "trade_tool",
        "person_trade",
        "person_pet",
    ):
        answer = article(answer)
    lead = lead.strip()
    return question + "?", f"{lead} {answer}".strip() if lead else answer


def talk(world: World, rng: random.Random) -> str:
    """Return a conversation of two inhabitants, as a script or as quoted speech."""
    a, b = two_people(world, rng)
    turns: list[tuple[str, str]] = []
    if rng.random() < 0.5:
        hello, back = rng.choice(GREETINGS)
        turns += [
            (a.name, f"{hello}, {b.name}{'?' if hello.startswith('How') else '.'}"),
            (b.name, f"{back}, {a.name}."),
        ]
    kind = rng.random()
    if kind < 0.55:
        for _ in range(rng.randint(1, 2)):
            question, answer = question_and_answer(world, rng)
            turns.append((a.name, question))
            turns.append((b.name, (f"{rng.choice(SURE)} " if rng.random() < 0.3 else "") + capital(answer) + "."))
        turns.append((a.name, rng.choice(THANKS)))
    elif kind < 0.75:
        item, price, n = rng.choice(list(world.facts["object_kind"])), rng.randint(2, 12), rng.randint(2, 9)
        turns.append((a.name, f"How much is {article(item)}?"))
        turns.append((b.name, f"One costs {price} dollars."))
        turns.append((a.name, f"Then {n} {plural(item)} cost {n * price} dollars."))
        turns.append((b.name, rng.choice(("That is right.", "Yes, that is the price.", "You count well."))))
    else:
        place = rng.choice(list(world.facts["place_use"]))
        use = world.facts["place_use"][place][0]
        day = rng.choice(("today", "tomorrow", "on Sunday", "this evening", "next week"))
        turns.append((a.name, f"Shall we go to the {place} {day}?"))
        if rng.random() < 0.6:
            turns.append((b.name, f"Yes! I want to {use}."))
            turns.append(
                (a.name, rng.choice(("Good, I will wait for you.", "Then let us meet at noon.", "I am glad.")))
            )
        else:
            turns.append((b.name, f"No, I do not want to {use} {day}. I have to work."))
            turns.append((a.name, rng.choice(("What a pity.", "Maybe another time.", "Then I will go alone."))))
    if rng.random() < 0.5:
        return "\n".join(f"{who}: {what}" for who, what in turns)
    said = ("said", "said", "answered", "replied")
    out = []
    for who, what in turns:
        verb = "asked" if what.endswith("?") else rng.choice(said)
        body = what[:-1] + "," if what.endswith(".") else what
        out.append(f'"{body}" {verb} {who}.')
    return " ".join(out)
