"""Shapes of CLIP that benchmarks share. Plain Python: the interpreter that runs a peer reads it, too."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transformer:
    width: int
    depth: int
    heads: int

    def flops(self, positions: int) -> int:
        """Of the matrix products of one forward pass of one example, two for a multiply-add."""
        weights = 24 * positions * self.width**2  # query, key, value, out, and an MLP of 4 x width
        return self.depth * (weights + 4 * positions**2 * self.width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipSize:
    """A ViT with a class token and a causal text transformer."""

    batch: int
    pixels: int
    patch: int
    image: Transformer
    length: int  # tokens of a text
    vocab: int
    text: Transformer
    embed: int

    @property
    def step_flops(self) -> int:
        """Of one train step: backward is twice forward, but nobody asks for the pixels' gradient."""
        patches = (self.pixels // self.patch) ** 2
        stem = 2 * patches * 3 * self.patch**2 * self.image.width
        towers = self.image.flops(patches + 1) + self.text.flops(self.length)
        heads = 2 * self.embed * (self.image.width + self.text.width + self.batch)
        return self.batch * (3 * (towers + heads) + 2 * stem)


SIZES = {
    "tiny": ClipSize(
        batch=128,
        pixels=64,
        patch=16,
        image=Transformer(width=192, depth=6, heads=3),
        length=32,
        vocab=8_192,
        text=Transformer(width=192, depth=4, heads=3),
        embed=192,
    ),
    # Radford et al. 2021, arXiv:2103.00020, table 20.
    "B/32": ClipSize(
        batch=16,
        pixels=224,
        patch=32,
        image=Transformer(width=768, depth=12, heads=12),
        length=77,
        vocab=49_408,
        text=Transformer(width=512, depth=12, heads=8),
        embed=512,
    ),
}
