"""What is learned beside the inputs of a tower that stays as it is: pixels, or tokens.

Each is an extra of `mmjax.towers.extended`. Letters: B batch, H W C image, S positions, P prompts, D width.
"""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn

from mmjax.towers import checking
from mmjax.towers.layers import Block, Encoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Border:
    """A frame of numbers added to the pixels of every picture, as the tower sees them (Bahng et al. 2022,
    arXiv:2203.17274, section 3.3), for any tower of pictures; zero at first."""

    width: int = 4  # pixels

    def __post_init__(self):
        checking.at_least(1, width=self.width)

    @property
    def paths(self) -> str:
        return "/border_(rows|columns)$"

    def __call__(self, call, args, kwargs, context):
        """Raises ValueError where the inputs are no pictures, or have no room for a frame."""
        if context.module.path or context.method_name != "__call__":
            return call(*args, **kwargs)
        image_BHWC, *rest = args
        shape = image_BHWC.shape[1:]
        if len(shape) != 3 or min(shape[:2]) <= 2 * self.width:
            raise ValueError(
                f"a border of width={self.width} needs pictures of more than {2 * self.width} pixels a side, "
                f"but the tower's inputs are {list(shape)}"
            )
        return call(
            image_BHWC + self._frame(context.module, *shape).astype(image_BHWC.dtype), *rest, **kwargs
        )

    def _frame(self, module, height, width, channels):
        """[H, W, C], zero but for the border: rows above and below, and columns between these."""
        n, start = self.width, nn.initializers.zeros
        rows = module.param("border_rows", start, (2, n, width, channels))
        columns = module.param("border_columns", start, (2, height - 2 * n, n, channels))
        between = jnp.zeros((height - 2 * n, width - 2 * n, channels))
        middle = jnp.concatenate([columns[0], between, columns[1]], axis=1)
        return jnp.concatenate([rows[0], middle, rows[1]])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokens:
    """Learned tokens that an encoder of patches sees beside these, and that leave after it: visual prompt
    tuning (Jia et al. 2022, arXiv:2203.12119, section 3.2)."""

    count: int = 8
    deep: bool = False  # each block has its own, in place of what the one before made of its

    def __post_init__(self):
        checking.at_least(1, count=self.count)

    @property
    def paths(self) -> str:
        return "/prompts$"

    def __call__(self, call, args, kwargs, context):
        if context.method_name == "__call__" and isinstance(context.module, Encoder):
            return self._around(call, *args, **kwargs, encoder=context.module)
        if self.deep and context.method_name == "__call__" and isinstance(context.module, Block):
            x_BSD, *rest = args
            args = (self._with(x_BSD[:, : -self.count], self._prompts(context.module, x_BSD)), *rest)
        return call(*args, **kwargs)

    def _around(self, call, x_BSD, *args, encoder, lengths_B=None, angles_BSP=None, **kwargs):
        """Prompts come last: there no index of what the tower reads changes."""
        if encoder.causal or lengths_B is not None:
            raise ValueError(f"{self} are for pictures, not for texts; give a text tower other extras")
        # Blocks that have their own need the room alone.
        prompts_PD = jnp.zeros((self.count, x_BSD.shape[-1])) if self.deep else self._prompts(encoder, x_BSD)
        if angles_BSP is not None:
            # Angle 0: prompts have no place.
            angles_BSP = jnp.pad(angles_BSP, ((0, 0), (0, self.count), (0, 0)))
        return call(self._with(x_BSD, prompts_PD), *args, angles_BSP=angles_BSP, **kwargs)[:, : -self.count]

    def _prompts(self, module, x_BSD):
        return module.param("prompts", nn.initializers.normal(0.02), (self.count, x_BSD.shape[-1]))

    @staticmethod
    def _with(x_BSD, prompts_PD):
        prompts_BPD = jnp.broadcast_to(prompts_PD.astype(x_BSD.dtype), (len(x_BSD), *prompts_PD.shape))
        return jnp.concatenate([x_BSD, prompts_BPD], axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context:
    """Learned vectors in place of some pieces of every text: prompt learning (Zhou et al. 2022,
    arXiv:2109.01134, section 3.2.1). The rows of ids have any piece there, as many as are learned."""

    length: int = 4
    first: int = 0  # position of the first one: 1 behind a mark that begins texts

    def __post_init__(self):
        checking.at_least(1, length=self.length)
        checking.at_least(0, first=self.first)

    @property
    def paths(self) -> str:
        return "/context$"

    def __call__(self, call, args, kwargs, context):
        if context.module.path or context.method_name != "__call__":
            return call(*args, **kwargs)
        # Made here, since `nn.Embed` is not compact: a tower has as wide pieces as it is itself.
        shape = (self.length, context.module.width)
        context_PD = context.module.param("context", nn.initializers.normal(0.02), shape)

        def put_in(call, args, kwargs, inner):
            x = call(*args, **kwargs)
            if inner.module.path != ("pieces",) or inner.method_name != "__call__":
                return x
            return x.at[:, self.first : self.first + self.length].set(context_PD.astype(x.dtype))

        with nn.intercept_methods(put_in):
            return call(*args, **kwargs)
