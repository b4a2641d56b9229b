"""The dense layer, written so that XLA has fast code for its products on a CPU as well.

Letters: I the input's last axis, O the one in its place.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn


class Dense(nn.Module):
    """x @ kernel + bias, with the parameters of Flax's `Dense` and `DenseGeneral`.

    A kernel of more than two axes, heads and their width say, is multiplied as a matrix: activations keep
    such axes side by side in their last one, so that nothing moves between a projection and a kernel.
    """

    shape: int | tuple[int, ...]  # of what comes in place of the input's last axis
    inputs: tuple[int, ...] | None = None  # what the input's last axis is made of; None: it is one
    use_bias: bool = True
    dtype: str = "float32"
    multiply: Callable | None = None  # (x, kernel_IO) -> y; None: `product`

    @nn.compact
    def __call__(self, x):
        outputs = (self.shape,) if isinstance(self.shape, int) else self.shape
        inputs = x.shape[-1:] if self.inputs is None else self.inputs
        fan_in, fan_out = range(len(inputs)), range(len(inputs), len(inputs + outputs))
        initializer = nn.initializers.lecun_normal(tuple(fan_in), tuple(fan_out))
        kernel = self.param("kernel", initializer, inputs + outputs)
        multiply = self.multiply or product
        y = multiply(x.astype(self.dtype), kernel.reshape(math.prod(inputs), math.prod(outputs)))
        if not self.use_bias:
            return y.astype(self.dtype)
        bias_O = self.param("bias", nn.initializers.zeros, outputs).reshape(-1)
        return (y + bias_O.astype(y.dtype)).astype(self.dtype)


@jax.custom_vjp
def product(x, kernel_IO):
    """x @ kernel in the dtype of `x`; of bfloat16 it may give float32.

    The gradient is written out: autodiff's product for that of the kernel takes thirty times as long in
    bfloat16 on a CPU where `x` has more than one outer axis (JAX 0.12).
    """
    return _contract(x, kernel_IO.astype(x.dtype), (x.ndim - 1,), (0,))


def _product_forward(x, kernel_IO):
    return product(x, kernel_IO), (x, kernel_IO)


def _product_backward(residuals, gradient):
    x, kernel_IO = residuals
    gradient = gradient.astype(x.dtype)
    outer = tuple(range(x.ndim - 1))
    x_gradient = _contract(gradient, kernel_IO.astype(x.dtype), (x.ndim - 1,), (1,))
    return x_gradient.astype(x.dtype), _contract(x, gradient, outer, outer).astype(kernel_IO.dtype)


product.defvjp(_product_forward, _product_backward)


def _contract(x, y, x_axes, y_axes):
    # A CPU with JAX 0.10 takes twice as long where it rounds the sums to bfloat16 itself.
    wide = jnp.float32 if jax.default_backend() == "cpu" and x.dtype == jnp.bfloat16 else None
    return jax.lax.dot_general(x, y, ((x_axes, y_axes), ((), ())), preferred_element_type=wide)
