"""Weights between weights: interpolation of two runs, and means of several.

`interpolate` is WiSE-FT (Wortsman et al. 2022, arXiv:2109.01903): between a zero-shot and a finetuned model
lie models that keep more of the former's robustness. `soup` is the uniform soup of Wortsman et al. 2022,
arXiv:2203.05482, section 2.
"""

import math

import jax


def interpolate(zero, one, alpha: float):
    """(1 - alpha) zero + alpha one, leaf by leaf; alpha 0 and 1 give these bit for bit.

    Raises:
        ValueError: alpha is not in [0, 1], or the trees hold other parameters.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha} must lie in [0, 1]")
    _check_alike([zero, one])
    if alpha in (0, 1):
        return one if alpha else zero
    return jax.tree.map(lambda x, y: (1 - alpha) * x + alpha * y, zero, one)


def soup(trees, weights=None):
    """The weighted mean of parameters of one shape, leaf by leaf.

    Args:
        weights: that sum to 1; None weighs all alike.

    Raises:
        ValueError: there are no trees, not a weight for each, or they hold other parameters.
    """
    weights = [1 / max(len(trees), 1)] * len(trees) if weights is None else list(weights)
    if not trees or len(weights) != len(trees) or not math.isclose(sum(weights), 1, rel_tol=1e-6):
        raise ValueError(f"{len(trees)} models with weights {weights}: give one weight each, that sum to 1")
    _check_alike(trees)
    return jax.tree.map(lambda *leaves: sum(w * x for w, x in zip(weights, leaves, strict=True)), *trees)


def _check_alike(trees):
    first = _shapes(trees[0])
    for tree in trees[1:]:
        if (other := _shapes(tree)) != first:
            path = next(p for p in {**first, **other} if first.get(p) != other.get(p))
            raise ValueError(
                f"{path} is {first.get(path, 'missing')} in one model and {other.get(path, 'missing')} in "
                "another; only weights of the same network have a mean"
            )


def _shapes(tree):
    return {jax.tree_util.keystr(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(tree)}
