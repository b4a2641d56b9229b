"""Random keys for a part of a batch, under which every row draws what it draws in the whole batch.

JAX's default generator hashes the key with the place of each number in the array that is drawn. A key of this
file does the same, but counts places as in the array of the whole batch: dropout, dropped patches and colours
do not depend on the number of parts that a batch is worked off in, and no tower has to know of parts.

The axis of the batch is the first one of as many entries as the part has rows; an array without one is drawn
for all rows together. Where a key is split into as many keys as there are rows, these may be for examples or
for something else, layers say. So a key holds two pairs of words, equal up to such a split: arrays without an
axis of rows come from the pair that tells rows of different parts apart, all others from the other one.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.extend import random as extend

_WORDS = 6  # two for axes of rows, two for what has none, the part's first row, and the distance to the next


def of_part(key, part, *, parts: int, rows: int):
    """`key` for rows part, part + parts, part + 2 parts ... of a batch of `parts` x `rows`.

    Raises:
        ValueError: the generator is not JAX's default, Threefry with partitionable counters.
    """
    if str(jax.random.key_impl(key)) != "threefry2x32" or not jax.config.jax_threefry_partitionable:
        raise ValueError(
            "drawing for a part of the batch needs JAX's default random numbers; "
            "unset jax_default_prng_impl and jax_threefry_partitionable"
        )
    words, where = jax.random.key_data(key), jnp.array([part, parts], jnp.uint32)
    return jax.random.wrap_key_data(jnp.concatenate([words, words, where]), impl=_generator(rows))


@functools.cache
def _generator(rows: int):
    """Cached, since key types are equal only where their functions are."""
    return extend.define_prng_impl(
        key_shape=(_WORDS,),
        seed=_seed,
        split=functools.partial(_split, rows),
        random_bits=functools.partial(_random_bits, rows),
        fold_in=_fold_in,
        name=f"threefry2x32 of {rows} rows",
        tag=f"fry{rows}",
    )


def _seed(seed):
    words = jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))
    return jnp.concatenate([words, words, jnp.array([0, 1], jnp.uint32)])


def _fold_in(words, data):
    def fold(pair):
        key = jax.random.wrap_key_data(pair, impl="threefry2x32")
        return jax.random.key_data(jax.random.fold_in(key, data))

    return jnp.concatenate([fold(words[:2]), fold(words[2:4]), words[4:]])


def _split(rows, words, shape):
    shared = extend.threefry2x32_p.bind(words[0], words[1], *_places(shape, 0, 0, 1))
    own = extend.threefry2x32_p.bind(words[2], words[3], *_places(shape, rows, words[4], words[5]))
    return jnp.stack([*shared, *own, *(jnp.broadcast_to(word, shape) for word in words[4:])], axis=-1)


def _random_bits(rows, words, width, shape):
    pair = words[:2] if rows in shape else words[2:4]
    high, low = extend.threefry2x32_p.bind(*pair, *_places(shape, rows, words[4], words[5]))
    if width == 64:
        return high.astype(jnp.uint64) << 32 | low.astype(jnp.uint64)
    return (high ^ low).astype(f"uint{width}")


def _places(shape, rows, first, step):
    """Where each entry stands in the array of the whole batch: upper and lower 32 bits, arrays of `shape`.

    Row i of the part is row first + step x i of a batch of step x rows. What has no such axis is whole.
    """
    axis = shape.index(rows) if rows in shape else 0
    before, inner = math.prod(shape[:axis]), math.prod(shape[axis + (rows in shape) :])
    outer = jnp.zeros((1, 1, 1), jnp.uint32)
    if rows in shape:
        row = first + step * jnp.arange(rows, dtype=jnp.uint32)
        block = step * jnp.uint32(rows) * jnp.arange(before, dtype=jnp.uint32)
        outer = (block[:, None] + row)[..., None]
    high, low = _wide_product(outer, inner)
    total = low + jnp.arange(inner, dtype=jnp.uint32)
    carry = (total < low).astype(jnp.uint32)
    return (high + carry).reshape(shape), total.reshape(shape)


def _wide_product(x, factor: int):
    """The upper and lower 32 bits of x times `factor`, both below 2**32, by halves of 16 bits."""
    mask, upper, lower = jnp.uint32(0xFFFF), jnp.uint32(factor >> 16), jnp.uint32(factor & 0xFFFF)
    middle = (x >> 16) * lower + ((x & mask) * lower >> 16)
    other = (x & mask) * upper + (middle & mask)
    return (x >> 16) * upper + (middle >> 16) + (other >> 16), x * jnp.uint32(factor)
