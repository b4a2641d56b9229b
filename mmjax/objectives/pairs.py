"""Which modalities a contrastive objective compares, and the sum of its loss over them.

Letters: B batch, E embedding.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from mmjax.kernels.contrastive import Duplicates
from mmjax.objectives import Loss


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
    # mean of theirs and the whole's; each is made unit-norm and takes a pass of its own.
    widths: tuple[int, ...] = ()
    stopped: tuple[str, ...] = ()  # modalities that this loss teaches nothing, as of a locked tower

    def __post_init__(self):
        names = [pair.name for pair in self.pairs]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"pairs={names}: give one or more, each once")
        if any(width < 1 for width in self.widths):
            raise ValueError(f"widths={self.widths} must be positive")


def over_pairs(views: Views, z: Mapping, batch: Mapping, loss: Callable) -> Loss:
    """Weighted sum of `loss(pair, x_BE, y_BE, present_B)`, and the mean similarity of the first pair.

    Pairs of which an example lacks a side, by `batch["present/<modality>"]` (bool [B]), do not exist for it:
    the loss is that of the others alone.
    """
    values = {}
    for pair in views.pairs:
        x_BE, y_BE = (
            jax.lax.stop_gradient(z[name]) if name in views.stopped else z[name]
            for name in (pair.first, pair.second)
        )
        present_B = _present(batch, pair)
        each = [loss(pair, x_BE, y_BE, present_B)]
        each += [loss(pair, *_prefix(width, x_BE, y_BE), present_B) for width in views.widths]
        values[pair] = sum(each) / len(each)
    first = views.pairs[0]
    metrics = {"positive": jnp.mean(jnp.sum(z[first.first] * z[first.second], axis=1))}
    if len(values) > 1:
        metrics |= {f"{pair.name}/loss": value for pair, value in values.items()}
    return Loss(sum(pair.weight * value for pair, value in values.items()), metrics)


def ids_of(batch: Mapping, duplicates: Duplicates):
    """What tells which examples show the same thing; None where it does not matter.

    Raises:
        ValueError: it matters, and the batch does not say.
    """
    if duplicates == "negatives":
        return None
    if "id" not in batch:
        raise ValueError(f"duplicates={duplicates!r} needs 'id' in the batch, which has {sorted(batch)}")
    return batch["id"]


def _present(batch, pair):
    """Bool [B]: whether both sides of the pair are there; None where all are."""
    keys = [f"present/{name}" for name in (pair.first, pair.second)]
    given = [batch[key] for key in keys if key in batch]
    return given[0] & given[-1] if given else None


def _prefix(width, *embeddings):
    for z_BE in embeddings:
        if width >= z_BE.shape[1]:
            raise ValueError(f"a prefix of width {width} is no part of an embedding of {z_BE.shape[1]}")
        z_BE = z_BE[:, :width]
        # The root of zero has no gradient.
        yield z_BE * jax.lax.rsqrt(jnp.maximum(jnp.sum(z_BE**2, axis=1, keepdims=True), 1e-12))
