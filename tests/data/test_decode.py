"""Pictures of every mode, file and object become the same kind of array, or are refused by name."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from mmjax.data import BadExample
from mmjax.data.decode import opaque, pixels

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
        repeated(np.array([[0, 1, 100], [0, 1, 255]])),
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


def encoded(image, kind="png", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(height, width, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1).astype(np.uint8)


def damaged_files():
    whole = encoded(Image.fromarray(noise(200, 200)))
    second = whole.index(b"IDAT", whole.index(b"IDAT") + 4)
    jpeg = encoded(Image.fromarray(noise(200, 200)), "jpeg")
    return {
        "missing": ("missing", None),
        "text": ("undecodable", b"no picture"),
        "empty": ("undecodable", b""),
        "cut png": ("truncated", whole[: len(whole) // 2]),
        "cut jpeg": ("truncated", jpeg[: len(jpeg) // 2]),
        "chunk": ("undecodable", whole[:second] + b"I\0AT" + whole[second + 4 :]),
        "unknown range": ("undecodable", encoded(Image.new("F", (2, 2)), "tiff")),
    }


@pytest.mark.parametrize("damage", damaged_files())
def test_files_that_are_no_pictures_are_refused_by_name_with_the_reason(tmp_path, damage):
    path = tmp_path / "image.png"
    reason, content = damaged_files()[damage]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadExample) as error:
        pixels(path)
    assert str(error.value).startswith(f"{path} ") and error.value.reason == reason


# Pillow itself warns above 89 million pixels.
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_001, 20_000], ids=["ours", "Pillow's"])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, side, monkeypatch):
    path = tmp_path / "bomb.png"
    # A few kilobytes that ask for hundreds of megabytes.
    small = encoded(Image.new("1", (8, 8)))
    header = small.index(b"IHDR") + 4
    bomb = bytearray(small)
    bomb[header : header + 8] = side.to_bytes(4, "big") * 2
    bomb[header + 13 : header + 17] = zlib.crc32(bomb[header - 4 : header + 13]).to_bytes(4, "big")
    path.write_bytes(bomb)
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("was decoded"))
    with pytest.raises(BadExample, match="bomb.png is a picture of too many pixels") as error:
        pixels(path)
    assert error.value.reason == "too_large"


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tiff"])
def test_of_several_frames_the_first_is_seen(kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "webp" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    np.testing.assert_array_equal(pixels(data)[..., :3], np.asarray(frames[0]))


def test_bytes_and_files_are_the_same_picture(tmp_path):
    data = encoded(Image.fromarray(noise(9, 7)))
    (tmp_path / "image.png").write_bytes(data)
    np.testing.assert_array_equal(pixels(data), pixels(tmp_path / "image.png"))
    np.testing.assert_array_equal(pixels(data), noise(9, 7))


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_large_picture_is_shrunk_to_its_side_as_pillow_does_it(kind):
    image = Image.fromarray(smooth(600, 400))
    found = pixels(encoded(image, kind), side=40)
    assert found.shape == (60, 40, 3)
    # JPEG and two passes differ by little on a smooth picture.
    np.testing.assert_allclose(
        found[5:-5, 5:-5, :2], np.asarray(image.resize((40, 60)))[5:-5, 5:-5, :2], atol=6
    )


def test_a_picture_that_is_small_enough_keeps_its_pixels():
    data = encoded(Image.fromarray(noise(50, 30)))
    np.testing.assert_array_equal(pixels(data, side=30), pixels(data))


def test_a_shrunk_picture_stands_as_its_camera_says():
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = smooth(400, 600)
    turned = encoded(Image.fromarray(np.rot90(upright)), "jpeg", exif=exif, quality=95)
    found = pixels(turned, side=40)
    assert found.shape == (40, 60, 3)
    expected = np.asarray(Image.fromarray(upright).resize((60, 40)))
    np.testing.assert_allclose(found[5:-5, 5:-5, :2], expected[5:-5, 5:-5, :2], atol=6)


@pytest.mark.parametrize("mode", ["RGBA", "P transparent"])
def test_what_is_transparent_shows_the_background(mode):
    image, _ = MODES[mode]
    image_HWC = pixels(image)
    alpha = image_HWC[..., 3:] / 255
    expected = image_HWC[..., :3] * alpha + np.array((10, 100, 200)) * (1 - alpha)
    np.testing.assert_allclose(opaque(image_HWC, (10, 100, 200)), expected, atol=0.51)


def test_opaque_pictures_have_three_channels():
    np.testing.assert_array_equal(opaque(noise(3, 2), (0, 0, 0)), noise(3, 2))
    np.testing.assert_array_equal(opaque(noise(3, 2, 1), (0, 0, 0)), np.repeat(noise(3, 2, 1), 3, axis=2))
