"""Which parameter of a checkpoint goes where, and positions between positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.finetune.adapt import Adapt, plan, resize_grid, resized


def tree(**shapes):
    """{"image": {part: {name: shape}}} of names such as pool_probe."""
    found = {}
    for name, shape in shapes.items():
        part, _, leaf = name.rpartition("_")
        where = found.setdefault(part, {}) if part else found
        where[leaf] = jax.ShapeDtypeStruct(shape, jnp.float32)
    return {"image": found}


def fates(adapt, there, here):
    return {step.path.removeprefix("image/"): step.fate for step in plan(adapt, there, here)}


def test_every_path_has_a_fate():
    there = tree(head_kernel=(4, 2), pool_probe=(1, 4), positions=(16, 4))
    here = tree(head_kernel=(4, 2), norm_scale=(4,), positions=(36, 4))
    found = fates(Adapt(fresh="norm/", drop="pool/"), there, here)
    assert found == {
        "head/kernel": "restored",
        "norm/scale": "fresh",
        "positions": "resized",
        "pool/probe": "left out",
    }


def test_a_pattern_begins_anew_what_would_fit():
    same = tree(head_kernel=(4, 2), norm_scale=(4,))
    assert fates(Adapt(fresh="head/"), same, same) == {"head/kernel": "fresh", "norm/scale": "restored"}


@pytest.mark.parametrize(
    "adapt, there, here, message",
    [
        ({}, tree(a=(2,)), tree(a=(2,), b=(3,)), "image/b is in the tower and not in the checkpoint; give"),
        ({}, tree(a=(2,), b=(3,)), tree(a=(2,)), "image/b is in the checkpoint and not in the tower; give"),
        ({}, tree(a=(2,)), tree(a=(3,)), r"image/a is \[2\] in the checkpoint and \[3\] in the tower; give"),
        ({}, tree(positions=(16, 4)), tree(positions=(16, 8)), r"image/positions is \[16, 4\] in the check"),
        ({}, tree(positions=(16, 4)), tree(positions=(15, 4)), "16 positions cannot be resized to 15: they"),
        (
            dict(grid=((2, 8), (3, 8))),
            tree(positions=(16, 4)),
            tree(positions=(26, 4)),
            r"adapt.grid=.* has \[16, 24\] cells, but image/positions has \[16, 26\] positions; give grids",
        ),
        (dict(fresh="none"), tree(a=(2,)), tree(a=(2,)), "adapt.fresh='none' names none of image/a"),
        (dict(drop="none"), tree(a=(2,)), tree(a=(2,)), "adapt.drop='none' names none of image/a"),
    ],
)
def test_what_no_pattern_names_is_refused(adapt, there, here, message):
    with pytest.raises(ValueError, match=message):
        plan(Adapt(**adapt), there, here)


def features(count, width=3):
    return np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)


def test_linear_features_of_a_finer_grid_lie_between_the_old_ones():
    """Cells of both grids cover the picture; beyond the outer centres the outer value holds."""
    x_SD, before, after = features(4 * 3), (4, 3), (9, 7)
    found = np.asarray(resize_grid(x_SD, before, after, filter="linear")).reshape(*after, -1)
    expected = x_SD.reshape(*before, -1)
    for axis in (0, 1):
        old, new = ((np.arange(n) + 0.5) / n for n in (before[axis], after[axis]))
        expected = np.apply_along_axis(lambda y, old=old, new=new: np.interp(new, old, y), axis, expected)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_half_as_many_cells_are_means_of_those_they_cover():
    """A triangle of twice the width has weights 1, 3, 3, 1 at the four cells around an inner one."""
    x_SD = features(8, 1)
    found = np.asarray(resize_grid(x_SD, (8,), (4,), filter="linear"))[:, 0]
    expected = [np.dot([1, 3, 3, 1], x_SD[start : start + 4, 0]) / 8 for start in (1, 3)]
    np.testing.assert_allclose(found[1:3], expected, rtol=1e-5)


@pytest.mark.parametrize("filter_", ["linear", "cubic"])
@pytest.mark.parametrize("after", [(5, 5), (3, 8), (11, 2)])
def test_equal_features_stay_equal_on_any_grid(filter_, after):
    x_SD = np.broadcast_to(features(1), (25, 3))
    found = resize_grid(x_SD, (5, 5), after, filter=filter_)
    np.testing.assert_allclose(found, np.broadcast_to(x_SD[0], (after[0] * after[1], 3)), rtol=1e-5)


def test_a_class_token_keeps_its_position():
    x_SD = features(1 + 16)
    found = resized(Adapt(), "image/positions", x_SD, 1 + 36)
    np.testing.assert_array_equal(found[0], x_SD[0])
    np.testing.assert_array_equal(found[1:], resize_grid(x_SD[1:], (4, 4), (6, 6)))
    assert len(resized(Adapt(), "image/positions", x_SD[1:], 36)) == 36


@pytest.mark.parametrize("path, first", [("image/positions", 1), ("sound/positions", 0)])
def test_a_grid_is_as_long_and_as_wide_as_it_is_said(path, first):
    """Features that are linear in the place along either axis stay so, away from the edges."""
    before, after = (4, 6), (4, 12)
    rows, columns = np.meshgrid(*(np.arange(n) + 0.5 for n in before), indexing="ij")
    x_SD = np.stack([rows, columns], axis=-1).reshape(-1, 2).astype(np.float32)
    token = np.full((first, 2), 9, np.float32)
    adapt = Adapt(grid=(before, after), filter="linear")
    found = np.asarray(resized(adapt, path, np.concatenate([token, x_SD]), first + 48))
    np.testing.assert_array_equal(found[:first], token)
    grid = found[first:].reshape(*after, 2)
    np.testing.assert_allclose(grid[..., 0], np.repeat(rows, 2, axis=1), rtol=1e-5)
    np.testing.assert_allclose(grid[0, 1:-1, 1], (np.arange(12)[1:-1] + 0.5) / 2, rtol=1e-5)


def test_what_grid_a_sound_has_is_not_guessed():
    """Though 64 and 256 are squares."""
    there, here = ({"sound": tree(positions=(count, 4))["image"]} for count in (64, 256))
    with pytest.raises(ValueError, match="sound/positions has 64 positions in .* give adapt.grid, such as"):
        plan(Adapt(), there, here)
    (step,) = plan(Adapt(grid=((64,), (256,))), there, here)
    assert step.fate == "resized"
    with pytest.raises(ValueError, match="adapt.grid=.* must be two grids of as many axes"):
        Adapt(grid=((64,), (16, 16)))


def test_positions_of_texts_are_cut_kept_or_stretched():
    x_SD = features(16)
    keep, stretch = Adapt(), Adapt(texts="stretch", filter="linear")
    np.testing.assert_array_equal(resized(keep, "text/positions", x_SD, 9), x_SD[:9])
    longer = resized(keep, "text/positions", x_SD, 25)
    np.testing.assert_array_equal(longer[:16], x_SD)
    assert not np.any(longer[16:])
    expected = resize_grid(x_SD, (16,), (25,), filter="linear")
    np.testing.assert_array_equal(resized(stretch, "text/positions", x_SD, 25), expected)
