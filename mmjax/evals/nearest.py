"""Classification by the nearest training examples: nothing is learned beside the embedding.

Each of the k nearest votes for its class with exp(cosine / temperature): Wu et al. 2018, arXiv:1805.01978,
section 3.4, with the k of Caron et al. 2021, arXiv:2104.14294.

Letters: N examples to classify, B a block of them, M training examples, K nearest, E embedding, C classes.
"""

import dataclasses
import functools
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import sharding
from mmjax.data import Source
from mmjax.evals import Embed, Gallery, Report, classification, scores
from mmjax.evals.classes import Classes, Labelled, check_enough, labelled
from mmjax.evals.examples import check_fields, spread
from mmjax.evals.galleries import ROWS, Side, rows
from mmjax.sharding import MeshShape

_BLOCK = 1 << 24  # similarities that a device holds at once
_NOT_A_NUMBER = -2.0  # below every cosine


class _Data(NamedTuple):
    classes: Classes
    train: Labelled
    test: Labelled


@dataclasses.dataclass(frozen=True, kw_only=True)
class KNearest:
    """Accuracies on `source` by votes of the k nearest examples of `train`: `knn_acc1` and the like."""

    name: str  # data set and split, as metrics name it
    source: Source  # to be classified; the id of an example is its class
    train: Source
    k: int = 20
    temperature: float = 0.07
    every_steps: int = 0  # 0 evaluates after the last step only
    limit: int | None = None  # examples of `source`, evenly spread; None takes all
    train_limit: int | None = None  # of `train`
    detail: bool = True  # with what scikit-learn measures
    needs: ClassVar[tuple[str, ...]] = ("image",)

    def __post_init__(self):
        check_fields(name=self.name, every_steps=self.every_steps, limit=self.limit)
        if self.k < 1 or self.temperature <= 0:
            raise ValueError(f"k={self.k} and temperature={self.temperature} must be positive")

    @property
    def finds(self) -> tuple[str, ...]:
        return classification.names("knn", detail=self.detail)

    def prepare(self) -> None:
        """Raises ValueError where there are fewer than k training examples, or an example is of no class."""
        self.source.prepare()
        self.train.prepare()
        if self.detail:
            scores.require()
        data = self._data
        check_enough(self.name, "train", data.train.label_N, data.classes)
        if len(data.train.label_N) < self.k:
            raise ValueError(
                f"{self.name}: k={self.k} of {len(data.train.label_N)} examples; use a smaller k"
            )

    def __call__(self, embed: Embed) -> Report:
        data = self._data
        train = Side(embed["image"](data.train.pictures), data.train.label_N, data.train.pictures)
        test = Side(embed["image"](data.test.pictures), data.test.label_N, data.test.pictures)
        names = data.classes.names
        votes_NC = votes(
            test.z_NE,
            train.z_NE,
            train.id_N,
            k=self.k,
            temperature=self.temperature,
            classes=len(names),
        )
        metrics = classification.metrics("knn", votes_NC, test.id_N, detail=self.detail)
        neighbours = Gallery(
            "Nearest neighbours",
            "Pictures and the training examples nearest to them; those of the same class are framed. The "
            "pictures are spread evenly over the data, not picked.",
            rows(test, train, spread(len(test.id_N), ROWS)),
        )
        shown = classification.pictures(votes_NC, test.id_N, names, test.items)
        return Report(metrics, (neighbours, *shown))

    @functools.cached_property
    def _data(self) -> _Data:
        classes = Classes(self.train.names)
        train = labelled(self.name, self.train, classes, limit=self.train_limit)
        return _Data(classes, train, labelled(self.name, self.source, classes, limit=self.limit))


def votes(
    query_NE: np.ndarray,
    train_ME: np.ndarray,
    label_M: np.ndarray,
    *,
    k: int,
    temperature: float,
    classes: int,
) -> np.ndarray:
    """The share of the votes of the k nearest that each class gets, float32 [N, C].

    Of equally near ones those of a lower index vote. Queries are spread over all devices, a block at a time.
    """
    mesh = sharding.make_mesh(MeshShape())
    parts = sharding.batch_devices(mesh)
    # No more than there are, so that a small set is not padded to a large one.
    block = parts * min(max(1, _BLOCK // len(train_ME)), -(-len(query_NE) // parts))
    bank = np.asarray(train_ME, np.float32), np.asarray(label_M, np.int32)
    found = []
    with jax.set_mesh(mesh):
        bank = jax.device_put(bank, sharding.replicated(mesh))
        for start in range(0, len(query_NE), block):
            query_BE = np.asarray(query_NE[start : start + block], np.float32)
            padded_BE = np.pad(query_BE, ((0, block - len(query_BE)), (0, 0)))
            queries = sharding.put_rows(mesh, padded_BE)
            shares_BC = _vote(queries, *bank, np.float32(temperature), k=k, classes=classes)
            found.append(np.asarray(shares_BC)[: len(query_BE)])
    return np.concatenate(found)


@functools.partial(jax.jit, static_argnames=("k", "classes"))
def _vote(query_BE, train_ME, label_M, temperature, *, k, classes):
    cosine_BM = jnp.dot(query_BE, train_ME.T, precision="highest")
    cosine_BM = jnp.where(jnp.isnan(cosine_BM), _NOT_A_NUMBER, cosine_BM)
    near_BK, index_BK = jax.lax.top_k(cosine_BM, k)
    share_BK = jax.nn.softmax(near_BK / temperature, axis=1)
    one_hot_BKC = jax.nn.one_hot(label_M[index_BK], classes)
    share_BC = jnp.einsum("bk,bkc->bc", share_BK, one_hot_BKC, precision="highest")
    return sharding.constrain(share_BC, None, None)  # every process reads all rows
