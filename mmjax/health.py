"""Whether a contrastive training is sound, read off its embeddings.

Letters: N pairs looked at, E embedding.
"""

import jax
import jax.numpy as jnp

# Enough for stable means; their similarities are a small part of a step even on one core.
_PAIRS = 256


def measure(z: dict[str, jax.Array], scale: jax.Array, bias: jax.Array | float, *, when: jax.Array):
    """Scalars by name, of the first 256 pairs of the global batch; zeros where `when` is false.

    - `logit_positive`, `logit_negative`: mean logit of a pair, and of the text nearest to an image among
      those that belong to others; `margin` is their difference.
    - `alignment`, `rank_<modality>` (at most min(256, E)) and `gap`: as the functions below;
      `uniformity`: mean of the modalities.
    - `entropy`: of the softmax over the texts, in nats, mean over the images; log(256) where nothing is
      known.

    Args:
        z: unit-norm float32 [B, E] by modality, "image" and "text".
        scale, bias: what makes logits of similarities.
        when: scalar bool.
    """
    image_NE, text_NE = (jax.lax.stop_gradient(z[name][:_PAIRS]) for name in ("image", "text"))
    shapes = jax.eval_shape(_measure, image_NE, text_NE, scale, bias)
    return jax.lax.cond(
        when,
        _measure,
        lambda *_: {name: jnp.zeros(s.shape, s.dtype) for name, s in shapes.items()},
        *(image_NE, text_NE, scale, bias),
    )


def alignment(image_NE, text_NE):
    """Mean squared distance of a pair (Wang and Isola 2020, arXiv:2005.10242), of unit-norm embeddings."""
    return jnp.mean(2 - 2 * jnp.sum(image_NE * text_NE, axis=1))


def uniformity(z_NE):
    """Log of the mean of exp(-2 d**2) over pairs of one modality; lower is more even (the same paper)."""
    n = len(z_NE)
    squared_NN = 2 - 2 * _products(z_NE, z_NE)
    apart_NN = 1 - jnp.eye(n)
    return jnp.log(jnp.sum(jnp.exp(-2 * squared_NN) * apart_NN) / (n * (n - 1)))


def effective_rank(z_NE):
    """Exponential of the entropy of the eigenvalues of the Gram matrix scaled to sum to 1.

    Friedman and Dieng 2023, arXiv:2210.02410; Roy and Vetterli 2007 take singular values. 1 after a collapse,
    at most min(N, E).
    """
    # The smaller of the two has the same eigenvalues, but for zeros.
    gram = _products(z_NE, z_NE) if z_NE.shape[0] <= z_NE.shape[1] else _products(z_NE.T, z_NE.T)
    values = jnp.maximum(jnp.linalg.eigvalsh(gram), 0)
    share = values / jnp.sum(values)
    return jnp.exp(-jnp.sum(share * jnp.log(jnp.maximum(share, 1e-30))))


def gap(image_NE, text_NE):
    """Distance of the modalities' means (Liang et al. 2022, arXiv:2203.02053)."""
    return jnp.linalg.norm(jnp.mean(image_NE, axis=0) - jnp.mean(text_NE, axis=0))


def _measure(image_NE, text_NE, scale, bias):
    logits_NN = scale * _products(image_NE, text_NE) + bias
    n = len(logits_NN)
    positive = jnp.mean(jnp.diagonal(logits_NN))
    others_NN = jnp.where(jnp.eye(n, dtype=bool), -jnp.inf, logits_NN)
    negative = jnp.mean(jnp.max(others_NN, axis=1))
    log_p_NN = jax.nn.log_softmax(logits_NN, axis=1)
    return {
        "logit_positive": positive,
        "logit_negative": negative,
        "margin": positive - negative,
        "alignment": alignment(image_NE, text_NE),
        "uniformity": (uniformity(image_NE) + uniformity(text_NE)) / 2,
        "rank_image": effective_rank(image_NE),
        "rank_text": effective_rank(text_NE),
        "gap": gap(image_NE, text_NE),
        "entropy": -jnp.mean(jnp.sum(jnp.exp(log_p_NN) * log_p_NN, axis=1)),
    }


def _products(x, y):
    return jnp.dot(x, y.T, precision="highest")
