"""Evaluators: what they are given and what they return.

An **evaluator** is one frozen dataclass in one file of this folder. It is given functions that embed, never
parameters, so the same evaluator serves the training loop, a loaded model and any other encoder.
`docs/adding.md` shows how to add one.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from mmjax.data import Source

Embed = dict[str, Callable[..., np.ndarray]]
"""`image`: sequence of uint8 [H, W, C] arrays -> unit-norm float32 [N, E]; `text`: sequence of strings -> the
same; any other modality of a run: sequence of arrays -> the same. The sequence only needs `len` and slices,
so that a process reads its own part of it. Rows come back in order, exact for any N; the work is spread over
the mesh. `probs`, where there is one: embeddings of pictures [N, E] and of texts [M, E] -> [N, M], how
probable each text is for each picture. `relevance`, where the picture tower has maps: pictures and as many
texts -> float32 [N, h, w], how much each place of a picture, as `seen` shows it, speaks for its text; `seen`:
pictures -> uint8 [N, size, size, 3], what the tower is shown. A finetuned classifier has `classes/<task>`:
sequence of examples as sources give them -> probabilities [N, C]."""


Item = str | np.ndarray
"""A caption, or a picture as uint8 [H, W, C]."""


class Match(NamedTuple):
    """One result of a query."""

    item: Item
    score: float  # cosine similarity
    right: bool


class Row(NamedTuple):
    """One query of a gallery and its best matches, best first."""

    query: Item | tuple[Item, ...]  # several where they are asked together, as a picture and a question
    matches: tuple[Match, ...]
    truth: Item | None = None  # what should have come first, where it did not


class Gallery(NamedTuple):
    """Queries beside what they found."""

    title: str
    note: str
    rows: tuple[Row, ...]


class Heatmap(NamedTuple):
    """Similarities of every picture of a batch (rows) with every caption (columns).

    Where it is square, caption i belongs to picture i.
    """

    title: str
    note: str
    images: tuple[np.ndarray, ...]
    texts: tuple[str, ...]
    values: np.ndarray  # [len(images), len(texts)]


class Confusion(NamedTuple):
    """How often examples of one class (rows) were taken for another (columns).

    All classes; where there are many, the HTML report draws those that are confused most.
    """

    title: str
    note: str
    names: tuple[str, ...]
    counts: np.ndarray  # int [len(names), len(names)]


class Reliability(NamedTuple):
    """How often answers of a certain confidence are right, by bins of confidence."""

    title: str
    note: str
    confidence: np.ndarray  # mean of the bin, NaN where it is empty
    accuracy: np.ndarray
    counts: np.ndarray


class Curve(NamedTuple):
    """A value over another."""

    title: str
    note: str
    across: str  # what `x` is
    x: np.ndarray  # rising and positive: the axis is logarithmic
    y: dict[str, np.ndarray]  # values by the name of the line
    spread: dict[str, np.ndarray] = {}  # standard deviation of a line's values


class TradeOff(NamedTuple):
    """One value against another, along a line of models that trades them."""

    title: str
    note: str
    across: str  # what `x` is
    up: str  # what `y` is
    x: np.ndarray
    y: np.ndarray
    labels: tuple[str, ...]  # of the points, in the order in which a line joins them


Picture = Gallery | Heatmap | Confusion | Reliability | Curve | TradeOff


class Report(NamedTuple):
    """What an evaluator found: metrics by short name (`i2t_r1`), and pictures for the HTML report.

    A metric `<metric>_chance` is what `<metric>` would be for embeddings that carry no information; the HTML
    report shows it beside the metric.
    """

    metrics: dict[str, float]
    pictures: tuple[Picture, ...] = ()


class Evaluator(Protocol):
    """A frozen dataclass with these fields and whatever else it needs."""

    name: str  # data set and split as metrics name it: `val/<name>/i2t_r1`
    source: Source  # the pictures and texts it evaluates on
    every_steps: int  # between evaluations in the loop; 0 evaluates after the last step only
    needs: tuple[str, ...]  # functions of `embed` without which it cannot do; no field, as `ClassVar` says

    def prepare(self) -> None:
        """Makes its data ready, before the first step; raises ValueError with the remedy where it cannot."""

    def __call__(self, embed: Embed) -> Report: ...


@runtime_checkable
class Foretells(Protocol):
    """An evaluator that can say which metrics it finds, so that a wrong name is refused before a step."""

    @property
    def finds(self) -> tuple[str, ...]:
        """All that it may find; some may be missing for want of data, or of a function of the model."""


@runtime_checkable
class Fits(Protocol):
    """An evaluator that learns before it judges, and what it learned can judge other pictures, too."""

    def fit(self, embed: Embed) -> Callable[[Embed], Report]: ...
