"""One gradient, however it is computed: on any mesh, by any implementation of the loss, in one piece or in
micro-batches, with layers scanned or not, rematerialised or not (docs/exactness.md).

A combination breaches the contract where its loss or a gradient is further from the reference than the
tolerance. The quick cases take every value of every choice; all combinations take minutes to compile.
"""

import functools
import itertools
from typing import NamedTuple

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tinyclip

from mmjax.contrastive.loss import compare, embed, named_keys
from mmjax.objectives.infonce import InfoNCE
from mmjax.objectives.sigmoid import Sigmoid

ROWS = 32
KEY = 7
OBJECTIVES = {"infonce": InfoNCE, "sigmoid": Sigmoid}
IMPLEMENTATIONS = ("dense", "ring", "gather")


class Case(NamedTuple):
    mesh: tuple[int, int, int]
    accumulate: int
    remat: str
    scan: bool
    objective: str
    implementation: str
    dtype: str = "float32"


MESHES = ((1, 1, 1), (8, 1, 1), (2, 4, 1), (2, 2, 2))
QUICK = [
    Case((1, 1, 1), 4, "full", False, "infonce", "dense"),
    Case((8, 1, 1), 4, "none", True, "sigmoid", "ring"),
    Case((2, 4, 1), 1, "full", True, "infonce", "gather"),
    Case((2, 2, 2), 4, "none", False, "sigmoid", "dense"),
    Case((2, 2, 2), 4, "full", True, "infonce", "ring", dtype="bfloat16"),
]
ALL = [
    Case(*choices, dtype=dtype)
    for dtype, remats, scans in (
        ("float32", ("none", "full"), (True, False)),
        ("bfloat16", ("full",), (True,)),
    )
    for choices in itertools.product(MESHES, (1, 4), remats, scans, OBJECTIVES, IMPLEMENTATIONS)
]


def config(case):
    encoder = tinyclip.ENCODER.clone(remat=case.remat, scan=case.scan, dtype=case.dtype)
    objective = OBJECTIVES[case.objective](implementation=case.implementation)
    # Which patches are dropped depends on none of the choices; what is drawn in layers differs where they are
    # scanned, for they have other names.
    return tinyclip.config(
        ROWS, encoder=encoder, patch_dropout=0.5, objective=objective, accumulate=case.accumulate
    )


PLAIN = Case((1, 1, 1), 1, "none", True, "infonce", "dense")


@functools.cache
def start(objective):
    """The parameters that all cases begin with; towers have the same under every objective."""
    params = {name: tinyclip.params(config(PLAIN._replace(objective=name))) for name in OBJECTIVES}
    return {**params["infonce"], "objective": params[objective]["objective"]}


@functools.cache
def plain_towers():
    """Embeddings of the plain float32 towers on one device, and the pull-back of gradients through them."""
    cfg, batch, key = config(PLAIN), tinyclip.batch(ROWS), jax.random.key(KEY)
    z, pull = jax.jit(
        lambda params: jax.vjp(lambda params: embed(cfg, params, batch, named_keys(cfg, key))[0], params)
    )(start("infonce"))
    return jax.device_get(z), jax.jit(pull)


@functools.cache
def reference(objective):
    """(loss, gradient) of an objective: NumPy's float64, pulled back through the plain towers."""
    z, pull = plain_towers()
    return of_embeddings(objective, z, pull, start(objective))


def of_embeddings(objective, z, pull, params):
    x_BE, y_BE = (np.float64(z[name]) for name in ("image", "text"))
    loss, slopes, by_params = contract.LOSSES[objective](x_BE, y_BE, params["objective"])
    (gradient,) = pull({"image": np.float32(slopes[0]), "text": np.float32(slopes[1])})
    return loss, {**jax.device_get(gradient), "objective": by_params}


def unrolled(params):
    """Parameters of scanned layers as those of layers one by one."""

    def of_tower(tower):
        encoder = tower["encoder"]
        depth = len(jax.tree.leaves(encoder["blocks"])[0])
        layers = {f"block_{i}": jax.tree.map(lambda x, i=i: x[i], encoder["blocks"]) for i in range(depth)}
        return {**tower, "encoder": layers}

    return {name: of_tower(tower) if "encoder" in tower else tower for name, tower in params.items()}


def found(case):
    cfg, params = config(case), start(case.objective)
    params = params if case.scan else unrolled(params)
    mesh, key = tinyclip.mesh_of(case.mesh), jax.random.key(KEY)
    (loss, _), gradient = tinyclip.value_and_grad(cfg, params, tinyclip.batch(ROWS), key, mesh)
    return loss, gradient


def check(case):
    loss, gradient = reference(case.objective)
    expected = loss, gradient if case.scan else unrolled(gradient)
    assert not contract.breaches(found(case), expected, contract.TOLERANCE[case.dtype])


@pytest.mark.parametrize("case", QUICK, ids=str)
def test_loss_and_gradients_are_those_of_the_reference(case):
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in ALL if case not in QUICK], ids=str)
def test_so_are_those_of_every_other_combination(case):
    check(case)


def test_the_combinations_are_as_many_as_the_contract_says():
    assert len(set(ALL)) >= 40 and set(QUICK) <= set(ALL)
    for name in Case._fields:
        assert {getattr(case, name) for case in QUICK} == {getattr(case, name) for case in ALL}, name


# What must breach it, of linear towers, which compile fast.


def in_one_piece(cfg, params, z, batch):
    return compare(cfg, params, z, batch)[0].value


def scale_counted_for_every_part(cfg, params, z, batch):
    """Two passes as open_clip has them: for every micro-batch the loss of all, with a gradient for
    its own rows alone. Added up these are right, but the scale has its whole gradient every time."""
    part_B1 = jnp.arange(ROWS)[:, None] % 4

    def loss(part):
        own = {name: jnp.where(part_B1 == part, x, jax.lax.stop_gradient(x)) for name, x in z.items()}
        return compare(cfg, params, own, batch)[0].value

    losses = [loss(part) for part in range(4)]
    # The value of one, the gradient of their sum.
    return sum(losses) - jax.lax.stop_gradient(sum(losses[1:]))


def mean_over_micro_batches(cfg, params, z, batch):
    parts = [jax.tree.map(lambda x, part=part: x[part::4], (z, batch)) for part in range(4)]
    return sum(compare(cfg, params, *part)[0].value for part in parts) / 4


def gather_without_gradient(cfg, params, z, batch):
    """Every device compares its own rows with gathered ones that pass no gradient back."""
    scale = jnp.exp(params["objective"]["log_scale"])

    def on_device(x_ME, y_ME):
        right_M = jnp.arange(len(x_ME)) + len(x_ME) * jax.lax.axis_index("devices")

        def one_way(own_ME, other_ME):
            all_BE = jax.lax.stop_gradient(jax.lax.all_gather(other_ME, "devices", tiled=True))
            log_MB = jax.nn.log_softmax(scale * own_ME @ all_BE.T, axis=1)
            return -jnp.mean(jnp.take_along_axis(log_MB, right_M[:, None], axis=1))

        return (one_way(x_ME, y_ME) + one_way(y_ME, x_ME)) / 2

    rows = [jnp.reshape(z[name], (8, ROWS // 8, -1)) for name in ("image", "text")]
    return jnp.mean(jax.vmap(on_device, axis_name="devices")(*rows))


EVERYTHING = {"loss", "image", "text", "log_scale"}


@pytest.mark.parametrize(
    "way, objective, wrong",
    [
        (in_one_piece, "infonce", set()),
        (in_one_piece, "sigmoid", set()),
        (scale_counted_for_every_part, "infonce", {"log_scale"}),
        (scale_counted_for_every_part, "sigmoid", {"log_scale", "bias"}),
        (mean_over_micro_batches, "infonce", EVERYTHING),
        (mean_over_micro_batches, "sigmoid", EVERYTHING | {"bias"}),
        (gather_without_gradient, "infonce", {"image", "text"}),
    ],
)
@pytest.mark.parametrize("dtype", contract.TOLERANCE)
def test_known_mistakes_breach_the_contract(way, objective, wrong, dtype):
    cfg, batch = tinyclip.linear(ROWS, objective=OBJECTIVES[objective]()), tinyclip.batch(ROWS)
    params, keys = tinyclip.params(cfg), named_keys(cfg, jax.random.key(KEY))

    def towers(params):
        return embed(cfg, params, batch, keys)[0]

    @jax.jit
    def found(params):
        return jax.value_and_grad(lambda params: way(cfg, params, towers(params), batch))(params)

    z, pull = jax.vjp(towers, params)
    expected = of_embeddings(objective, jax.device_get(z), pull, params)
    assert contract.breaches(jax.device_get(found(params)), expected, contract.TOLERANCE[dtype]) == wrong
