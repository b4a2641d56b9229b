"""Multipliers and freezing by path."""

import jax
import numpy as np
import pytest

from mmjax import optim
from mmjax.optim import Adafactor, AdamW, Constant, Lamb, Lion, Multiplier, Muon, Optim
from mmjax.sharding import path_name

SHAPES = {
    "image": {  # a scanned encoder of three layers
        "patch": {"kernel": (12, 8)},
        "positions": (4, 8),
        "encoder": {"blocks": {"mlp": {"up": {"kernel": (3, 8, 16), "bias": (3, 16)}}}},
        "norm": {"scale": (8,)},
        "head": {"kernel": (8, 4)},
    },
    "text": {  # an unrolled one of two
        "pieces": {"embedding": (10, 8)},
        "encoder": {
            "block_0": {"mlp": {"up": {"kernel": (8, 16)}}},
            "block_1": {"mlp": {"up": {"kernel": (8, 16)}}},
        },
        "head": {"kernel": (8, 4)},
    },
    "objective": {"log_scale": ()},
}


def params():
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda shape: np.asarray(rng.normal(size=shape), np.float32),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def first_update(**fields):
    """By path, for a gradient that equals the parameters."""
    tx = optim.make(Optim(lr=0.1, schedule=Constant(), **fields), 10)
    updates, _ = jax.jit(tx.update)(params(), tx.init(params()), params())
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(updates)}


def ratios(**fields):
    """How much each update is scaled by `fields`: one number, or one a layer."""
    plain, scaled = first_update(), first_update(**fields)
    out = {}
    for path in plain:
        ratio = scaled[path] / plain[path]
        rows = ratio.reshape(3, -1) if "/blocks/" in path else ratio.reshape(1, -1)
        np.testing.assert_allclose(rows, rows[:, :1] * np.ones_like(rows), rtol=1e-4)
        out[path] = [round(float(r), 4) for r in rows[:, 0]]
    return out


def test_the_multipliers_that_match_a_path_are_multiplied():
    found = ratios(multipliers=(Multiplier(pattern="^image/", lr=0.5), Multiplier(pattern="kernel$", lr=0.1)))
    for path, ratio in found.items():
        expected = (0.5 if path.startswith("image/") else 1) * (0.1 if path.endswith("kernel") else 1)
        assert set(ratio) == {expected}, path


@pytest.mark.parametrize(
    "rule", [AdamW(), Lion(), Adafactor(), Lamb(), Muon()], ids=lambda r: type(r).__name__
)
def test_what_is_frozen_stays_and_has_no_state(rule):
    config = Optim(rule=rule, lr=0.1, schedule=Constant(), weight_decay=0.1, frozen="^image/")
    tx = optim.make(config, 10)
    state = tx.init(params())
    updates, _ = jax.jit(tx.update)(params(), state, params())
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(updates["image"]))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(updates["text"]))
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    assert not [path for path in paths if "image/" in path]
    assert [path for path in paths if "text/" in path]


@pytest.mark.parametrize(
    "field, fields",
    [
        ("frozen", dict(frozen="^audio/")),
        (
            "multipliers.1.pattern",
            dict(multipliers=(Multiplier(pattern="text", lr=2.0), Multiplier(pattern="^audio/", lr=2.0))),
        ),
        ("decayed", dict(decayed="^audio/", weight_decay=0.1)),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused_before_the_first_step(field, fields):
    tx = optim.make(Optim(**fields), 10)
    with pytest.raises(
        ValueError, match=rf"optim.{field}='\^audio/' matches none of the parameters: .*image/"
    ):
        tx.init(params())


def test_what_freezes_everything_is_refused_as_such():
    tx = optim.make(Optim(frozen=".", weight_decay=0.1), 10)
    with pytest.raises(ValueError, match=r"optim.frozen='.' freezes everything"):
        tx.init(params())


def test_a_pattern_of_frozen_parameters_alone_is_told_from_one_of_none():
    def message(pattern):
        with pytest.raises(ValueError) as error:
            optim.make(Optim(frozen="^image/", weight_decay=0.1, decayed=pattern), 10).init(params())
        return str(error.value)

    assert message("^image/") == (
        "optim.decayed='^image/' matches none of the parameters that are not frozen: objective/log_scale, "
        "text/encoder/block_0/mlp/up/kernel, text/encoder/block_1/mlp/up/kernel, text/head/kernel, "
        "text/pieces/embedding"
    )
    assert "'^audio/' matches none of the parameters: image/encoder/" in message("^audio/")


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(lr=0.0), "lr=0.0 of '\\^image/' must be positive; optim.frozen freezes"),
        (dict(decay=-1.0), "decay=-1.0 of '\\^image/' must be 0 or more"),
        (dict(decay=float("inf")), "decay=inf of"),
    ],
)
def test_an_impossible_multiplier_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Multiplier(pattern="^image/", **fields)
