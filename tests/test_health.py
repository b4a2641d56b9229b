"""The signs of a sound training against other formulas for them."""

import jax
import numpy as np
import pytest
import scipy.special

from mmjax import health, sharding
from mmjax.sharding import MeshShape


def embeddings(rows, width, seed=0):
    rng = np.random.default_rng(seed)
    out = {}
    for name in ("image", "text"):
        z = rng.normal(size=(rows, width)) + rng.normal(size=width)
        out[name] = (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)
    return out


def expected(z, scale, bias):
    image, text = z["image"].astype(float), z["text"].astype(float)
    n = len(image)
    logits = scale * image @ text.T + bias
    hardest = [max(logits[i, j] for j in range(n) if j != i) for i in range(n)]
    p = scipy.special.softmax(logits, axis=1)
    i, j = np.triu_indices(n, 1)

    def uniformity(x):
        return np.log(np.mean(np.exp(-2 * np.sum((x[i] - x[j]) ** 2, axis=1))))

    def rank(x):
        values = np.linalg.svd(x, compute_uv=False) ** 2
        return np.exp(scipy.special.entr(values / values.sum()).sum())

    return {
        "logit_positive": np.mean(np.diagonal(logits)),
        "logit_negative": np.mean(hardest),
        "margin": np.mean(np.diagonal(logits)) - np.mean(hardest),
        "alignment": np.mean(np.sum((image - text) ** 2, axis=1)),
        "uniformity": (uniformity(image) + uniformity(text)) / 2,
        "rank_image": rank(image),
        "rank_text": rank(text),
        "gap": np.linalg.norm(image.mean(axis=0) - text.mean(axis=0)),
        "entropy": scipy.special.entr(p).sum(axis=1).mean(),
    }


@pytest.mark.parametrize("rows, width", [(24, 8), (8, 24), (264, 6)])
def test_each_is_its_formula_of_the_first_pairs(rows, width):
    z = embeddings(rows, width)
    mesh = sharding.make_mesh(MeshShape(data=8))
    with jax.set_mesh(mesh):
        measure = jax.jit(lambda z: health.measure(z, 7.0, -2.0, when=True))
        found = measure(sharding.put_batch(mesh, z))
    wanted = expected({name: x[:256] for name, x in z.items()}, 7.0, -2.0)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-4, atol=1e-5, err_msg=name)


def test_a_collapse_shows():
    one = np.zeros((16, 8), np.float32)
    one[:, 0] = 1
    found = jax.jit(lambda z: health.measure(z, 10.0, 0.0, when=True))({"image": one, "text": one})
    np.testing.assert_allclose(found["rank_image"], 1, rtol=1e-4)
    np.testing.assert_allclose(found["entropy"], np.log(16), rtol=1e-5)
    np.testing.assert_allclose([found["margin"], found["uniformity"], found["gap"]], 0, atol=1e-5)


def test_nothing_is_measured_where_nothing_is_written():
    z = embeddings(8, 8)
    found = jax.jit(lambda z, when: health.measure(z, 7.0, 0.0, when=when))(z, False)
    assert set(map(float, found.values())) == {0.0}
