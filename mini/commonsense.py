"""Eight evaluation sets of the kinds of the paper's Table 1, on the world's facts, in the real sets' raw schemas.

Every maker draws one record and names its identity, what is asked with the names of people left aside; `records`
deals identities to splits.
"""

from __future__ import annotations

import random
from typing import Any

from mini.facts_social import PRONOUNS
from mini.narrative import past_step, two_people
from mini.relations import STATEMENTS, capital, phrase
from mini.world import HOBBIES, World, article, rows

Drawn = tuple[str, dict[str, Any]]


def lettered(rng: random.Random, stem: str, right: str, wrong: list[str], labels: str = "ABCD") -> dict[str, Any]:
    """Return a question in the schema of ARC, OpenBookQA and CommonsenseQA, its choices shuffled."""
    options = [right, *wrong]
    rng.shuffle(options)
    choices = [{"text": text, "label": labels[i]} for i, text in enumerate(options)]
    return {"question": {"stem": stem, "choices": choices}, "answerKey": labels[options.index(right)]}


def boolq(world: World, rng: random.Random) -> Drawn:
    """Return a yes-or-no question on a passage about a person, which only the passage answers."""
    person = rng.choice(world.people)
    pools = {
        "town": (world.answers("person_town"), "{n} lives in {o}.", "does {n} live in {o}"),
        "trade": (world.answers("person_trade"), "{n} works as {ao}.", "is {n} {ao}"),
        "pet": (world.answers("person_pet"), "{n} owns {ao}.", "does {n} have {ao} as a pet"),
        "food": (list(world.facts["food_kind"]), "{n} likes {o} best of all foods.", "does {n} like {o} best"),
        "hobby": (list(HOBBIES), "In the evening {n} enjoys {o}.", "does {n} enjoy {o} in the evening"),
    }
    kinds = rng.sample(list(pools), rng.randint(3, 5))
    told = {kind: rng.choice(pools[kind][0]) for kind in kinds}
    passage = " ".join(
        pools[kind][1].format(n=person.name if i == 0 else capital(person.he), o=told[kind], ao=article(told[kind]))
        for i, kind in enumerate(kinds)
    ).replace(f"evening {capital(person.he)}", f"evening {person.he}")
    asked = rng.choice(kinds)
    true = rng.random() < 0.5
    answer = told[asked] if true else rng.choice([o for o in pools[asked][0] if o != told[asked]])
    question = pools[asked][2].format(n=person.name, o=answer, ao=article(answer))
    identity = f"{[(k, told[k]) for k in kinds]} {asked} {answer}"
    return identity, {"question": question, "passage": passage, "label": "true" if true else "false"}


def piqa(world: World, rng: random.Random) -> Drawn:
    """Return a question with two physical solutions: the right tool, material or order of steps, and a wrong one."""
    kind = rng.randrange(4)
    f = world.facts
    if kind == 0:
        activity = rng.choice(list(world.activities))
        steps = world.activities[activity]
        i, j = sorted(rng.sample(range(len(steps)), 2))
        goal = f"What is the right order when {activity}?"
        right, wrong = f"First one {steps[i]}, then one {steps[j]}.", f"First one {steps[j]}, then one {steps[i]}."
        identity = f"order/{activity}/{i}/{j}"
    elif kind == 1:
        relation = rng.choice(("in_water", "with_fire", "with_current", "with_light", "feel"))
        answer = rng.choice(world.answers(relation))
        good = rng.choice([m for m in f[relation] if answer in f[relation][m]])
        bad = rng.choice([m for m in f[relation] if answer not in f[relation][m]])
        special = {"feel": f"feels {answer}", "in_water": f"{answer} in water", "with_fire": f"{answer} in a fire"}
        goal = f"Find a material that {special.get(relation, answer)}."
        right, wrong = f"Take a piece of {good}.", f"Take a piece of {bad}."
        identity = f"{relation}/{answer}/{good}/{bad}"
    else:
        thing, other = rng.sample(list(f["object_use"]), 2)
        use = f["object_use"][thing][0]
        goal = rng.choice((f"How can you {use}?", f"To {use},"))
        right, wrong = (f"{start} {article(x)}." for start in (rng.choice(("Use", "Take")),) for x in (thing, other))
        identity = f"use/{thing}/{other}"
    label = rng.randrange(2)
    first, second = (right, wrong) if label == 0 else (wrong, right)
    return identity, {"goal": goal, "sol1": first, "sol2": second, "label": label}


def siqa(world: World, rng: random.Random) -> Drawn:
    """Return a question with three answers: how someone feels, what someone wants, or what someone is like."""
    a, b = two_people(world, rng)
    s = rng.choice(world.situations)
    field, question = rng.choice(
        (
            ("a_feels", f"How would {a.name} feel afterwards?"),
            ("b_feels", f"How would {b.name} feel as a result?"),
            ("a_wants", f"What will {a.name} want to do next?"),
            ("a_is", f"How would you describe {a.name}?"),
        )
    )
    right = getattr(s, field)
    others = sorted({getattr(t, field) for t in world.situations} - {right})
    wrong = rng.sample(others, 2)
    options = [text.format(b=b.name) for text in (right, *wrong)]
    place = rng.randrange(3)
    options.insert(place, options.pop(0))
    record = {"context": f"{a.name} {s.action.format(b=b.name)}.", "question": question}
    record |= dict(zip(("answerA", "answerB", "answerC"), options, strict=True))
    return f"{s.action}/{field}", record | {"label": str(place + 1)}


def hellaswag(world: World, rng: random.Random) -> Drawn:
    """Return a question with four endings: the next two steps of an activity, or what someone felt and wanted."""
    if rng.random() < 0.4:
        a, b = two_people(world, rng)
        s = rng.choice(world.situations)
        others = rng.sample([t for t in world.situations if t.a_feels != s.a_feels and t.a_wants != s.a_wants], 3)
        pairs = [(s.a_feels, s.a_wants), (s.a_feels, others[0].a_wants), (others[1].a_feels, s.a_wants)]
        pairs.append((others[2].a_feels, others[2].a_wants))
        label, context = "Among people", f"{a.name} {s.action.format(b=b.name)}. Afterwards {a.name}"
        endings = [f"felt {feels} and wanted to {wants.format(b=b.name)}." for feels, wants in pairs]
        identity = f"social/{s.action}"
    else:
        p = rng.choice(world.people)
        name = rng.choice(list(world.activities))
        steps = world.activities[name]
        k = rng.randint(1, len(steps) - 3)
        told = " ".join(f"{p.name if i == 0 else capital(p.he)} {past_step(step)}." for i, step in enumerate(steps[:k]))
        label, context = capital(name), f"{told} {rng.choice(('Then', 'Next', 'After that'))} {p.he}"
        orders = [(k, k + 1), (k + 1, k), (k, k + 2), rng.choice(((k + 1, k + 2), (k + 2, k + 1)))]
        endings = [f"{past_step(steps[a])}, and then {p.he} {past_step(steps[b])}." for a, b in orders]
        identity = f"{name}/{k}"
    right = rng.randrange(4)
    endings.insert(right, endings.pop(0))
    record = {"ind": 0, "activity_label": label, "ctx_a": context, "ctx_b": "", "ctx": context}
    return identity, record | {"split_type": "indomain", "label": right, "endings": endings, "source_id": "mini"}


def winogrande(world: World, rng: random.Random) -> Drawn:
    """Return a question with a blank for one of two things or people, which one word decides."""
    number, (text, word_x, word_y, pairs) = rng.choice(list(enumerate(rows(PRONOUNS))))
    a, b = two_people(world, rng)
    x, _, y = rng.choice([pair.strip() for pair in pairs.split(";")]).partition("/")
    first = rng.random() < 0.5
    people = "{n1}" in text
    sentence = text.strip('"').format(x=x, y=y, w=word_x if first else word_y, n1=a.name, n2=b.name)
    options = [a.name, b.name] if people else [x, y]
    answer = 1 if first else 2
    identity = f"{number}/{sorted((a.name, b.name)) if people else (x, y)}"
    if rng.random() < 0.5:
        options, answer = options[::-1], 3 - answer
    return identity, {"sentence": sentence, "option1": options[0], "option2": options[1], "answer": str(answer)}


EASY = {
    "effect": "What is the result when {s}?",
    "organ_job": "Which of these does the {s} do for the body or the plant?",
    "tool_measure": "Which of these can be found out with {as}?",
    "animal_kind": "Scientists sort animals into groups. Which group does {as} belong to?",
    "animal_cover": "Which covering would a student see on {as}?",
    "animal_food": "Which of these would a student see {as} eat?",
    "animal_home": "Where would a student look for {as}?",
    "made_from": "Which of these is {s} made from?",
    "with_fire": "What would a student see when {s} is held in a flame?",
    "source_of": "Which of these do people get from {s}?",
    "animal_young": "What do scientists call the young of {as}?",
}


def arc_easy(world: World, rng: random.Random) -> Drawn:
    """Return a question of school science with one step."""
    relation = rng.choices(list(EASY), weights=[len(world.facts[r]) for r in EASY])[0]
    subject = rng.choice(list(world.facts[relation]))
    answer = rng.choice(world.facts[relation][subject])
    wrong = world.wrong(relation, subject, rng, 3)
    return f"{relation}/{subject}", lettered(rng, phrase(EASY[relation], subject), answer, wrong)


def arc_challenge(world: World, rng: random.Random) -> Drawn:
    """Return a question of school science with two steps: from a thing to its material to what that material does."""
    f = world.facts
    relation, ask = rng.choice(
        (
            ("in_water", "Which of these objects most likely {} in a pond?"),
            ("with_fire", "Which of these objects most likely {} in a fire?"),
            ("with_current", "An electric current reaches four objects. Which of them most likely {}?"),
            ("made_from", "Which of these objects is made of something that comes from {}?"),
        )
    )
    by_answer: dict[str, list[str]] = {}
    for thing, (material, *_) in f["object_material"].items():
        if material in f[relation]:
            by_answer.setdefault(f[relation][material][0], []).append(thing)
    answer = rng.choice([a for a in by_answer if sum(len(v) for b, v in by_answer.items() if b != a) >= 3])
    right = rng.choice(by_answer[answer])
    wrong = rng.sample([thing for a, things in by_answer.items() if a != answer for thing in things], 3)
    return f"{relation}/{answer}/{right}", lettered(rng, ask.format(answer), right, wrong)


def openbookqa(world: World, rng: random.Random) -> Drawn:
    """Return a question on the use of a fact, whose stem the choice completes."""
    p = rng.choice(world.people)
    f = world.facts
    if rng.random() < 0.5:
        cause, effect = rng.choice(world.causes)
        others = [c for c, e in world.causes if e != effect]
        stem = rng.choice((f"{p.name} notices that {effect}, probably because", f"If {effect}, it may be that"))
        record = lettered(rng, stem, cause, rng.sample(others, 3))
        return f"effect/{cause}", record | {"fact1": f"when {cause}, {effect}"}
    thing = rng.choice([t for t, known in f["object_material"].items() if known[0] in f["in_water"]])
    material = f["object_material"][thing][0]
    relations = rng.sample(("in_water", "with_fire", "with_current", "feel"), 2)
    truth = {r: f[r][material][0] for r in relations}

    def told(values: dict[str, str]) -> str:
        return " and ".join(("feels " if r == "feel" else "") + values[r] for r in relations)

    options: set[str] = set()
    while len(options) < 3:
        other = {r: rng.choice([*world.answers(r), truth[r]]) for r in relations}
        if other != truth:
            options.add(told(other))
    record = lettered(
        rng, f"{p.name} tests {article(thing)} of {material} and finds that it", told(truth), sorted(options)
    )
    fact = phrase(STATEMENTS[relations[0]][0], material, truth[relations[0]])
    return f"tests/{thing}/{sorted(relations)}", record | {"fact1": fact}


MAKERS = {
    "mini_boolq": boolq,
    "mini_piqa": piqa,
    "mini_siqa": siqa,
    "mini_hellaswag": hellaswag,
    "mini_winogrande": winogrande,
    "mini_arc_easy": arc_easy,
    "mini_arc_challenge": arc_challenge,
    "mini_openbookqa": openbookqa,
}
# where each kind of record carries its running number
ID_FIELDS = {"mini_boolq": "idx", "mini_hellaswag": "ind", "mini_winogrande": "qID"}
