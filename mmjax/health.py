"""Whether a contrastive training is sound, read off its embeddings.

Letters: N pairs looked at, E embedding. `there_N`, bool, says which of the rows count; None: all.
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
    - `alignment`, `rank_<modality>` (at most min(256, E)) and `gap`: as the functions below;
      `uniformity`: mean of the modalities.
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
    there_N = _every(x_NE) if present_B is None else present_B[:_PAIRS]

    def found(*args):
        measures, ranks = _measure(*args)
        return measures | {f"rank_{name}": rank for name, rank in zip((first, second), ranks, strict=True)}

    args = x_NE, y_NE, there_N, scale, bias
    shapes = jax.eval_shape(found, *args)
    return jax.lax.cond(
        when, found, lambda *_: {name: jnp.zeros(s.shape, s.dtype) for name, s in shapes.items()}, *args
    )


def alignment(x_NE, y_NE, there_N=None):
    """Mean squared distance of a pair (Wang and Isola 2020, arXiv:2005.10242), of unit-norm embeddings."""
    return _mean(2 - 2 * jnp.sum(x_NE * y_NE, axis=1), there_N)


def uniformity(z_NE, there_N=None):
    """Log of the mean of exp(-2 d**2) over pairs of one modality; lower is more even (the same paper)."""
    there_N = _every(z_NE) if there_N is None else there_N
    n = jnp.sum(there_N)
    squared_NN = 2 - 2 * _products(z_NE, z_NE)
    apart_NN = there_N[:, None] & there_N & ~jnp.eye(len(z_NE), dtype=bool)
    total = jnp.sum(jnp.where(apart_NN, jnp.exp(-2 * squared_NN), 0))
    return jnp.where(n > 1, jnp.log(jnp.maximum(total, 1e-30) / jnp.maximum(n * (n - 1), 1)), 0)


def effective_rank(z_NE):
    """Exponential of the entropy of the eigenvalues of the Gram matrix scaled to sum to 1.

    Friedman and Dieng 2023, arXiv:2210.02410; Roy and Vetterli 2007 take singular values. 1 after a collapse,
    at most min(N, E). Rows of zeros change nothing.
    """
    # The smaller of the two has the same eigenvalues, but for zeros.
    gram = _products(z_NE, z_NE) if z_NE.shape[0] <= z_NE.shape[1] else _products(z_NE.T, z_NE.T)
    values = jnp.maximum(jnp.linalg.eigvalsh(gram), 0)
    share = values / jnp.maximum(jnp.sum(values), 1e-30)
    return jnp.exp(-jnp.sum(share * jnp.log(jnp.maximum(share, 1e-30))))


def gap(x_NE, y_NE, there_N=None):
    """Distance of the modalities' means (Liang et al. 2022, arXiv:2203.02053)."""
    return jnp.linalg.norm(_mean(x_NE - y_NE, there_N))


def _measure(x_NE, y_NE, there_N, scale, bias):
    """The measures, and the ranks of both."""
    # Rows of zeros change neither similarities that count nor ranks.
    x_NE, y_NE = (jnp.where(there_N[:, None], z_NE, 0) for z_NE in (x_NE, y_NE))
    logits_NN = scale * _products(x_NE, y_NE) + bias
    positive = _mean(jnp.diagonal(logits_NN), there_N)
    others_NN = there_N & ~jnp.eye(len(there_N), dtype=bool)
    # A lone pair has no others: a number all the same.
    hardest_N = jnp.max(logits_NN, axis=1, where=others_NN, initial=-jnp.inf)
    negative = _mean(jnp.where(jnp.any(others_NN, axis=1), hardest_N, 0), there_N)
    log_p_NN = jax.nn.log_softmax(jnp.where(there_N, logits_NN, _NEVER), axis=1)
    measures = {
        "logit_positive": positive,
        "logit_negative": negative,
        "margin": positive - negative,
        "alignment": alignment(x_NE, y_NE, there_N),
        "uniformity": (uniformity(x_NE, there_N) + uniformity(y_NE, there_N)) / 2,
        "gap": gap(x_NE, y_NE, there_N),
        "entropy": -_mean(jnp.sum(jnp.exp(log_p_NN) * log_p_NN, axis=1), there_N),
    }
    return measures, (effective_rank(x_NE), effective_rank(y_NE))


def _every(z_NE):
    return jnp.ones(len(z_NE), bool)


def _mean(rows, there_N):
    """Over the rows that count; 0 where there are none."""
    there = (_every(rows) if there_N is None else there_N).reshape(-1, *[1] * (rows.ndim - 1))
    return jnp.sum(jnp.where(there, rows, 0), axis=0) / jnp.maximum(jnp.sum(there), 1)


def _products(x, y):
    return jnp.dot(x, y.T, precision="highest")
