"""A small convolutional image tower: what learns within minutes on a CPU, where a plain ViT does not.

Letters: B batch, H W image, C channels, S cells of the feature map, D width, E embedding.
"""

import einops
import jax.numpy as jnp
from flax import linen as nn

from mmjax.sharding import constrain
from mmjax.towers import Dtype, Encoded, checking
from mmjax.towers.dense import Dense


class ConvNet(nn.Module):
    """Strided stem -> stages of residual blocks (pre-activation, He et al. 2016, arXiv:1603.05027, with layer
    norm for batch norm) -> all cells of the last feature map through an MLP.

    Each stage after the first halves the resolution. The head reads every cell in its place, so the picture's
    size is part of the weights.
    """

    widths: tuple[int, ...] = (32, 64, 128)  # channels of each stage
    depth: int = 1  # residual blocks a stage
    stem: int = 8  # pixels a side of the stem's window, a multiple of its stride
    stride: int = 4
    hidden: int = 384
    embed: int = 128
    dropout: float = 0.0
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, image_BHWC, *, train: bool = False) -> Encoded:
        self._check()
        smallest = self.stride * 2 ** (len(self.widths) - 1)
        if image_BHWC.shape[1] % smallest or image_BHWC.shape[2] % smallest:
            raise ValueError(
                f"an image of {image_BHWC.shape[1]}x{image_BHWC.shape[2]} pixels does not divide by the "
                f"tower's total stride {smallest}; use sides that are multiples of {smallest}"
            )
        x_BHWC = self._stem(image_BHWC.astype(self.dtype))
        for stage, width in enumerate(self.widths):
            if stage:
                x_BHWC = self._conv(width, 3, 2, f"shrink_{stage}")(x_BHWC)
            for i in range(self.depth):
                x_BHWC = self._residual(x_BHWC, f"stage_{stage}_{i}")
            x_BHWC = constrain(x_BHWC, "batch", None, None, None)
        x_BHWC = nn.gelu(nn.LayerNorm(dtype=self.dtype, name="norm")(x_BHWC))
        tokens_BSD = einops.rearrange(x_BHWC, "b h w c -> b (h w) c")
        return Encoded(self.pooled(tokens_BSD, train), tokens_BSD)

    def pooled(self, cells_BSD, train: bool = False):
        """From the cells of the last feature map to [B, E]."""
        x_BD = einops.rearrange(cells_BSD, "b s d -> b (s d)")
        x_BD = nn.Dropout(self.dropout, deterministic=not train)(x_BD)
        x_BD = Dense(self.hidden, dtype=self.dtype, name="hidden")(x_BD)
        x_BD = nn.gelu(nn.LayerNorm(dtype=self.dtype, name="norm_hidden")(x_BD))
        return Dense(self.embed, dtype=self.dtype, name="head")(x_BD)

    def _stem(self, image_BHWC):
        """A convolution with windows of `stem` pixels, the pixels of each cell of `stride` pixels a side made
        its channels first: on three channels XLA takes thrice as long on a CPU."""
        around, window = self.stem - self.stride, self.stem // self.stride
        sides = (around // 2, around - around // 2)
        image_BHWC = jnp.pad(image_BHWC, ((0, 0), sides, sides, (0, 0)))
        x_BHWC = einops.rearrange(
            image_BHWC, "b (h y) (w x) c -> b h w (y x c)", y=self.stride, x=self.stride
        )
        convolve = nn.Conv(self.widths[0], (window, window), padding="VALID", dtype=self.dtype, name="stem")
        return convolve(x_BHWC)

    def _check(self):
        checking.at_least(
            1,
            stages=len(self.widths),
            stride=self.stride,
            stem=self.stem,
            hidden=self.hidden,
            embed=self.embed,
        )
        for i, width in enumerate(self.widths):
            checking.at_least(1, **{f"widths.{i}": width})
        checking.at_least(0, depth=self.depth)
        checking.share(dropout=self.dropout)
        if self.stem % self.stride:
            raise ValueError(f"stem={self.stem} must be a multiple of stride={self.stride}")

    def _conv(self, width, window, stride, name):
        return nn.Conv(width, (window, window), (stride, stride), "SAME", dtype=self.dtype, name=name)

    def _residual(self, x_BHWC, name):
        y_BHWC = x_BHWC
        for i in range(2):
            y_BHWC = nn.gelu(nn.LayerNorm(dtype=self.dtype, name=f"{name}_norm_{i}")(y_BHWC))
            y_BHWC = self._conv(x_BHWC.shape[-1], 3, 1, f"{name}_conv_{i}")(y_BHWC)
        return x_BHWC + y_BHWC
