"""What an objective makes of a teacher's embeddings: the formulas, at any width, with examples missing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import sharding
from mmjax.objectives.distilled import DistilledInfoNCE, affinities
from mmjax.objectives.infonce import InfoNCE
from mmjax.objectives.pairs import Views
from mmjax.sharding import MeshShape

B, E, T = 16, 6, 9


def rows(seed, width):
    x = np.random.default_rng(seed).normal(size=(B, width))
    return np.float32(x / np.linalg.norm(x, axis=1, keepdims=True))


Z = {"image": rows(0, E), "text": rows(1, E)}
THERE = np.arange(B) % 3 > 0


def taught(width=T):
    return {"teacher/image": rows(2, width), "teacher/text": rows(3, width)}


def squares(batch, there):
    """Mean squared difference of every entry of the three matrices of similarities, in float64."""
    own, teacher = ([np.float64(x[there]) for x in pair] for pair in (Z.values(), batch.values()))
    of = [(0, 1), (0, 0), (1, 1)]
    return np.mean([np.mean((own[i] @ own[j].T - teacher[i] @ teacher[j].T) ** 2) for i, j in of])


@pytest.mark.parametrize("there", [None, THERE], ids=["all", "some"])
def test_affinities_are_the_differences_of_all_similarities(there):
    batch = taught()
    found = affinities(list(Z.values()), list(batch.values()), there)
    expected = squares(batch, np.ones(B, bool) if there is None else there)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_affinities_do_not_depend_on_the_mesh_and_learn_what_turns_no_pair():
    batch = taught(E)
    mesh = sharding.make_mesh(MeshShape(data=4, fsdp=2))
    with jax.set_mesh(mesh):
        own, teacher = (sharding.put_batch(mesh, list(pair.values())) for pair in (Z, batch))
        spread = jax.jit(affinities)(own, teacher)
    np.testing.assert_allclose(spread, squares(batch, np.ones(B, bool)), rtol=1e-5)
    turn, _ = np.linalg.qr(np.random.default_rng(4).normal(size=(E, E)))
    turned = [np.float32(x @ turn) for x in Z.values()]
    np.testing.assert_allclose(affinities(turned, list(Z.values())), 0, atol=1e-6)


def applied(objective, batch, z=None):
    variables = objective.init(jax.random.key(0), z or Z, batch)
    return variables.get("params", {}), objective.apply(variables, z or Z, batch)


@pytest.mark.parametrize("there", [False, True], ids=["all", "some"])
@pytest.mark.parametrize("by", ["cosine", "distance"])
@pytest.mark.parametrize("width", [E, T])
def test_embeddings_are_compared_through_a_map_where_widths_differ(width, by, there):
    batch = taught(width) | ({"present/text": jnp.asarray(THERE)} if there else {})
    params, loss = applied(DistilledInfoNCE(embedding=1.0, embedding_by=by), batch)
    far = []
    for name, z in Z.items():
        z, target = np.float64(z), np.float64(batch[f"teacher/{name}"])
        if width != E:
            z = z @ np.float64(params[f"project_{name}"]["kernel"])
        cosine = np.sum(z * target, axis=1) / np.linalg.norm(z, axis=1)
        far_B = 1 - cosine if by == "cosine" else np.sum((z - target) ** 2, axis=1)
        far.append(far_B[THERE if there else slice(None)].mean())
    np.testing.assert_allclose(loss.metrics["embedding"], np.mean(far), rtol=1e-5)
    assert set(params) == {"infonce"} | ({"project_image", "project_text"} if width != E else set())


def test_the_value_is_the_weighted_sum_and_a_weight_of_nothing_adds_nothing():
    batch = taught()
    _, loss = applied(DistilledInfoNCE(share=0.25, embedding=3.0, affinity=5.0), batch)
    found = loss.metrics
    expected = 0.75 * found["infonce"] + 0.25 * found["distilled"]
    np.testing.assert_allclose(
        loss.value, expected + 3 * found["embedding"] + 5 * found["affinity"], rtol=1e-6
    )
    params, plain = applied(DistilledInfoNCE(share=0.25), batch)
    np.testing.assert_allclose(plain.value, expected, rtol=1e-6)
    assert {"embedding", "affinity"}.isdisjoint(plain.metrics) and set(params) == {"infonce"}


def test_neither_the_teacher_nor_a_stopped_modality_learns():
    views = Views(stopped=("image",))
    objective = DistilledInfoNCE(infonce=InfoNCE(views=views), embedding=1.0, affinity=1.0)
    batch = taught(E)
    variables = objective.init(jax.random.key(0), Z, batch)
    by_z, by_batch = jax.grad(lambda z, batch: objective.apply(variables, z, batch).value, argnums=(0, 1))(
        Z, batch
    )
    assert not np.any(by_z["image"]) and np.any(by_z["text"])
    assert not any(np.any(x) for x in jax.tree.leaves(by_batch))


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(embedding=-1.0), "embedding=-1.0 and affinity=0.0 must be 0 or more"),
        (dict(affinity=-1.0), "embedding=0.0 and affinity=-1.0 must be 0 or more"),
        (
            dict(teacher_scale=None),
            "teacher_scale=None needs the teacher of a finetune; give a number, such as",
        ),
    ],
)
def test_weights_below_nothing_and_a_scale_that_nobody_gives_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        applied(DistilledInfoNCE(**fields), taught())
