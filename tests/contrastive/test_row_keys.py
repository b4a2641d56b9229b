"""Keys for parts of a batch: rows draw what they draw in the whole batch, however it is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.extend.random import threefry_2x32

from mmjax.contrastive import row_keys

ROWS, PARTS = 6, 4


def by_parts(draw, axis=0, parts=PARTS, rows=ROWS):
    """What all parts draw, put together in the order of the batch along `axis`."""

    def of_part(part):
        return draw(row_keys.of_part(jax.random.key(0), part, parts=parts, rows=rows))

    drawn = jax.jit(lambda: jax.lax.map(of_part, jnp.arange(parts)))()
    together = np.moveaxis(np.asarray(drawn), 0, axis + 1)
    return together.reshape(*together.shape[:axis], parts * rows, *together.shape[axis + 2 :])


@pytest.mark.parametrize(
    "before, after, width",
    [((), (), 32), ((), (3, 1, 5), 32), ((4,), (1, 1), 32), ((2, 3), (2,), 8), ((), (3,), 16)],
    ids=str,
)
def test_rows_draw_what_they_draw_in_the_whole_batch(before, after, width):
    def draw(key, rows):
        return jax.random.bits(key, (*before, rows, *after), f"uint{width}")

    whole = jax.jit(draw, static_argnums=1)(jax.random.key(0), PARTS * ROWS)
    np.testing.assert_array_equal(by_parts(lambda key: draw(key, ROWS), axis=len(before)), whole)
    assert len(np.unique(whole)) > min(whole.size, 2**width) / 2


def test_doubles_are_drawn_alike_too():
    with jax.enable_x64():
        whole = jax.random.uniform(jax.random.key(0), (PARTS * ROWS, 3), jnp.float64)
        found = by_parts(lambda key: jax.random.uniform(key, (ROWS, 3), jnp.float64))
    np.testing.assert_array_equal(found, whole)


@pytest.mark.parametrize("shape", [(), (5,), (1, 5)], ids=str)
def test_what_has_no_axis_of_rows_is_drawn_for_all(shape):
    expected = jax.random.uniform(jax.random.key(0), shape)
    drawn = by_parts(lambda key: jnp.broadcast_to(jax.random.uniform(key, shape), (ROWS, *shape)))
    np.testing.assert_array_equal(drawn, np.broadcast_to(expected, (PARTS * ROWS, *shape)))


@pytest.mark.parametrize("layers", [2, ROWS])
def test_keys_of_layers_draw_alike_even_where_there_are_as_many_as_rows(layers):
    def draw(key, rows):
        keys = jax.random.split(jax.random.fold_in(key, 7), layers)
        return jax.lax.map(lambda key: jax.random.uniform(key, (rows, 3)), keys)

    whole = jax.jit(draw, static_argnums=1)(jax.random.key(0), PARTS * ROWS)
    np.testing.assert_array_equal(by_parts(lambda key: draw(key, ROWS), axis=1), whole)


def test_keys_of_examples_draw_alike():
    def draw(key, rows):
        def one(key):
            return jax.random.uniform(jax.random.fold_in(jax.random.split(key, 3)[1], 7), (3,))

        return jax.vmap(one)(jax.random.split(key, rows))

    whole = jax.jit(draw, static_argnums=1)(jax.random.key(0), PARTS * ROWS)
    np.testing.assert_array_equal(by_parts(lambda key: draw(key, ROWS)), whole)


def test_places_beyond_32_bits_are_counted():
    rows, parts, inner = 2, 2**21, 2**12 + 1
    key = jax.random.key(3)

    @jax.jit
    def bits(key):
        return jax.random.bits(row_keys.of_part(key, parts - 2, parts=parts, rows=rows), (rows, inner))

    places = np.array([parts - 2, 2 * parts - 2])[:, None] * inner + np.arange(inner)
    assert places.min() > 2**32
    counts = jnp.array([places >> 32, places & 0xFFFFFFFF], jnp.uint32)
    high, low = threefry_2x32(jax.random.key_data(key), counts.ravel()).reshape(2, rows, inner)
    np.testing.assert_array_equal(bits(key), high ^ low)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.Dropout(0.5, deterministic=False)(x), None


def test_scanned_and_rematerialised_layers_of_flax_take_such_keys():
    scanned = nn.scan(nn.remat(Layer), split_rngs={"dropout": True}, length=ROWS)()

    def gradient(key, rows):
        def loss(x):
            return jnp.sum(scanned.apply({}, x, None, rngs={"dropout": key})[0] ** 2)

        return jax.grad(loss)(jnp.ones((rows, 16)))

    whole = jax.jit(gradient, static_argnums=1)(jax.random.key(0), PARTS * ROWS)
    np.testing.assert_array_equal(by_parts(lambda key: gradient(key, ROWS)), whole)
    assert whole.any() and not whole.all()


@pytest.mark.parametrize("option", ["jax_threefry_partitionable", "rbg"])
def test_other_random_numbers_are_refused(option):
    key = jax.random.key(0, impl="rbg" if option == "rbg" else None)
    with jax.threefry_partitionable(option == "rbg"):
        with pytest.raises(ValueError, match="needs JAX's default random numbers"):
            row_keys.of_part(key, 0, parts=2, rows=3)
