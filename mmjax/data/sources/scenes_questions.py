"""Asks about scenes: questions in English whose answers are one of a few words.

The words of a question say little of its answer: a color or a shape is asked for where any may stand, and of
yes and no each is as often right.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

from mmjax.data.sources.scenes_spec import (
    COLORS,
    INVERSE,
    MAX_COUNT,
    SHAPES,
    Rng,
    Scene,
    Thing,
    is_held_out,
)
from mmjax.data.sources.scenes_text import NUMERALS, PLURALS

Topic = Literal["color", "shape", "count", "side", "presence"]
TOPICS: tuple[Topic, ...] = get_args(Topic)
ANSWERS = (*COLORS, *SHAPES, *NUMERALS[1 : MAX_COUNT + 1], "yes", "no")

# Places of the things of a row, and of a pair whose first thing is left of the second, or above it.
_PLACES = {
    ("left to right", 3): ("on the left", "in the middle", "on the right"),
    ("top to bottom", 3): ("at the top", "in the middle", "at the bottom"),
    ("left of", 2): ("on the left", "on the right"),
    ("above", 2): ("at the top", "at the bottom"),
}
_ALONG = {"left to right": "left of", "top to bottom": "above"}


class Question(NamedTuple):
    topic: Topic
    text: str
    answer: str


def ask(scene: Scene, rng: Rng, topics: tuple[Topic, ...], *, novel: bool) -> Question:
    """A question about a scene of the split `novel`, or of the others, on one of the topics that it has (see
    `has_topic`); one that is among them twice is asked twice as often."""
    every = [question for question in _questions(scene, rng, novel) if question.topic in topics]
    found = {question.topic for question in every}
    topic = rng.choice([topic for topic in topics if topic in found])
    return rng.choice([question for question in every if question.topic == topic])


def has_topic(scene: Scene, topic: Topic) -> bool:
    """Whether something of the topic can be asked about the scene."""
    if topic == "count":
        return scene.kind == "count"
    if topic == "side":
        return scene.kind == "row" or scene.relation in INVERSE
    return topic == "presence" or scene.kind != "count"


def _questions(scene: Scene, rng: Rng, novel: bool) -> Iterator[Question]:
    things = scene.things
    for thing, count in zip(things, scene.counts, strict=False):
        plural = PLURALS[thing.shape]
        yield Question("count", f"how many {thing.color} {plural} are there", NUMERALS[count])
    if scene.kind == "single":
        yield Question("color", f"what color is the {things[0].shape}", things[0].color)
        yield Question("shape", f"what shape is the {things[0].color} thing", things[0].shape)
    apart = len(things) == 2 or len({thing.shape for thing in things}) == len(things)
    for first, relation, second in _pairs(scene):
        if apart:  # otherwise several might be meant
            text = f"what color is the {first.shape} {relation} the {second.shape}"
            yield Question("color", text, first.color)
        if len(things) == 2:
            yield Question("shape", f"what is {relation} the {second.color} {second.shape}", first.shape)
        if relation in INVERSE:
            right = rng.below(2)
            said = relation if right else INVERSE[relation]
            text = f"is the {first.color} {first.shape} {said} the {second.color} {second.shape}"
            yield Question("side", text, "yes" if right else "no")
    for place, thing in _places(scene):
        yield Question("color", f"what color is the thing {place}", thing.color)
        yield Question("shape", f"what shape is {place}", thing.shape)
    yield _presence(scene, rng, novel)
    yield _color_presence(scene, rng)


def _pairs(scene: Scene) -> Iterator[tuple[Thing, str, Thing]]:
    """Every true (thing, relation, other thing)."""
    things = scene.things
    if scene.kind == "row":
        relation = _ALONG[scene.relation]
        stated = [(things[i], relation, things[k]) for i, k in ((0, 1), (1, 2), (0, 2))]
    else:
        stated = [(things[0], scene.relation, things[1])] if scene.kind == "relation" else []
    for first, relation, second in stated:
        yield first, relation, second
        if relation in INVERSE:
            yield second, INVERSE[relation], first


def _places(scene: Scene) -> Iterator[tuple[str, Thing]]:
    things, relation = scene.things, scene.relation
    if relation in ("right of", "below"):
        things, relation = things[::-1], INVERSE[relation]
    yield from zip(_PLACES.get((relation, len(things)), ()), things, strict=False)


def _presence(scene: Scene, rng: Rng, novel: bool) -> Question:
    """Of a thing that is there, or of one that differs from it in its shape or its color and is not: outside
    of `novel` one that could be there, so that the words do not tell."""
    thing, there = rng.choice(scene.things), rng.below(2)
    shown = {(other.shape, other.color) for other in scene.things}
    while not there and (thing.shape, thing.color) in shown:
        field, values = rng.choice((("shape", SHAPES), ("color", COLORS)))
        other = thing._replace(**{field: rng.choice(values)})
        if novel or not is_held_out(other):
            thing = other
    article = "an" if thing.color[0] in "aeiou" else "a"
    text = f"is there {article} {thing.color} {thing.shape}"
    return Question("presence", text, "yes" if there else "no")


def _color_presence(scene: Scene, rng: Rng) -> Question:
    shown = [thing.color for thing in scene.things]
    there = rng.below(2)
    color = rng.choice(shown if there else [color for color in COLORS if color not in shown])
    return Question("presence", f"is there anything {color}", "yes" if there else "no")
