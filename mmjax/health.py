"""Whether a contrastive training is sound, read off its embeddings.

Letters: N pairs looked at, E embedding.
"""

import jax
import jax.numpy as jnp

# Enough for stable means; their similarities are a small part of a step even on one core.
_PAIRS = 256
_NEVER = -1e30  # in place of a logit that does not count


def measure(
    z: dict[str, jax.Array],
    scale: jax.Array,
    bias: jax.Array | float,
    *,
    present_B: jax.Array | None = None,
    when: jax.Array,
):
    """Scalars by name, of two modalities of the first 256 examples of the global batch; zeros where `when` is
    false.

    - `logit_positive`, `logit_negative`: mean logit of a pair, and of the text nearest to an image among
      those that belong to others; `margin` is their difference. Here and below the first of any two
      modalities stands for the image, the second for the text.
    - `alignment`: mean squared distance of a pair; `uniformity`: log of the mean of exp(-2 d**2) over pairs
      of one modality, mean of the modalities, lower is more even (Wang and Isola 2020, arXiv:2005.10242).
    - `rank_<modality>`: effective rank, the exponential of the entropy of the eigenvalues of the Gram matrix
      scaled to sum to 1 (Friedman and Dieng 2023, arXiv:2210.02410; Roy and Vetterli 2007 take singular
      values); 1 after a collapse, at most min(256, E).
    - `gap`: distance of the modalities' means (Liang et al. 2022, arXiv:2203.02053).
    - `entropy`: of the softmax over the texts, in nats, mean over the images; log(256) where nothing is
      known.

    Args:
        z: unit-norm float32 [B, E] of two modalities, by name.
        scale, bias: what makes logits of similarities.
        present_B: bool; the others lack one of the two and do not count. None: all are there.
        when: scalar bool.
    """
    (first, x_BE), (second, y_BE) = z.items()
    x_NE, y_NE = (jax.lax.stop_gradient(z_BE[:_PAIRS]) for z_BE in (x_BE, y_BE))
    there_N = jnp.ones(len(x_NE), bool) if present_B is None else present_B[:_PAIRS]

    def found(*args):
        measures, ranks = _measure(*args)
        return measures | {f"rank_{name}": rank for name, rank in zip((first, second), ranks, strict=True)}

    args = x_NE, y_NE, there_N, scale, bias
    shapes = jax.eval_shape(found, *args)
    return jax.lax.cond(
        when, found, lambda *_: {name: jnp.zeros(s.shape, s.dtype) for name, s in shapes.items()}, *args
    )


def _measure(x_NE, y_NE, there_N, scale, bias):
    """The measures, and the ranks of both."""
    n = jnp.maximum(jnp.sum(there_N), 1)

    def mean(value_N):
        return jnp.sum(jnp.where(there_N, value_N, 0)) / n

    # Rows of zeros change none of the sums below.
    x_NE, y_NE = (jnp.where(there_N[:, None], z_NE, 0) for z_NE in (x_NE, y_NE))
    similarity_NN = _products(x_NE, y_NE)
    logits_NN = scale * similarity_NN + bias
    positive = mean(jnp.diagonal(logits_NN))
    others_NN = there_N & ~jnp.eye(len(there_N), dtype=bool)
    # A lone pair has no others: a number all the same.
    hardest_N = jnp.max(logits_NN, axis=1, where=others_NN, initial=-jnp.inf)
    negative = mean(jnp.where(jnp.any(others_NN, axis=1), hardest_N, 0))
    log_p_NN = jax.nn.log_softmax(jnp.where(there_N, logits_NN, _NEVER), axis=1)
    measures = {
        "logit_positive": positive,
        "logit_negative": negative,
        "margin": positive - negative,
        "alignment": mean(2 - 2 * jnp.diagonal(similarity_NN)),
        "uniformity": (_uniformity(x_NE, there_N) + _uniformity(y_NE, there_N)) / 2,
        "gap": jnp.linalg.norm(jnp.sum(x_NE - y_NE, axis=0)) / n,
        "entropy": -mean(jnp.sum(jnp.exp(log_p_NN) * log_p_NN, axis=1)),
    }
    return measures, (_effective_rank(x_NE), _effective_rank(y_NE))


def _uniformity(z_NE, there_N):
    n = jnp.sum(there_N)
    squared_NN = 2 - 2 * _products(z_NE, z_NE)
    apart_NN = there_N[:, None] & there_N & ~jnp.eye(len(z_NE), dtype=bool)
    total = jnp.sum(jnp.where(apart_NN, jnp.exp(-2 * squared_NN), 0))
    return jnp.where(n > 1, jnp.log(jnp.maximum(total, 1e-30) / jnp.maximum(n * (n - 1), 1)), 0)


def _effective_rank(z_NE):
    # The smaller of the two has the same eigenvalues, but for zeros.
    gram = _products(z_NE, z_NE) if z_NE.shape[0] <= z_NE.shape[1] else _products(z_NE.T, z_NE.T)
    values = jnp.maximum(jnp.linalg.eigvalsh(gram), 0)
    share = values / jnp.maximum(jnp.sum(values), 1e-30)
    return jnp.exp(-jnp.sum(share * jnp.log(jnp.maximum(share, 1e-30))))


def _products(x, y):
    return jnp.dot(x, y.T, precision="highest")
