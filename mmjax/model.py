"""A model: towers, objective, tokenizer, preprocessing and parameters, as functions of pictures and strings.

The same object embeds for the evaluators of a running training and for whoever loads a finished run.
Letters: B batch, H W C image, S positions, E embedding, N pictures, M texts.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from mmjax import sharding
from mmjax.data import colour
from mmjax.data.decode import pixels
from mmjax.data.geometry import Preprocess
from mmjax.data.tokenizers import Tokenizer, TokenizerConfig
from mmjax.evals import Embed
from mmjax.towers import Encoded
from mmjax.towers.maps import has_maps, relevance

_MAPPED = 64  # pictures of one pass for maps of relevance


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """A trained, or just initialised, model: all it computes is a pure function of its fields.

    `dataclasses.replace(model, params=...)` has other weights, and compiles nothing again.
    """

    objective: nn.Module
    preprocessing: Preprocess | None  # None without pictures
    tokenizer: Tokenizer | None  # None without texts
    params: Any  # by modality, and "objective"
    encoders: dict[str, Callable]  # what `encoders` made of the towers
    mesh: Mesh
    maps: Callable | None = None  # what `relevance_maps` made of the towers
    config: Any = None  # the config of the run that it comes from
    batch_size: int = 256  # at most, of one forward pass over the whole mesh

    def encode_image(self, images: Sequence[Any]) -> np.ndarray:
        """Unit-norm float32 [N, E] of paths, PIL images, or uint8 arrays [H, W], [H, W, 1 | 3 | 4].

        The sequence needs only `len` and slices; a process reads its own part alone.
        """
        return self._encode("image", images, self.preprocess)

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Unit-norm float32 [N, E] of strings."""
        if isinstance(texts, str):
            raise ValueError(
                f"encode_text takes a list of strings, got the string {texts!r}; write [{texts!r}]"
            )
        return self._encode("text", texts, self.tokenize)

    @property
    def embed(self) -> Embed:
        """A function for each modality: `encode_image`, `encode_text`, and for others one that takes arrays
        [N, ...], rows as the config's `data.fields` describes them. What evaluators are given, with `probs`,
        and where the image tower has maps `relevance` and `seen`.
        """
        own = {"image": self.encode_image, "text": self.encode_text}
        encode = {
            name: own.get(name, functools.partial(self._encode, name, prepare=np.asarray))
            for name in self.encoders
        }
        shown = {"relevance": self.relevance, "seen": self.preprocess} if self.maps else {}
        return encode | {"probs": self.probs} | shown

    def probs(self, z_image: np.ndarray, z_text: np.ndarray) -> np.ndarray:
        """Float32 [N, M]: softmax over the texts, or each pair apart, whichever the objective was."""
        variables = {"params": self.params["objective"]}
        return np.asarray(self.objective.apply(variables, z_image, z_text, method="probs"))

    def relevance(self, images: Sequence[Any], texts: Sequence[str]) -> np.ndarray:
        """Float32 [N, h, w], 0 or more: how much each place of picture i, as `preprocess` shows it, speaks
        for text i (`mmjax.towers.maps`)."""
        if len(images) != len(texts):
            raise ValueError(f"{len(images)} images and {len(texts)} texts; give each image one text")
        z_NE = self.encode_text(texts)

        def prepare(of: range):
            return self.preprocess(images[of.start : of.stop]), z_NE[of.start : of.stop]

        function = functools.partial(self.maps, self.params["image"])
        # Every layer's activations are kept for the backward pass.
        batch_size = min(self.batch_size, _MAPPED)
        return in_batches(function, range(len(texts)), prepare, mesh=self.mesh, batch_size=batch_size)

    def tokenize(self, texts: Sequence[str]) -> np.ndarray:
        """Int32 [N, S] token ids, padded."""
        return self.tokenizer(texts)

    def preprocess(self, images: Sequence[Any]) -> np.ndarray:
        """Uint8 [N, size, size, 3]: what the image tower sees, before mean and standard deviation."""
        size = self.preprocessing.size
        return np.array([self.preprocessing.host(pixels(image)) for image in images], np.uint8).reshape(
            -1, size, size, 3
        )

    def _encode(self, modality, items, prepare) -> np.ndarray:
        function = functools.partial(self.encoders[modality], self.params[modality])
        return in_batches(function, items, prepare, mesh=self.mesh, batch_size=self.batch_size)


def in_batches(
    function: Callable,
    items: Sequence[Any],
    prepare: Callable[[Sequence[Any]], Any],
    *,
    mesh: Mesh,
    batch_size: int,
) -> np.ndarray:
    """`function` of all items, in batches of one size, the last one padded: each process its contiguous rows.

    Args:
        function: of a batch over the mesh; its result is replicated, a row an item.
        prepare: makes arrays of a slice of the items: one, or a tree of them, a row an item.
        batch_size: at most.
    """
    batch_size = _batch_size(len(items), batch_size, sharding.batch_devices(mesh))
    per_process = batch_size // jax.process_count()
    mine = jax.process_index() * per_process
    rows = []
    for begin in range(0, max(len(items), 1), batch_size):
        end = min(begin + mine + per_process, begin + batch_size, len(items))
        real = prepare(items[begin + mine : end])
        padded = jax.tree.map(lambda x: _padded(x, per_process), real)
        with jax.set_mesh(mesh):
            found = np.asarray(function(sharding.put_batch(mesh, padded)))
        rows.append(found[: len(items) - begin])
    return np.concatenate(rows)


def _padded(x, rows: int) -> np.ndarray:
    return np.pad(x, ((0, rows - len(x)),) + ((0, 0),) * (x.ndim - 1))


def _batch_size(items: int, most: int, devices: int) -> int:
    """A power of two that holds `items`, at most `most`, rounded up to divide over the devices."""
    wanted = min(most, 2 ** (max(items, 1) - 1).bit_length())
    return -(-wanted // devices) * devices


def encoders(
    towers: dict[str, nn.Module], preprocessing: Preprocess | None, mesh: Mesh
) -> dict[str, Callable]:
    """Jitted `(params of the tower, batch) -> z_BE` by modality; every process gets all rows."""

    def encode(modality, params, batch):
        if modality == "image":
            batch = colour.normalise(batch, preprocessing.mean, preprocessing.std)
        return unit(towers[modality].apply({"params": params}, batch).embedding_BE)

    out = sharding.replicated(mesh)
    return {modality: jax.jit(functools.partial(encode, modality), out_shardings=out) for modality in towers}


def relevance_maps(
    towers: dict[str, nn.Module], preprocessing: Preprocess | None, mesh: Mesh
) -> Callable | None:
    """Jitted `(params of the image tower, (images, text embeddings)) -> map_BHW`; None where there are not
    both, or it has no maps."""
    if not {"image", "text"} <= set(towers) or not has_maps(towers["image"]):
        return None

    def maps(params, batch):
        image_BHWC, text_BE = batch
        seen = colour.normalise(image_BHWC, preprocessing.mean, preprocessing.std)
        return relevance(towers["image"], params, seen, text_BE)

    return jax.jit(maps, out_shardings=sharding.replicated(mesh))


def check_embeddings(towers: dict[str, Encoded]):
    """Raises ValueError where towers do not give one embedding an example, all of one width."""
    for modality, encoded in towers.items():
        if encoded.embedding_BE.ndim != 2:
            raise ValueError(
                f"the {modality} tower gives {list(encoded.embedding_BE.shape)}, not one embedding an "
                "example; use a tower that pools"
            )
    widths = {modality: encoded.embedding_BE.shape[-1] for modality, encoded in towers.items()}
    if len(set(widths.values())) > 1:
        said = ", ".join(f"{modality} has embed={width}" for modality, width in widths.items())
        raise ValueError(f"the towers' embeddings differ: {said}")


def check_vocab(params, vocab: int):
    """Raises ValueError where a table `pieces` of a text tower's parameters, or their shapes, has no row for
    some of `vocab` ids; what it gives for these is not a number."""
    for path, table in jax.tree_util.tree_leaves_with_path(params):
        if sharding.path_name(path).endswith("pieces/embedding") and table.shape[0] < vocab:
            raise ValueError(
                f"the text tower has {table.shape[0]} pieces, tokenizer.vocab={vocab}; give it as many"
            )


def check_marks(tower: nn.Module, tokenizer: TokenizerConfig):
    """Raises ValueError where a text tower looks for other marks, padding and EOS, than the rows have."""
    looked_for = {
        "pad": getattr(tower, "pad", None),
        "eos": tower.eos if getattr(tower, "pool", None) == "eos" else None,
    }
    for mark, id_ in looked_for.items():
        given = getattr(tokenizer, f"{mark}_id")
        if id_ not in (None, given):
            raise ValueError(
                f"the text tower has {mark}={id_}, but tokenizer.{mark}_id={given}; give both the same id"
            )
    if looked_for["eos"] is not None and tokenizer.eos == "never":
        raise ValueError(
            "the text tower pools at the EOS, but tokenizer.eos='never' writes none; use 'always' or "
            "'if_room', or another pool"
        )


def unit(z_BE):
    """Float32 rows of norm 1."""
    z_BE = z_BE.astype(jnp.float32)
    # The floor keeps the gradient of a zero row finite.
    return z_BE * jax.lax.rsqrt(jnp.maximum(jnp.sum(z_BE**2, axis=-1, keepdims=True), 1e-24))
