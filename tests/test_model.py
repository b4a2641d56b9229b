"""Models as functions of pictures and strings."""

import dataclasses
import functools
import io

import debugrun
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mmjax import sharding
from mmjax.model import Model, encoders, pixels, unit
from mmjax.objectives.infonce import InfoNCE
from mmjax.objectives.sigmoid import Sigmoid
from mmjax.sharding import MeshShape
from mmjax.towers.conv import ConvNet
from mmjax.towers.text import BagOfPieces

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


def test_unit_rows_have_norm_one_and_a_zero_row_has_a_finite_gradient():
    z_BE = jnp.asarray([[3.0, 4.0], [1e-6, 0.0], [0.0, 0.0]], jnp.bfloat16)
    rows = unit(z_BE)
    assert rows.dtype == jnp.float32
    np.testing.assert_allclose(rows, [[0.6, 0.8], [1.0, 0.0], [0.0, 0.0]], rtol=1e-5)
    gradient = jax.grad(lambda z: jnp.sum(unit(z) * jnp.array([2.0, 1.0])))(jnp.float32(z_BE))
    assert np.isfinite(gradient).all()


GREY = np.array([[0, 51], [102, 255]], np.uint8)
COLOUR = np.random.default_rng(2).integers(0, 256, (2, 2, 4), dtype=np.uint8)


def palette(transparent):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "L").convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    if transparent:
        image.info["transparency"] = 1
    return image


def repeated(grey):
    return np.repeat(grey[..., None], 3, axis=2)


def with_alpha(rgb, alpha):
    return np.concatenate([rgb, np.asarray(alpha, np.uint8)[..., None]], axis=2)


PALETTE = np.array([[[10, 20, 30], [40, 50, 60]], [[40, 50, 60], [10, 20, 30]]], np.uint8)
MODES = {
    "1": (Image.fromarray(np.array([[True, False]])), repeated(np.array([[255, 0]]))),
    "L": (Image.fromarray(GREY), repeated(GREY)),
    "LA": (Image.fromarray(COLOUR[..., :2], "LA"), with_alpha(repeated(COLOUR[..., 0]), COLOUR[..., 1])),
    "P": (palette(False), PALETTE),
    "P transparent": (palette(True), with_alpha(PALETTE, [[255, 0], [0, 255]])),
    "RGB": (Image.fromarray(COLOUR[..., :3]), COLOUR[..., :3]),
    "RGBA": (Image.fromarray(COLOUR), COLOUR),
    # Without black each ink takes its colour's complement away.
    "CMYK": (
        Image.fromarray(with_alpha(COLOUR[..., :3], np.zeros((2, 2))), "CMYK"),
        255 - COLOUR[..., :3],
    ),
    "I;16": (
        Image.fromarray(np.array([[0, 257, 25700], [128, 129, 65535]], np.uint16)),
        np.array([[0, 1, 100], [0, 1, 255]])[..., None],
    ),
}


@pytest.mark.parametrize("mode", MODES)
def test_pictures_of_every_mode_are_read(mode):
    image, expected = MODES[mode]
    found = pixels(image)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mode", ["L", "LA", "P transparent", "RGBA", "I;16"])
@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "path"])
def test_pictures_are_read_from_files(tmp_path, mode, kind):
    image, expected = MODES[mode]
    image.save(tmp_path / "image.png")
    np.testing.assert_array_equal(pixels(kind(tmp_path / "image.png")), expected)


def test_pictures_stand_as_their_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the first row is the right side: turn by a quarter, clockwise
    Image.fromarray(COLOUR[:1, :, :3]).save(tmp_path / "image.png", exif=exif)
    np.testing.assert_array_equal(pixels(tmp_path / "image.png"), np.rot90(COLOUR[:1, :, :3], -1))


@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)], ids=str)
def test_arrays_are_taken_as_they_are(channels):
    array = np.random.default_rng(0).integers(0, 256, (3, 2, *channels), dtype=np.uint8)
    np.testing.assert_array_equal(pixels(array), array.reshape(3, 2, *(channels or (1,))))


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (np.zeros((2, 2, 3), np.float32), r"float32 \[2, 2, 3\]"),
        (np.zeros((2, 2, 2), np.uint8), r"uint8 \[2, 2, 2\]"),
        (np.zeros((1, 2, 2, 3), np.uint8), r"uint8 \[1, 2, 2, 3\]"),
        (np.zeros(4, np.uint8), r"uint8 \[4\]"),
        (3, r"int64 \[\]"),
    ],
)
def test_other_arrays_are_refused_with_what_they_are(array, got):
    with pytest.raises(ValueError, match=f"a picture is a path, a PIL image or a uint8 array .* got {got}"):
        pixels(array)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pictures_of_unknown_range_are_refused(mode):
    with pytest.raises(ValueError, match=f"mode {mode} does not say what is white; convert it to L or RGB"):
        pixels(Image.new(mode, (2, 2)))


def damaged_files():
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "png")
    whole = stream.getvalue()
    second = whole.index(b"IDAT", whole.index(b"IDAT") + 4)
    return {
        "missing": None,
        "text": b"no picture",
        "cut": whole[: len(whole) // 2],
        "chunk": whole[:second] + b"I\0AT" + whole[second + 4 :],
    }


@pytest.mark.parametrize("damage", damaged_files())
def test_files_that_are_no_pictures_are_refused_by_name(tmp_path, damage):
    path = tmp_path / "image.png"
    if damage != "missing":
        path.write_bytes(damaged_files()[damage])
    with pytest.raises(ValueError, match=f"{path} could not be read as a picture"):
        pixels(path)
