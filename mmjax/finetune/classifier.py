"""A finetuned classifier: probabilities of classes for pictures, or for texts.

The same object serves the evaluators of a running training and whoever loads a finished one.
Letters: N items, C classes, E embedding.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mmjax import sharding
from mmjax.data.decode import pixels
from mmjax.data.labels import Labels
from mmjax.data.tokenizers import Tokenizer
from mmjax.evals import Embed
from mmjax.finetune.network import Network
from mmjax.model import in_batches


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
    """All it computes is a pure function of its fields; `dataclasses.replace` compiles nothing again."""

    network: Network
    labels: Labels
    params: Any  # what was trained
    fixed: Any  # what was not
    functions: dict[str, Callable]  # what `functions` made of the network
    tokenizer: Tokenizer | None  # of texts, where these are classified
    mesh: Mesh
    config: Any = None  # of the run that it comes from
    batch_size: int = 256  # at most, of one forward pass over the whole mesh

    @property
    def names(self) -> tuple[str, ...]:
        """The classes, in order of their columns."""
        return self.labels.names

    def predict(self, items: Sequence[Any]) -> np.ndarray:
        """Float32 [N, C]: probabilities, whose rows sum to 1 unless a thing may be of several classes.

        Args:
            items: paths, PIL images or uint8 arrays; strings where texts are classified.
        """
        return self._run("probs", items, self.prepare)

    def classify(self, items: Sequence[Any]) -> list[str] | list[tuple[str, ...]]:
        """The most likely class of each item; where there may be several, all above their threshold."""
        probs_NC = self.predict(items)
        if not self.labels.several:
            return [self.names[index] for index in probs_NC.argmax(axis=1)]
        above_NC = probs_NC >= np.asarray(self.labels.thresholds)
        return [tuple(self.names[index] for index in np.flatnonzero(row_C)) for row_C in above_NC]

    def encode(self, items: Sequence[Any]) -> np.ndarray:
        """Unit-norm float32 [N, E]: the tower's embeddings."""
        return self._run("embedding", items, self.prepare)

    def prepare(self, items: Sequence[Any]) -> np.ndarray:
        """What the network is given: uint8 [N, size, size, 3], or int32 [N, S] token ids."""
        if self.network.modality == "text":
            return self.tokenizer(items)
        preprocess = self.network.preprocess
        shape = (-1, preprocess.size, preprocess.size, 3)
        return np.array([preprocess.host(pixels(item)) for item in items], np.uint8).reshape(shape)

    @property
    def embed(self) -> Embed:
        """For evaluators: embeddings, and `classes`, probabilities of examples as sources have them."""
        return {self.network.modality: self.encode, "classes": self._predict_examples}

    def _predict_examples(self, examples: Sequence[dict[str, Any]]) -> np.ndarray:
        def prepare(examples):
            is_text = self.network.modality == "text"
            return self.prepare([e["text"][0] if is_text else e["image"] for e in examples])

        return self._run("probs", examples, prepare)

    def _run(self, name, items, prepare) -> np.ndarray:
        if isinstance(items, (str, bytes)):
            raise ValueError(f"wanted a list of items, got {items!r}; write [{items!r}]")
        function = functools.partial(self.functions[name], self.params, self.fixed)
        return in_batches(function, items, prepare, mesh=self.mesh, batch_size=self.batch_size)


def functions(network: Network, several: bool, mesh: Mesh) -> dict[str, Callable]:
    """Jitted `(trained, fixed, batch) -> rows`, `probs` and `embedding`; every process gets all rows."""

    def found(trained, fixed, batch):
        return network(network.params(trained, fixed), network.normalised(batch))

    def probs(*args):
        logits_BC = found(*args).logits_BC
        return jax.nn.sigmoid(logits_BC) if several else jax.nn.softmax(logits_BC)

    out = sharding.replicated(mesh)
    return {
        "probs": jax.jit(probs, out_shardings=out),
        "embedding": jax.jit(lambda *args: found(*args).embedding_BE, out_shardings=out),
    }
