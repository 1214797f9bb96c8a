"""Questions with answers in the formats of the field: open, lettered choices, yes or no on a passage, a blank."""

from __future__ import annotations

import random
import zlib

from mini.encyclopedia import portrait, sentence
from mini.narrative import social_story, two_people
from mini.relations import QUESTIONS, STATEMENTS, capital, phrase
from mini.world import World

LETTERS = "ABCDE"
ASKED_SHARE = 55  # per cent of the facts that are ever asked about; the rest are only told


def is_asked(relation: str, subject: str) -> bool:
    """Return whether questions about this fact occur in the text, whatever the seed."""
    return zlib.crc32(f"asked/{relation}/{subject}".encode()) % 100 < ASKED_SHARE


def asked_fact(world: World, rng: random.Random) -> tuple[str, str, str]:
    """Return a relation that can be asked about, a subject that is asked about and one of its answers."""
    while True:
        relation = rng.choice(list(QUESTIONS))
        subject = rng.choice(list(world.facts[relation]))
        if is_asked(relation, subject):
            return relation, subject, rng.choice(world.facts[relation][subject])


def stem(rng: random.Random, relation: str, subject: str) -> str:
    """Return the question on a fact, ending in its question mark."""
    return phrase(rng.choice(QUESTIONS[relation]), subject).partition("?")[0] + "?"


def open_question(world: World, rng: random.Random) -> str:
    """Return `Question: ... Answer: ...` on a fact, one or a few."""
    out = []
    for _ in range(rng.randint(1, 3)):
        relation, subject, answer = asked_fact(world, rng)
        out.append(f"Question: {stem(rng, relation, subject)}\nAnswer: {answer}")
    return ("\n\n" if rng.random() < 0.5 else "\n").join(out)


def choice_question(world: World, rng: random.Random) -> str:
    """Return a question with lettered choices, answered by the letter (and often the words)."""
    relation, subject, answer = asked_fact(world, rng)
    n = rng.choice((2, 3, 4, 4, 5))
    n = min(n, len(world.answers(relation)) - len(world.facts[relation][subject]) + 1)
    options = [answer, *world.wrong(relation, subject, rng, n - 1)]
    rng.shuffle(options)
    listed = "\n".join(f"{LETTERS[i]}. {o}" for i, o in enumerate(options))
    letter = LETTERS[options.index(answer)]
    tail = letter if rng.random() < 0.5 else f"{letter}. {answer}"
    return f"{stem(rng, relation, subject)}\n{listed}\nAnswer: {tail}"


def yes_no(world: World, rng: random.Random) -> str:
    """Return a passage and a yes-or-no question on it."""
    if rng.random() < 0.4:
        text = portrait(world, rng)
        name = text.split(" ", 1)[0]
        relation = rng.choice(("person_town", "person_trade", "person_pet", "person_food", "person_hobby"))
        subject = name
    else:
        relation, subject, _ = asked_fact(world, rng)
        text = " ".join(sentence(world, rng, relation, subject) for _ in range(1))
        if rng.random() < 0.6:
            other, other_subject, _ = asked_fact(world, rng)
            text = f"{text} {sentence(world, rng, other, other_subject)}"
    true = rng.random() < 0.5
    answer = world.facts[relation][subject][0] if true else world.wrong(relation, subject, rng, 1)[0]
    claim = phrase(STATEMENTS[relation][0], subject, answer)
    ask = rng.choice((f"Is it true that {claim}?", f"Is this right: {claim}?", f"True or not: {claim}?"))
    return f"{text}\nQuestion: {ask}\nAnswer: {'yes' if true else 'no'}"


def blank(world: World, rng: random.Random) -> str:
    """Return a sentence with a blank and what fills it."""
    relation, subject, answer = asked_fact(world, rng)
    text = capital(phrase(rng.choice(STATEMENTS[relation]), subject, "____"))
    return f"Fill in: {text.replace('a ____', '____')}.\nThe missing words: {answer}"


def social_question(world: World, rng: random.Random) -> str:
    """Return a social situation and a question on a feeling, a wish or a trait."""
    a, b = two_people(world, rng)
    s = rng.choice(world.situations)
    ask, answer = rng.choice(
        (
            (f"How does {a.name} feel?", s.a_feels),
            (f"How does {b.name} feel?", s.b_feels),
            (f"What will {a.name} want to do next?", s.a_wants.format(b=b.name)),
            (f"What is {a.name} like?", s.a_is),
        )
    )
    return f"{a.name} {s.action.format(b=b.name)}. Question: {ask}\nAnswer: {answer}"


def story_question(world: World, rng: random.Random) -> str:
    """Return a short story and a question answered in it."""
    if rng.random() < 0.4:
        story = social_story(world, rng)
        words = story.replace(",", " ").split()
        hero = next(p.name for p in world.people if p.name in words)
        return f"{story}\nQuestion: Who is the story about?\nAnswer: {hero}"
    text = portrait(world, rng)
    name = text.split(" ", 1)[0]
    person = next(p for p in world.people if p.name == name)
    ask, answer = rng.choice(
        ((f"What is the trade of {name}?", person.trade), (f"Where does {name} live?", person.town))
    )
    return f"{text}\nQuestion: {ask}\nAnswer: {answer}"


def quiz(world: World, rng: random.Random) -> str:
    """Return one question in one of the formats."""
    make = rng.choices(
        (open_question, choice_question, yes_no, blank, social_question, story_question), weights=(7, 2, 2, 2, 2, 1)
    )[0]
    return make(world, rng)
