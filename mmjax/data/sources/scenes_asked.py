"""Scenes with a question about each: what a model can be asked for an answer from a fixed set.

Needs no download. `docs/scenes.md` says what is asked.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from mmjax.data.sources import scenes_questions
from mmjax.data.sources.scenes import Scenes
from mmjax.data.sources.scenes_questions import TOPICS, Question, Topic


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneQuestions:
    """A `Source` of scenes: an example's one text is a question, and its further field `answer` one of
    `scenes_questions.ANSWERS`. The question is a function of the scene's seed, split and number alone."""

    scenes: Scenes
    # What is asked about, one that stands here twice twice as often; scenes that have none are left out.
    topics: tuple[Topic, ...] = TOPICS

    def __post_init__(self):
        if not self.topics:
            raise ValueError(f"topics=() leaves nothing to ask; use some of {', '.join(TOPICS)}")

    def prepare(self) -> None:
        self.scenes.prepare()

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.scenes[self._numbers[index]] | self.texts(index)

    def texts(self, index: int) -> dict[str, Any]:
        """The example without its picture."""
        question = self.question(index)
        return {"text": (question.text,), "answer": question.answer, "id": int(self._numbers[index])}

    def question(self, index: int) -> Question:
        number = self._numbers[index]
        scene, rng = self.scenes.scene(number), self.scenes.question_rng(number)
        return scenes_questions.ask(scene, rng, self.topics, novel=self.scenes.split == "novel")

    @property
    def names(self) -> dict[int, str]:
        return {}

    @property
    def licence(self) -> str:
        return self.scenes.licence

    @functools.cached_property
    def _numbers(self) -> Sequence[int]:
        """Of the scenes that have a topic; `presence` all have."""
        every = range(len(self.scenes))
        if "presence" in self.topics:
            return every
        has = scenes_questions.has_topic
        return [i for i in every if any(has(self.scenes.scene(i), topic) for topic in self.topics)]
