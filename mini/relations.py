"""How each relation of the world is said: statements for running text, questions for question-and-answer text.

In a template `{s}` is the subject, `{as}` the subject with its article, `{ps}` its plural, `{o}` the answer and
`{ao}` the answer with its article. The mini suite asks about the same relations in words of its own.
"""

from __future__ import annotations

from mini.world import article, plural

STATEMENTS: dict[str, tuple[str, ...]] = {
    "animal_kind": ("{as} is {ao}", "{ps} belong to the {o}s", "like every {o}, {as} breathes and eats"),
    "animal_cover": ("{as} has {o} on its body", "{ps} are covered with {o}", "the body of {as} is covered by {o}"),
    "animal_home": ("{as} lives in or near the {o}", "{ps} make their home by the {o}", "you can find {as} at the {o}"),
    "animal_food": ("{as} eats {o}", "{ps} like to eat {o}", "the food of {as} is {o}"),
    "animal_young": (
        "a young {s} is called {ao}",
        "the baby of {as} is {ao}",
        "{ps} take care of each {o} when it is small",
    ),
    "animal_moves": ("{as} {o} from place to place", "to get around, {as} {o}"),
    "animal_sound": ("{as} {o}", "when {as} wants to be heard, it {o}"),
    "food_kind": ("{s} is a kind of {o}", "people count {s} as {ao}"),
    "food_color": ("the color of {s} is {o}", "{s} is mostly {o}", "good {s} looks {o}"),
    "food_taste": ("{s} tastes {o}", "the taste of {s} is {o}"),
    "food_from": ("{s} comes from the {o}", "we get {s} from the {o}"),
    "feel": ("{s} is {o} to the touch", "{s} feels {o}"),
    "in_water": ("{s} {o} in water", "put in a pond, {s} {o}"),
    "with_fire": ("in a fire {s} {o}", "when it gets very hot, {s} {o}"),
    "with_current": ("{s} {o}", "in an electric circuit {s} {o}"),
    "with_light": ("a sheet of {s} {o}", "when the sun shines on it, {s} {o}"),
    "made_from": ("{s} comes from {o}", "people get {s} from {o}", "{s} is made from {o}"),
    "object_kind": ("{as} is a kind of {o}", "{as} is {ao}"),
    "object_material": ("{as} is made of {o}", "{ps} are often made of {o}", "it takes {o} to make {as}"),
    "object_use": (
        "{as} is used to {o}",
        "people use {as} to {o}",
        "with {as} you can {o}",
        "{ps} are good if you want to {o}",
    ),
    "object_place": (
        "{as} is kept in the {o}",
        "you can find {as} in the {o}",
        "there is {as} in the {o}",
        "look for {ps} in the {o}",
    ),
    "trade_place": ("{as} works in the {o}", "you will meet {as} in the {o}", "every morning {as} goes to the {o}"),
    "trade_tool": ("{as} works with {ao}", "{as} needs {ao}", "the tool of {as} is the {o}"),
    "trade_does": ("{as} {o}", "it is the work of {as}, who {o}", "{as} is a person who {o}"),
    "place_use": ("people go to the {s} to {o}", "at the {s} you can {o}", "the {s} is the place to {o}"),
    "place_sights": ("at the {s} one sees {o}", "in the {s} there are {o}"),
    "organ_job": ("the {s} {o}", "in a living thing, the {s} {o}"),
    "tool_measure": ("{as} measures {o}", "to measure {o}, use {as}", "{as} tells you the {o}"),
    "season_sign": ("in {s} {o}", "when {o}, it is {s}"),
    "source_of": ("we get {o} from {s}", "{o} comes from {s}"),
    "opposite": ("the opposite of {s} is {o}", "{s} is the opposite of {o}", "{s} and {o} are opposites"),
    "effect": ("when {s}, {o}", "{o} when {s}", "if {s}, then {o}"),
    "town_river": ("the river {o} runs through {s}", "{s} lies on the river {o}"),
    "town_goods": ("{s} is known for its {o}", "people in {s} make and sell {o}"),
    "town_sight": ("in {s} there is {o}", "visitors come to {s} to see {o}"),
    "town_region": ("{s} lies in {o}", "the town of {s} is in {o}"),
    "person_town": ("{s} lives in {o}", "{s} comes from {o}", "the home of {s} is {o}"),
    "person_trade": ("{s} is {ao}", "{s} works as {ao}"),
    "person_pet": ("{s} has {ao} as a pet", "{s} owns {ao}"),
    "person_food": ("{s} likes {o} best of all foods", "the favorite food of {s} is {o}"),
    "person_hobby": ("{s} loves {o}", "in the evening {s} enjoys {o}"),
}

QUESTIONS: dict[str, tuple[str, ...]] = {
    "animal_kind": ("What kind of animal is {as}?",),
    "animal_cover": ("What covers the body of {as}?", "What do {ps} have on their bodies?"),
    "animal_home": ("Where does {as} live?", "Where can you find {as}?"),
    "animal_food": ("What does {as} eat?", "What do {ps} like to eat?"),
    "animal_young": ("What is a young {s} called?",),
    "animal_moves": ("How does {as} move? It",),
    "animal_sound": ("What sound does {as} make? It",),
    "food_kind": ("What kind of food is {s}?",),
    "food_color": ("What color is {s}?",),
    "food_taste": ("How does {s} taste?",),
    "food_from": ("Where does {s} come from?",),
    "feel": ("How does {s} feel?",),
    "in_water": ("What does {s} do in water?",),
    "with_fire": ("What does {s} do in a fire?",),
    "with_current": ("What does {s} do in a circuit?",),
    "with_light": ("What does {s} do with light?",),
    "made_from": ("What is {s} made from?", "Where do we get {s}?"),
    "object_kind": ("What kind of thing is {as}?",),
    "object_material": ("What is {as} made of?",),
    "object_use": ("What is {as} used for? To", "What do you do with {as}? You"),
    "object_place": ("Where do you find {as}?", "Where is {as} kept?"),
    "trade_place": ("Where does {as} work?",),
    "trade_tool": ("What does {as} work with?",),
    "trade_does": ("What does {as} do?",),
    "place_use": ("What do people do at the {s}? They",),
    "place_sights": ("What can you see at the {s}?",),
    "tool_measure": ("What does {as} measure?",),
    "source_of": ("What do we get from {s}?",),
    "opposite": ("What is the opposite of {s}?",),
    "effect": ("What happens when {s}?",),
    "town_river": ("Which river runs through {s}?",),
    "town_goods": ("What is {s} known for?",),
    "town_sight": ("What can visitors see in {s}?",),
    "town_region": ("Where does {s} lie?",),
    "person_town": ("Where does {s} live?",),
    "person_trade": ("What is the trade of {s}?",),
    "person_pet": ("What pet does {s} have?",),
    "person_food": ("What food does {s} like best?",),
    "person_hobby": ("What does {s} love to do?",),
}


def capital(text: str) -> str:
    """Return the text with its first letter upper case."""
    return text[:1].upper() + text[1:]


def phrase(template: str, subject: str, answer: str = "") -> str:
    """Return a template filled in (not capitalised, no full stop added)."""
    return template.format(
        s=subject, o=answer, ao=article(answer) if answer else "", ps=plural(subject), **{"as": article(subject)}
    )
