"""Models as functions of pictures and strings."""

import dataclasses
import functools

import debugrun
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from mmjax import sharding
from mmjax.data.tokenizers.utf8 import Bytes
from mmjax.model import Model, check_marks, encoders, unit
from mmjax.objectives.infonce import InfoNCE
from mmjax.objectives.sigmoid import Sigmoid
from mmjax.sharding import MeshShape
from mmjax.towers.conv import ConvNet
from mmjax.towers.layers import Encoder
from mmjax.towers.text import BagOfPieces, TextTransformer

SIZE = debugrun.config().preprocess.size
TOWERS = {
    "image": ConvNet(widths=(4,), depth=0, hidden=8, embed=16),
    "text": BagOfPieces(vocab=400, width=8, embed=16),
}
SIZES = (0, 1, 7, 256, 257, 300)


def weights(tower, example):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(tower.init, jax.random.key(0), example)["params"]
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


@functools.cache
def model(objective=None):
    cfg = debugrun.config()
    mesh = sharding.make_mesh(MeshShape())
    return Model(
        objective=InfoNCE() if objective is None else objective,
        preprocessing=cfg.preprocess,
        tokenizer=debugrun.tokenizer(),
        params={
            "image": weights(TOWERS["image"], jnp.zeros((1, SIZE, SIZE, 3))),
            "text": weights(TOWERS["text"], jnp.zeros((1, cfg.tokenizer.length), jnp.int32)),
            "objective": {"log_scale": jnp.log(4.0), "bias": jnp.float32(-1.5)},
        },
        encoders=encoders(TOWERS, cfg.preprocess, mesh),
        mesh=mesh,
    )


class Lazy:
    """Has a length and slices, and remembers what was read."""

    def __init__(self, items):
        self.items, self.reads = items, []

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        assert isinstance(index, slice)
        self.reads.append(range(len(self.items))[index])
        return self.items[index]


@functools.cache
def pictures():
    return np.random.default_rng(1).integers(0, 256, (max(SIZES), SIZE, SIZE, 3), dtype=np.uint8)


@functools.cache
def texts():
    return tuple(debugrun.config().data.train.caption(i) for i in range(max(SIZES)))


def alone(modality, inputs):
    """Embeddings by the tower itself, all rows at once."""
    z_NE = np.asarray(
        jax.jit(TOWERS[modality].apply)({"params": model().params[modality]}, inputs).embedding_BE
    )
    return z_NE / np.linalg.norm(z_NE, axis=1, keepdims=True)


@functools.cache
def expected_images():
    cfg = debugrun.config().preprocess
    return alone("image", (pictures() / np.float32(255) - np.float32(cfg.mean)) / np.float32(cfg.std))


@functools.cache
def expected_texts():
    return alone("text", debugrun.tokenizer()(texts()))


@pytest.mark.parametrize("n", SIZES)
def test_any_number_of_texts_is_embedded_in_order_and_each_read_once(n):
    items = Lazy(texts()[:n])
    z_NE = model().encode_text(items)
    assert z_NE.shape == (n, 16) and z_NE.dtype == np.float32
    np.testing.assert_allclose(z_NE, expected_texts()[:n], rtol=1e-4, atol=1e-5)
    assert [index for read in items.reads for index in read] == list(range(n))
    assert all(len(read) <= 256 for read in items.reads)


@pytest.mark.parametrize("n", [0, 7, 257])
def test_any_number_of_pictures_is_embedded_in_order_and_each_read_once(n):
    items = Lazy(list(pictures()[:n]))
    z_NE = model().encode_image(items)
    assert z_NE.shape == (n, 16) and z_NE.dtype == np.float32
    np.testing.assert_allclose(z_NE, expected_images()[:n], rtol=1e-4, atol=1e-5)
    assert [index for read in items.reads for index in read] == list(range(n))
    assert all(len(read) <= 256 for read in items.reads)


def test_embeddings_do_not_depend_on_the_mesh():
    # Six devices split the batch, so that 256 rows have to be rounded up.
    mesh = sharding.make_mesh(MeshShape(data=3, fsdp=2), devices=jax.devices()[:6])
    spread = dataclasses.replace(
        model(), mesh=mesh, encoders=encoders(TOWERS, debugrun.config().preprocess, mesh)
    )
    np.testing.assert_allclose(spread.encode_text(texts()), expected_texts(), rtol=1e-4, atol=1e-5)


def test_other_weights_give_other_embeddings_and_compile_nothing():
    model().encode_text(texts()[:7])
    params = jax.tree.map(lambda leaf: leaf[..., ::-1], model().params["text"])
    other = dataclasses.replace(model(), params=model().params | {"text": params})
    with jax.no_tracing():
        z_NE = other.encode_text(texts()[:7])
    assert not np.allclose(z_NE, expected_texts()[:7], atol=0.1)


def test_one_string_is_no_sequence_of_texts():
    with pytest.raises(ValueError, match=r"got the string 'a dog'; write \['a dog'\]"):
        model().encode_text("a dog")


def test_probabilities_are_those_of_the_objective():
    z_image, z_text = expected_images()[:3], expected_texts()[:5]
    logits = 4.0 * z_image.astype(np.float64) @ z_text.T
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model().probs(z_image, z_text), softmax, rtol=1e-4)
    sigmoid = 1 / (1 + np.exp(-(logits - 1.5)))
    np.testing.assert_allclose(model(Sigmoid()).probs(z_image, z_text), sigmoid, rtol=1e-4)


def test_preprocess_and_tokenize_are_what_the_towers_are_fed():
    wide = np.zeros((SIZE, 2 * SIZE, 3), np.uint8)
    wide[:, SIZE // 2 : -SIZE // 2] = 200  # its centre
    images = model().preprocess([wide, Image.fromarray(wide)])
    np.testing.assert_array_equal(images, np.full((2, SIZE, SIZE, 3), 200, np.uint8))
    assert model().preprocess([]).shape == (0, SIZE, SIZE, 3)
    np.testing.assert_array_equal(model().tokenize(texts()[:3]), debugrun.tokenizer()(texts()[:3]))


def text_tower(**fields):
    sizes = dict(vocab=300, length=8, width=8, embed=4)
    return TextTransformer(**sizes, encoder=Encoder(depth=1, heads=1, causal=True), **fields)


@pytest.mark.parametrize(
    "tower, tokenizer",
    [
        (text_tower(), Bytes()),
        (text_tower(eos=0), Bytes(pad_id=0, eos_id=0)),
        (text_tower(), Bytes(eos="if_room")),
        # What a tower does not look for may be anything.
        (text_tower(pool="last", eos=2), Bytes(eos="never")),
        (text_tower(pool="last", pad=None), Bytes(pad_id=2)),
        (BagOfPieces(vocab=300, width=8, embed=4), Bytes(eos_id=2)),
        (BagOfPieces(vocab=300, width=8, embed=4, pad=2), Bytes(pad_id=2, eos="never")),
        (nn.Dense(4), Bytes(pad_id=2)),
    ],
)
def test_a_tower_and_a_tokenizer_whose_marks_agree_pass(tower, tokenizer):
    check_marks(tower, tokenizer)


@pytest.mark.parametrize(
    "tower, tokenizer, message",
    [
        (text_tower(), Bytes(pad_id=2), "has pad=0, but tokenizer.pad_id=2; give both the same id"),
        (text_tower(pool="mean"), Bytes(pad_id=2), "has pad=0, but tokenizer.pad_id=2"),
        (BagOfPieces(vocab=300, width=8, embed=4), Bytes(pad_id=2), "has pad=0, but tokenizer.pad_id=2"),
        (text_tower(), Bytes(eos_id=2), "has eos=1, but tokenizer.eos_id=2; give both the same id"),
        (text_tower(), Bytes(eos="never"), "pools at the EOS, but tokenizer.eos='never' writes none; use "),
    ],
)
def test_a_tower_that_looks_for_other_marks_than_the_rows_have_is_refused(tower, tokenizer, message):
    with pytest.raises(ValueError, match="^the text tower ") as error:
        check_marks(tower, tokenizer)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_unit_rows_have_norm_one_and_a_zero_row_has_a_finite_gradient():
    z_BE = jnp.asarray([[3.0, 4.0], [1e-6, 0.0], [0.0, 0.0]], jnp.bfloat16)
    rows = unit(z_BE)
    assert rows.dtype == jnp.float32
    np.testing.assert_allclose(rows, [[0.6, 0.8], [1.0, 0.0], [0.0, 0.0]], rtol=1e-5)
    gradient = jax.grad(lambda z: jnp.sum(unit(z) * jnp.array([2.0, 1.0])))(jnp.float32(z_BE))
    assert np.isfinite(gradient).all()
