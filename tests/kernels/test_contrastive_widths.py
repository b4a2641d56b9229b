"""Nested widths in one pass: the mean of the losses of each prefix alone, and its gradient."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contrasting import assert_close, on_eight_devices, unit_rows

from mmjax.kernels import contrastive
from mmjax.kernels.contrastive import Further
from mmjax.sharding import MeshShape, make_mesh, put_batch

B, E = 40, 12
WIDTHS = (3, 8)
IDS = np.random.default_rng(2).integers(0, 25, (B, 2)).astype(np.int32)
PRESENT = np.random.default_rng(3).random(B) < 0.7
MORE = Further(unit_rows(5, 16, E), np.random.default_rng(6).integers(0, 25, (16, 2)).astype(np.int32))
HARD = unit_rows(7, B * 3, E).reshape(B, 3, E)
LOSSES = {"infonce": contrastive.infonce, "sigmoid": functools.partial(contrastive.sigmoid, bias=1.0)}
OPTIONS = {
    "plain": {},
    "masked, some present": dict(ids_BK=IDS, duplicates="masked", present_B=PRESENT),
    "positives, smoothed, further": dict(
        ids_BK=IDS, duplicates="positives", smoothing=0.2, more_x=MORE, more_y=MORE, hard_y_BKE=HARD
    ),
}


def one_by_one(loss, x, y, scale, **options):
    """The mean of the losses of prefixes that are cut and made unit-norm beforehand."""

    def cut(z, width):
        return z[..., :width] / jnp.linalg.norm(z[..., :width], axis=-1, keepdims=True)

    def of_width(width):
        changed = {name: cut(z, width) for name, z in options.items() if name == "hard_y_BKE"}
        changed |= {
            name: more._replace(z=cut(more.z, width))
            for name, more in options.items()
            if name.startswith("more_")
        }
        return loss(cut(x, width), cut(y, width), scale, **(options | changed))

    return (sum(map(of_width, WIDTHS)) + loss(x, y, scale, **options)) / 3


QUICK = [
    ("infonce", "plain", "ring"),
    ("infonce", "masked, some present", "gather"),
    ("infonce", "positives, smoothed, further", "dense"),
    ("sigmoid", "positives, smoothed, further", "dense"),
    ("sigmoid", "masked, some present", "ring"),
]
ALL = list(itertools.product(LOSSES, OPTIONS, ["dense", "ring", "gather"]))


@pytest.mark.parametrize(
    ("name", "options", "implementation"),
    [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow) for case in ALL],
)
def test_nested_widths_are_the_mean_of_each_alone(name, options, implementation, many_small_tiles):
    loss, args = LOSSES[name], (unit_rows(0, B, E), unit_rows(1, B, E), 9.0)
    expected = jax.jit(
        jax.value_and_grad(functools.partial(one_by_one, loss, **OPTIONS[options]), argnums=(0, 1, 2))
    )(*args)
    together = functools.partial(loss, widths=WIDTHS, **OPTIONS[options])
    found = on_eight_devices(functools.partial(together, implementation=implementation), *args)
    assert_close(found, expected, rtol=3e-6)


def test_own_temperatures_and_nested_widths_go_together(many_small_tiles):
    scales = np.random.default_rng(4).uniform(3, 20, B).astype(np.float32)
    args = unit_rows(0, B, E), unit_rows(1, B, E), scales
    expected = jax.jit(
        jax.value_and_grad(functools.partial(one_by_one, contrastive.infonce), argnums=(0, 1, 2))
    )(*args)
    found = on_eight_devices(
        functools.partial(contrastive.infonce, widths=WIDTHS, implementation="ring"), *args
    )
    assert_close(found, expected, rtol=3e-6)


def test_columns_travel_once_for_all_widths():
    """Of the compiled ring: as many transfers as without widths, and no array longer than an embedding's."""

    def program(widths):
        loss = functools.partial(contrastive.infonce, implementation="ring", widths=widths)
        mesh = make_mesh(MeshShape(data=8))
        x, y = (put_batch(mesh, unit_rows(seed, 64, 32)) for seed in (0, 1))
        with jax.set_mesh(mesh):
            return jax.jit(loss).lower(x, y, 9.0).compile().as_text()

    def embeddings(text):
        return text.count("f32[4,32]{1,0} collective-permute(")

    assert embeddings(program((4, 16))) == embeddings(program(())) > 0


def test_a_width_that_is_no_part_is_refused():
    with pytest.raises(ValueError, match=r"widths=\(12,\) are no parts of embeddings of 12"):
        contrastive.infonce(unit_rows(0, B, E), unit_rows(1, B, E), 9.0, widths=(12,))
