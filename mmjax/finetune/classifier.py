"""A finetuned classifier: probabilities of classes for pictures, for texts, or for both together.

The same object serves the evaluators of a running training and whoever loads a finished one.
Letters: N items, C classes, E embedding.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mmjax import sharding
from mmjax.data.decode import pixels
from mmjax.data.labels import Labels
from mmjax.data.tokenizers import Tokenizer
from mmjax.evals import Embed
from mmjax.finetune.network import Network
from mmjax.model import in_batches, unit

Items = Sequence[Any] | Mapping[str, Sequence[Any]]
"""Paths, PIL images or uint8 arrays for pictures, strings for texts, arrays for all else: of the only tower,
or by modality, `{"image": [...], "text": [...]}`."""


class Functions(NamedTuple):
    """Jitted `(trained, fixed, batch by modality) -> rows`; every process gets all rows."""

    probs: dict[str, Callable]  # by task
    embedding: dict[str, Callable]  # by modality


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
    """All it computes is a pure function of its fields; `dataclasses.replace` compiles nothing again."""

    network: Network
    labels: dict[str, Labels]  # by task
    params: Any  # what was trained
    fixed: Any  # what was not
    functions: Functions  # what `functions` made of the network
    tokenizer: Tokenizer | None  # of texts, where there is a tower for them
    mesh: Mesh
    config: Any = None  # of the run that it comes from
    batch_size: int = 256  # at most, of one forward pass over the whole mesh

    @property
    def names(self) -> tuple[str, ...]:
        """The classes of the only task, in order of their columns."""
        return self.labels[self._task(None)].names

    def predict(self, items: Items, task: str | None = None) -> np.ndarray:
        """Float32 [N, C]: probabilities, whose rows sum to 1 unless a thing may be of several classes.

        Args:
            task: None is the only one.
        """
        return self._run(self.functions.probs[self._task(task)], _Rows(self._by_modality(items)))

    def classify(self, items: Items, task: str | None = None) -> list[str] | list[tuple[str, ...]]:
        """The most likely class of each item; where there may be several, all above their threshold."""
        probs_NC, labels = self.predict(items, task), self.labels[self._task(task)]
        if not labels.several:
            return [labels.names[index] for index in probs_NC.argmax(axis=1)]
        above_NC = probs_NC >= np.asarray(labels.thresholds)
        return [tuple(labels.names[index] for index in np.flatnonzero(row_C)) for row_C in above_NC]

    def encode(self, items: Sequence[Any], modality: str | None = None) -> np.ndarray:
        """Unit-norm float32 [N, E]: a tower's embeddings; None is the only tower."""
        modality = _one("tower", self.network.towers, modality)
        return self._run(self.functions.embedding[modality], _Rows({modality: _list(items)}))

    @property
    def embed(self) -> Embed:
        """For evaluators: embeddings, and as `classes/<task>` probabilities of examples of a source."""
        encode = {name: functools.partial(self.encode, modality=name) for name in self.network.towers}
        predict = {f"classes/{task}": functools.partial(self._of_examples, task) for task in self.labels}
        return encode | predict

    def _task(self, task: str | None) -> str:
        return _one("task", self.labels, task)

    def _by_modality(self, items: Items) -> dict[str, Sequence[Any]]:
        wanted = sorted(self.network.towers)
        if not isinstance(items, Mapping):
            return {_one("tower", wanted, None): _list(items)}
        if sorted(items) != wanted or len({len(_list(each)) for each in items.values()}) != 1:
            given = {name: len(each) for name, each in items.items()}
            raise ValueError(f"got {given} items; give lists of one length for {' and '.join(wanted)}")
        return dict(items)

    def _of_examples(self, task: str, examples: Sequence[dict[str, Any]]) -> np.ndarray:
        def columns(examples):
            return {
                name: [e["text"][0] if name == "text" else e[name] for e in examples]
                for name in self.network.towers
            }

        return self._run(self.functions.probs[task], examples, columns)

    def _run(self, function, rows, columns=lambda found: found) -> np.ndarray:
        """`function` of rows, whose slices `columns` makes lists by modality of."""
        return in_batches(
            functools.partial(function, self.params, self.fixed),
            rows,
            lambda part: {name: self._prepared(name, x) for name, x in columns(part).items()},
            mesh=self.mesh,
            batch_size=self.batch_size,
        )

    def _prepared(self, modality: str, items: Sequence[Any]) -> np.ndarray:
        """What the network is given: uint8 [N, size, size, 3], int32 [N, S] token ids, or arrays."""
        if modality == "text":
            return self.tokenizer(items)
        shape, dtype = self.network.rows[modality]
        if modality == "image":
            items, dtype = [self.network.preprocess.host(pixels(item)) for item in items], np.uint8
        return np.array(items, dtype).reshape(-1, *shape)


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Lists of one length by name, sliced together."""

    columns: dict[str, Sequence[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, at: slice) -> dict[str, Sequence[Any]]:
        return {name: column[at] for name, column in self.columns.items()}


def _one(what: str, names, wanted: str | None) -> str:
    """`wanted`, or the only one of `names`."""
    if wanted is None and len(names) == 1:
        return next(iter(names))
    if wanted not in names:
        given = "none was named" if wanted is None else f"{wanted!r} is not among them"
        raise ValueError(f"this classifier has the {what}s {', '.join(sorted(names))}, and {given}; name one")
    return wanted


def _list(items):
    if isinstance(items, (str, bytes)):
        raise ValueError(f"wanted a list of items, got {items!r}; write [{items!r}]")
    return items


def functions(network: Network, labels: dict[str, Labels], mesh: Mesh) -> Functions:
    def normalised(batch):
        return {name: network.normalised(name, x) for name, x in batch.items()}

    def probs(task, trained, fixed, batch):
        logits_BC = network(network.params(trained, fixed), normalised(batch)).logits[task]
        return jax.nn.sigmoid(logits_BC) if labels[task].several else jax.nn.softmax(logits_BC)

    def embedding(modality, trained, fixed, batch):
        params = network.params(trained, fixed)
        return unit(network.encode(modality, params, normalised(batch)[modality]).embedding_BE)

    def jitted(function, names):
        out = sharding.replicated(mesh)
        return {name: jax.jit(functools.partial(function, name), out_shardings=out) for name in names}

    return Functions(jitted(probs, network.heads), jitted(embedding, network.towers))
