"""Products in a grid step of attention on a TPU."""

import jax.numpy as jnp
from jax import lax

ROWS = 16  # of a tile of bfloat16


def product(x, y, axis=0):
    """x times y, of which `axis` is summed over. The MXU rounds float32 unless asked not to."""
    if x.shape[1] == 1:  # a single position; the compiler makes no product of it
        return x.astype(jnp.float32) * y.astype(jnp.float32)
    return lax.dot_general(
        x,
        y,
        (((1,), (axis,)), ((), ())),
        precision=lax.Precision.HIGHEST if x.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )
