"""The pretraining text: an endless seeded stream of documents, each of one genre, and held-out documents by genre."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from mini import arithmetic, dialogue, encyclopedia, gsm, narrative, question_formats, reading
from mini.world import World, the_world

Maker = Callable[[World, random.Random], str]

# genre -> (share of the documents, makers with their shares)
GENRES: dict[str, tuple[float, dict[Maker, float]]] = {
    "encyclopedia": (0.13, {encyclopedia.entry: 3, encyclopedia.portrait: 1, encyclopedia.single: 2}),
    "definitions": (0.08, {encyclopedia.definition: 1}),
    "lists": (0.04, {encyclopedia.listing: 1}),
    "narrative": (
        0.16,
        {
            narrative.activity_story: 2,
            narrative.social_story: 2,
            narrative.errand_story: 2,
            narrative.cause_story: 1,
            narrative.pronoun_story: 3,
            narrative.day_story: 1,
        },
    ),
    "dialogue": (0.06, {dialogue.talk: 1}),
    "arithmetic": (0.15, {lambda world, rng: arithmetic.sums(rng): 1}),
    "word problems": (0.15, {arithmetic.word_problem: 1}),
    "questions": (0.13, {question_formats.quiz: 1}),
    "reading": (0.10, {reading.comprehension: 1}),
}


# From this document of the training text on (the annealing part) these shares hold, and these makers where named:
# numbers are small, facts are put together, passages are asked about closely.
ANNEAL_AT = 81_000
ANNEAL_SHARES = {
    "encyclopedia": 0.14,
    "definitions": 0.04,
    "lists": 0.02,
    "narrative": 0.12,
    "dialogue": 0.04,
    "arithmetic": 0.12,
    "word problems": 0.21,
    "questions": 0.12,
    "reading": 0.19,
}
ANNEAL_MAKERS: dict[str, dict[Maker, float]] = {
    "encyclopedia": {encyclopedia.entry: 4, encyclopedia.portrait: 1, encyclopedia.single: 2, encyclopedia.chain: 3},
    "arithmetic": {lambda world, rng: arithmetic.sums(rng, small=True): 1},
    "word problems": {lambda world, rng: arithmetic.word_problem(world, rng, small=True): 1, gsm.worked_problem: 1},
    "reading": {reading.comprehension: 1, reading.confirmations: 4},
}


def document(genre: str, world: World, rng: random.Random, anneal: bool = False) -> str:
    """Return a document of a genre, of the annealing part or of the first."""
    makers = ANNEAL_MAKERS.get(genre, GENRES[genre][1]) if anneal else GENRES[genre][1]
    return rng.choices(list(makers), weights=list(makers.values()))[0](world, rng)


def documents(
    seed: int, *, genre: str | None = None, split: str = "train", start: int = 0
) -> Iterator[tuple[str, str]]:
    """Yield (genre, text) without end from document `start`, the same on every machine."""
    index = start
    while True:
        yield document_at(seed, index, genre=genre, split=split)
        index += 1


def document_at(seed: int, index: int, *, genre: str | None = None, split: str = "train") -> tuple[str, str]:
    """Return the (genre, text) at an index of the stream; it depends on the arguments alone."""
    rng = random.Random(f"mini/{split}/{seed}/{genre or 'all'}/{index}")
    anneal = split == "train" and genre is None and index >= ANNEAL_AT
    shares = ANNEAL_SHARES if anneal else {name: share for name, (share, _) in GENRES.items()}
    chosen = genre or rng.choices(list(shares), weights=list(shares.values()))[0]
    return chosen, document(chosen, the_world(), rng, anneal)
