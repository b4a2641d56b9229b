"""Questions about scenes: answered from the captions by a judge that knows nothing of how they were made."""

import collections
import re

import numpy as np
import pytest
from scenes_judge import SPLITS, parse

from mmjax.data.sources.scenes import Scenes
from mmjax.data.sources.scenes_asked import SceneQuestions
from mmjax.data.sources.scenes_questions import ANSWERS, TOPICS
from mmjax.data.sources.scenes_spec import COLORS, SHAPES

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
# Where things are, x to the right and y down, by what a caption says of them in this order.
PLACES = {
    "left of": ((0, 0), (1, 0)),
    "right of": ((1, 0), (0, 0)),
    "above": ((0, 0), (0, 1)),
    "below": ((0, 1), (0, 0)),
    "left to right": ((0, 0), (1, 0), (2, 0)),
    "top to bottom": ((0, 0), (0, 1), (0, 2)),
}
BETWEEN = {
    "left of": lambda a, b: a[0] < b[0],
    "right of": lambda a, b: a[0] > b[0],
    "above": lambda a, b: a[1] < b[1],
    "below": lambda a, b: a[1] > b[1],
}
ENDS = {
    "on the left": lambda at, all_at: at[0] == 0 < max(x for x, _ in all_at),
    "on the right": lambda at, all_at: at[0] == max(x for x, _ in all_at) > 0,
    "at the top": lambda at, all_at: at[1] == 0 < max(y for _, y in all_at),
    "at the bottom": lambda at, all_at: at[1] == max(y for _, y in all_at) > 0,
    "in the middle": lambda at, all_at: 1 in at and len(all_at) == 3,
}
COLOR, SHAPE, RELATION, END = (
    f"({'|'.join(words)})" for words in (COLORS, SHAPES, (*BETWEEN, "inside", "in front of"), ENDS)
)


def answers(text, caption):
    """Every answer that fits a question, from the caption."""
    said = parse(caption)
    things = list(zip(said.shapes, said.colors, strict=True))
    at = PLACES.get(said.relation, ((0, 0),) * len(things))

    def holds(i, relation, k):
        if relation in BETWEEN:
            return i != k and BETWEEN[relation](at[i], at[k])
        return (i, relation, k) == (0, said.relation, 1)

    def before(relation, fits):
        numbers = range(len(things))
        return {i for i in numbers for k in numbers if fits(things[k]) and holds(i, relation, k)}

    def asked(pattern):
        found = re.fullmatch(pattern, text)
        return found and found.groups()

    if words := asked(f"how many {COLOR} {SHAPE}e?s are there"):
        return {NUMBERS[said.counts[things.index(words[::-1])]]}
    if words := asked(f"what color is the {SHAPE}"):
        return {color for shape, color in things if shape == words[0]}
    if words := asked(f"what shape is the {COLOR} thing"):
        return {shape for shape, color in things if color == words[0]}
    if words := asked(f"what color is the {SHAPE} {RELATION} the {SHAPE}"):
        found = before(words[1], lambda thing: thing[0] == words[2])
        return {things[i][1] for i in found if things[i][0] == words[0]}
    if words := asked(f"what is {RELATION} the {COLOR} {SHAPE}"):
        return {things[i][0] for i in before(words[0], lambda thing: thing == words[:0:-1])}
    if words := asked(f"what color is the thing {END}"):
        return {things[i][1] for i in range(len(things)) if ENDS[words[0]](at[i], at)}
    if words := asked(f"what shape is {END}"):
        return {things[i][0] for i in range(len(things)) if ENDS[words[0]](at[i], at)}
    if words := asked(f"is the {COLOR} {SHAPE} {RELATION} the {COLOR} {SHAPE}"):
        found = before(words[2], lambda thing: thing == words[4:2:-1])
        return {"yes" if things.index(words[1::-1]) in found else "no"}
    if words := asked(f"is there anything {COLOR}"):
        return {"yes" if words[0] in said.colors else "no"}
    words = asked(f"is there an? {COLOR} {SHAPE}")
    return {"yes" if words[::-1] in things else "no"}


@pytest.mark.parametrize("split", SPLITS)
def test_every_question_has_the_one_answer_that_the_caption_gives(split):
    source, topics = SceneQuestions(scenes=Scenes(split=split)), set()
    for i in range(1_000):
        question = source.question(i)
        caption = source.scenes.caption(i)
        assert answers(question.text, caption) == {question.answer}, (caption, question)
        assert question.answer in ANSWERS
        topics.add(question.topic)
    assert topics == set(TOPICS)


def test_a_question_says_little_of_its_answer():
    source = SceneQuestions(scenes=Scenes(split="train"))
    given = collections.defaultdict(collections.Counter)
    for i in range(4_000):
        question = source.question(i)
        given[question.topic][question.answer] += 1
        if question.topic == "side":
            given[re.search(r"left|right|above|below", question.text)[0]][question.answer] += 1
    for topic, most in dict(color=0.15, shape=0.12, count=0.26).items():
        assert given[topic].most_common(1)[0][1] / given[topic].total() < most, topic
    for what in ("presence", "side", "left", "right", "above", "below"):
        total = given[what].total()
        # Four standard deviations of a fair coin.
        assert abs(given[what]["yes"] / total - 0.5) < 2 / total**0.5, what


def test_an_example_is_a_scene_a_question_and_an_answer():
    source = SceneQuestions(scenes=Scenes(split="test", px=32))
    example = source[7]
    np.testing.assert_array_equal(example.pop("image"), source.scenes[7]["image"])
    question = source.question(7)
    assert example == source.texts(7) == {"text": (question.text,), "answer": question.answer, "id": 7}
    assert len(source) == len(source.scenes)


@pytest.mark.parametrize("topic", TOPICS)
def test_one_topic_is_asked_of_the_scenes_that_have_it(topic):
    source = SceneQuestions(scenes=Scenes(split="test"), topics=(topic,))
    asked = [source.question(i) for i in range(len(source))]
    assert {question.topic for question in asked} == {topic}
    assert 150 < len(source) <= 1_000


def test_a_topic_that_stands_twice_is_asked_twice_as_often():
    # Where there is a shape to ask for there is a color, too.
    source = SceneQuestions(scenes=Scenes(split="train"), topics=("color", "shape", "shape"))
    shapes = sum(source.question(i).topic == "shape" for i in range(2_000))
    assert abs(shapes / 2_000 - 2 / 3) < 4 * (2 / 9 / 2_000) ** 0.5


def test_nothing_to_ask_is_refused():
    with pytest.raises(ValueError, match="leaves nothing to ask; use some of color, shape, count"):
        SceneQuestions(scenes=Scenes(), topics=())
