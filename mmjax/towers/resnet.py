"""CLIP's modified ResNet (Radford et al. 2021, arXiv:2103.00020, section 2.4): a stem of three convolutions,
strides that average before they drop (Zhang 2019, arXiv:1904.11486), and attention in place of the last mean.

Letters: B batch, H W feature map, C channels, S cells of the last map and their mean, E embedding.
"""

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn

from mmjax.sharding import constrain
from mmjax.towers import Dtype, Encoded, checking
from mmjax.towers.batch_norm import BatchNorm
from mmjax.towers.layers import Attention

_GROWTH = 4  # channels that leave a bottleneck over those inside


class ResNet(nn.Module):
    """Stem -> stages of bottlenecks (He et al. 2016, arXiv:1512.03385) -> the mean cell attends to all.

    The stem shrinks a picture by 4, and each stage after the first by 2. Cells have learned places, so the
    picture's size is part of the weights.
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)  # bottlenecks of each stage
    width: int = 64  # channels of the stem, and inside the first stage; each stage doubles them
    embed: int = 1024
    heads: int | None = None  # of the attention at the end; None: one for 64 channels
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, image_BHWC, *, train: bool = False) -> Encoded:
        """`tokens_BSD` are the cells of the last feature map.

        Raises:
            ValueError: the picture's sides are no multiples of all strides together, or a field is out of
                range.
        """
        checking.at_least(1, stages=len(self.depths), embed=self.embed, heads=self.heads)
        checking.at_least(1, **{f"depths.{i}": depth for i, depth in enumerate(self.depths)})
        # The stem begins with half of it.
        checking.at_least(2, width=self.width)
        total = 2 ** (len(self.depths) + 1)
        if image_BHWC.shape[1] % total or image_BHWC.shape[2] % total:
            raise ValueError(
                f"an image of {image_BHWC.shape[1]}x{image_BHWC.shape[2]} pixels does not divide by the "
                f"tower's total stride {total}; use sides that are multiples of {total}"
            )
        x_BHWC = self._stem(image_BHWC.astype(self.dtype), train)
        for stage, depth in enumerate(self.depths):
            for i in range(depth):
                block = Bottleneck(
                    width=self.width * 2**stage,
                    stride=2 if stage and not i else 1,
                    dtype=self.dtype,
                    name=f"stage_{stage}_{i}",
                )
                x_BHWC = block(constrain(x_BHWC, "batch", None, None, None), train)
        cells_BSD = einops.rearrange(x_BHWC, "b h w c -> b (h w) c")
        return Encoded(self.pooled(cells_BSD), cells_BSD)

    def _stem(self, x_BHWC, train):
        for i, (channels, stride) in enumerate(((self.width // 2, 2), (self.width // 2, 1), (self.width, 1))):
            x_BHWC = convolve(x_BHWC, channels, 3, f"stem_{i}", stride)
            x_BHWC = jax.nn.relu(BatchNorm(name=f"norm_{i}")(x_BHWC, train=train))
        return shrink(x_BHWC)

    def pooled(self, cells_BSD):
        """From the cells of the last feature map to [B, E]."""
        x_BSD = jnp.concatenate([cells_BSD.mean(axis=1, keepdims=True), cells_BSD], axis=1)
        channels = x_BSD.shape[-1]
        start = nn.initializers.normal(channels**-0.5)
        x_BSD = x_BSD + self.param("positions", start, x_BSD.shape[1:]).astype(x_BSD.dtype)
        heads = channels // 64 if self.heads is None else self.heads
        attend = Attention(heads=heads, out=self.embed, dtype=self.dtype, name="attention")
        return attend(x_BSD[:, :1], context_BTD=x_BSD)[:, 0]


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions beside a shortcut, each followed by batch norm."""

    width: int  # channels inside
    stride: int
    dtype: str

    @nn.compact
    def __call__(self, x_BHWC, train: bool):
        y_BHWC = convolve(x_BHWC, self.width, 1, "conv_0")
        y_BHWC = jax.nn.relu(BatchNorm(name="norm_0")(y_BHWC, train=train))
        y_BHWC = convolve(y_BHWC, self.width, 3, "conv_1")
        y_BHWC = jax.nn.relu(BatchNorm(name="norm_1")(y_BHWC, train=train))
        if self.stride > 1:
            x_BHWC, y_BHWC = shrink(x_BHWC), shrink(y_BHWC)
        y_BHWC = convolve(y_BHWC, _GROWTH * self.width, 1, "conv_2")
        # At first the shortcut alone (Goyal et al. 2017, arXiv:1706.02677, section 5.1).
        y_BHWC = BatchNorm(gain=0.0, name="norm_2")(y_BHWC, train=train)
        if x_BHWC.shape[-1] != y_BHWC.shape[-1] or self.stride > 1:
            x_BHWC = convolve(x_BHWC, _GROWTH * self.width, 1, "shortcut")
            x_BHWC = BatchNorm(name="norm_shortcut")(x_BHWC, train=train)
        return jax.nn.relu(x_BHWC + y_BHWC)


def convolve(x_BHWC, channels: int, window: int, name: str, stride: int = 1):
    """A convolution without bias, its border zeros, as part `name` of the module that calls this."""
    border = window // 2
    conv = nn.Conv(
        channels,
        (window, window),
        (stride, stride),
        padding=((border, border), (border, border)),
        use_bias=False,
        dtype=x_BHWC.dtype,
        name=name,
    )
    return conv(x_BHWC)


def shrink(x_BHWC):
    """Means of 2 x 2 cells."""
    return einops.reduce(x_BHWC, "b (h i) (w j) c -> b h w c", "mean", i=2, j=2)
