"""Embedding health, against the formulas in NumPy, and that it is what training reports."""

import jax.numpy as jnp
import numpy as np
import pytest
from points import table

from mmjax import health
from mmjax.evals.embedding_health import EmbeddingHealth


def run(data, text_NE, **fields):
    evaluator = EmbeddingHealth(name="x", source=data.source(0, len(data.z_NE)), **fields)
    evaluator.prepare()
    found = evaluator(data.embed | {"text": lambda texts: text_NE[: len(texts)]}).metrics
    assert set(found) == set(evaluator.finds)
    return found


@pytest.fixture(scope="module")
def pairs():
    return table(0, 40), table(1, 40).z_NE


def test_values_are_those_of_the_formulas(pairs):
    data, text_NE = pairs
    image_NE = data.z_NE
    found = run(data, text_NE)
    np.testing.assert_allclose(
        found["alignment"], np.mean(np.sum((image_NE - text_NE) ** 2, axis=1)), rtol=1e-5
    )
    distance = [np.sum((a - b) ** 2) for i, a in enumerate(text_NE) for b in text_NE[:i]]
    np.testing.assert_allclose(
        found["uniformity_text"], np.log(np.mean(np.exp(-2 * np.array(distance)))), rtol=1e-4
    )
    share = np.linalg.svd(image_NE, compute_uv=False) ** 2
    share /= share.sum()
    np.testing.assert_allclose(found["rank_image"], np.exp(-np.sum(share * np.log(share))), rtol=1e-4)
    np.testing.assert_allclose(found["gap"], np.linalg.norm(image_NE.mean(0) - text_NE.mean(0)), rtol=1e-5)


def test_values_are_those_that_training_reports_of_the_same_pairs(pairs):
    data, text_NE = pairs
    found = run(data, text_NE)
    z = {"image": jnp.asarray(data.z_NE), "text": jnp.asarray(text_NE)}
    of_training = health.measure(z, jnp.float32(1), 0.0, when=jnp.bool_(True))
    for name in ("alignment", "rank_image", "rank_text", "gap"):
        np.testing.assert_allclose(found[name], of_training[name], rtol=1e-4)
    mean = (found["uniformity_image"] + found["uniformity_text"]) / 2
    np.testing.assert_allclose(mean, of_training["uniformity"], rtol=1e-4)


def test_a_limit_takes_fewer_pairs_and_one_pair_is_refused(pairs):
    data, text_NE = pairs
    few = run(data, text_NE, limit=4)
    assert few["rank_image"] <= 4 < run(data, text_NE)["rank_image"]
    with pytest.raises(ValueError, match="x: 1 example has no distances"):
        run(data, text_NE, limit=1)
