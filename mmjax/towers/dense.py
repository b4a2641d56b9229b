"""The dense layer, written so that XLA has fast code for its products on a CPU as well.

Letters: I axes of the input that are contracted, O axes that come in their place.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn


class Dense(nn.Module):
    """x @ kernel + bias: Flax's `Dense` and `DenseGeneral` in one, with their parameters."""

    shape: int | tuple[int, ...]  # of what comes in place of the contracted axes
    axes: int = 1  # how many of the input's last axes are contracted
    use_bias: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        outputs = (self.shape,) if isinstance(self.shape, int) else self.shape
        fan_in, fan_out = range(self.axes), range(self.axes, self.axes + len(outputs))
        initializer = nn.initializers.lecun_normal(tuple(fan_in), tuple(fan_out))
        kernel_IO = self.param("kernel", initializer, x.shape[-self.axes :] + outputs)
        y = product(x.astype(self.dtype), kernel_IO, self.axes)
        if not self.use_bias:
            return y.astype(self.dtype)
        bias_O = self.param("bias", nn.initializers.zeros, outputs)
        return (y + bias_O.astype(y.dtype)).astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x, kernel_IO, axes):
    """The last `axes` axes of `x` contracted with the first of the kernel; a bfloat16 `x` may give float32.

    The gradient is written out: autodiff's product for that of the kernel takes thirty times as long in
    bfloat16 on a CPU where `x` has more than one outer axis (JAX 0.12).
    """
    last = range(x.ndim - axes, x.ndim)
    return _contract(x, kernel_IO.astype(x.dtype), last, range(axes))


def _product_forward(x, kernel_IO, axes):
    return product(x, kernel_IO, axes), (x, kernel_IO)


def _product_backward(axes, residuals, gradient):
    x, kernel_IO = residuals
    gradient = gradient.astype(x.dtype)
    outer = range(x.ndim - axes)
    x_gradient = _contract(
        gradient, kernel_IO.astype(x.dtype), range(len(outer), gradient.ndim), range(axes, kernel_IO.ndim)
    )
    return x_gradient.astype(x.dtype), _contract(x, gradient, outer, outer).astype(kernel_IO.dtype)


product.defvjp(_product_forward, _product_backward)


def _contract(x, y, x_axes, y_axes):
    # A CPU with JAX 0.10 takes twice as long where it rounds the sums to bfloat16 itself.
    wide = jnp.float32 if jax.default_backend() == "cpu" and x.dtype == jnp.bfloat16 else None
    return jax.lax.dot_general(x, y, ((tuple(x_axes), tuple(y_axes)), ((), ())), preferred_element_type=wide)
