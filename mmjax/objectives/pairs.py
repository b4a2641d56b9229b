"""Which modalities a contrastive objective compares, and the sum of its loss over them.

Letters: B batch, E embedding, K hard negatives of an example.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from mmjax.kernels.contrastive import Duplicates, Further
from mmjax.objectives import Loss
from mmjax.objectives.queue import Queue


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """Two modalities of one example, and how much their loss counts."""

    first: str = "image"
    second: str = "text"
    weight: float = 1.0

    @property
    def name(self) -> str:
        return f"{self.first}_{self.second}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Views:
    """What of the embeddings is compared: which modalities, at which widths, with which gradients."""

    pairs: tuple[Pair, ...] = (Pair(),)
    # Prefixes that are embeddings, too (Matryoshka: Kusupati et al. 2022, arXiv:2205.13147). The loss is the
    # mean of theirs and the whole's; each is made unit-norm.
    widths: tuple[int, ...] = ()
    stopped: tuple[str, ...] = ()  # modalities that this loss teaches nothing, as of a locked tower

    def __post_init__(self):
        names = [pair.name for pair in self.pairs]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"pairs={names}: give one or more, each once")
        if any(width < 1 for width in self.widths):
            raise ValueError(f"widths={self.widths} must be positive")

    @property
    def modalities(self) -> tuple[str, ...]:
        """All that some pair compares, each once."""
        return tuple(dict.fromkeys(name for pair in self.pairs for name in (pair.first, pair.second)))


def over_pairs(views: Views, z: Mapping, batch: Mapping, past: Mapping[str, Further], loss: Callable) -> Loss:
    """Weighted sum of `loss(pair, x_BE, y_BE, **given)`, and the mean similarity of the first pair.

    `given` are options of the kernels: which pairs are there, at which widths, beside what else.
    - Pairs of which an example lacks a side, by `batch["present/<modality>"]` (bool [B]), do not exist for
      it: the loss is that of the others alone.
    - `past`, by modality, are negatives of every other modality that it is compared with (`remembered`).
    - `z["hard_text"]` [B, K, E] are negatives of the first modality of each pair with a text.

    Raises:
        ValueError: there are no embeddings of some modality, or some that are compared with nothing.
    """
    _check(views, z)
    taught = {name: jax.lax.stop_gradient(x) if _of(name) in views.stopped else x for name, x in z.items()}
    values = {}
    for pair in views.pairs:
        given = {"present_B": present(batch, pair.first, pair.second), "widths": tuple(sorted(views.widths))}
        if past:
            given |= {"more_x": past[pair.first], "more_y": past[pair.second]}
        if "hard_text" in z and pair.second == "text":
            given |= {"hard_y_BKE": taught["hard_text"], "hard_present_BK": batch["present/hard_text"]}
        values[pair] = loss(pair, taught[pair.first], taught[pair.second], **given)
    first = views.pairs[0]
    metrics = {
        "positive": _similarity(z[first.first], z[first.second], present(batch, first.first, first.second))
    }
    if len(values) > 1:
        metrics |= {f"{pair.name}/loss": value for pair, value in values.items()}
    return Loss(sum(pair.weight * value for pair, value in values.items()), metrics)


def remembered(queue: Queue | None, views: Views, z: Mapping, batch: Mapping, ids_B) -> dict[str, Further]:
    """What the queue has of past batches, by modality; it is given this one. Empty without a queue."""
    if queue is None:
        return {}
    names = views.modalities
    return queue({name: z[name] for name in names}, {name: present(batch, name) for name in names}, ids_B)


def ids_of(batch: Mapping, duplicates: Duplicates, name: str):
    """What tells which examples show the same thing, `batch[name]`; None where it does not matter.

    Raises:
        ValueError: it matters, and the batch does not say.
    """
    if duplicates == "negatives":
        return None
    if name not in batch:
        raise ValueError(f"duplicates={duplicates!r} needs {name!r} in the batch, which has {sorted(batch)}")
    return batch[name]


def present(batch: Mapping, *names: str):
    """Bool [B]: whether an example has all of these; None where all of them always do."""
    given = [batch[f"present/{name}"] for name in names if f"present/{name}" in batch]
    return functools.reduce(jnp.logical_and, given) if given else None


def _check(views: Views, z: Mapping):
    missing = set(views.modalities) - set(z)
    if missing:
        raise ValueError(f"objective.views compares {sorted(missing)}, but there are towers for {sorted(z)}")
    idle = {_of(name) for name in z} - set(views.modalities)
    if idle:
        raise ValueError(f"{sorted(idle)} is in no pair of objective.views; add one, or leave the tower out")
    if "hard_text" in z and all(pair.second != "text" for pair in views.pairs):
        raise ValueError("data.hard_texts, but objective.views has no pair whose second modality is 'text'")


def _of(name: str) -> str:
    """The modality whose tower made the embeddings `name`."""
    return "text" if name == "hard_text" else name


def _similarity(x_BE, y_BE, present_B):
    """Mean over the pairs that are there."""
    similarity_B = jnp.sum(x_BE * y_BE, axis=1)
    if present_B is None:
        return jnp.mean(similarity_B)
    return jnp.sum(jnp.where(present_B, similarity_B, 0)) / jnp.maximum(jnp.sum(present_B), 1)
