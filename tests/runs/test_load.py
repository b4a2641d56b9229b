"""A finished run in Python: `mmjax.load`."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from commands import lines, python
from PIL import Image

import mmjax
from mmjax import config
from mmjax.objectives.sigmoid import Sigmoid

TEXTS = ["a red circle", "two green squares left of a star", ""]


@pytest.fixture(scope="module")
def model(finished):
    return mmjax.load(finished.workdir)


def picture(seed=0, height=40, width=24):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_embeddings_are_rows_of_norm_one_in_float32(model):
    for z_NE in (model.encode_image([picture(0), picture(1, 33, 77)]), model.encode_text(TEXTS)):
        assert z_NE.dtype == np.float32 and z_NE.shape[1:] == (16,)
        np.testing.assert_allclose(np.linalg.norm(z_NE, axis=1), 1, rtol=1e-6)


def test_a_picture_is_the_same_however_it_is_given(model, tmp_path):
    array = picture()
    upright = Image.fromarray(array)
    gray, palette = upright.convert("L"), upright.quantize(16)
    turned, exif = upright.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    upright.save(tmp_path / "upright.png")
    turned.save(tmp_path / "turned.png", exif=exif)
    opaque = np.dstack([array, np.full(array.shape[:2], 255, np.uint8)])
    alike = [
        (array, [upright, tmp_path / "upright.png", str(tmp_path / "turned.png"), opaque]),
        (np.asarray(gray), [gray, np.asarray(gray)[..., None], gray.convert("RGB")]),
        (np.asarray(palette.convert("RGB")), [palette, palette.convert("RGBA")]),
        (np.full((8, 8, 3), 255, np.uint8), [np.zeros((8, 8, 4), np.uint8)]),  # transparent: the background
    ]
    for first, others in alike:
        z_NE = model.encode_image([first, *others])
        np.testing.assert_array_equal(z_NE, np.broadcast_to(z_NE[0], z_NE.shape))
    different = model.encode_image([first for first, _ in alike])
    assert len(np.unique(different, axis=0)) == len(alike)


def test_probabilities_are_a_softmax_over_texts_or_of_each_pair_as_the_objective_was(model):
    z_image, z_text = model.encode_image([picture(0), picture(1)]), model.encode_text(TEXTS)
    scale = np.exp(np.float64(model.params["objective"]["log_scale"]))
    exp = np.exp(scale * (z_image @ z_text.T))
    found = model.probs(z_image, z_text)
    np.testing.assert_allclose(found, exp / exp.sum(axis=1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
    params = {"objective": {"log_scale": np.log(np.float32(7)), "bias": np.float32(-2)}}
    paired = dataclasses.replace(model, objective=Sigmoid(), params=params)
    expected = 1 / (1 + np.exp(-(7 * (z_image @ z_text.T) - 2)))
    np.testing.assert_allclose(paired.probs(z_image, z_text), expected, rtol=1e-5)


def test_a_model_has_its_parts(model, finished):
    cfg = model.config
    assert cfg == config.from_json((finished.workdir / "config.json").read_text())
    tokens_NS = model.tokenize(TEXTS)
    assert tokens_NS.shape == (3, cfg.tokenizer.length) and tokens_NS.dtype == np.int32
    assert (tokens_NS == cfg.tokenizer.eos_id).any(axis=1).all()
    assert model.preprocess([picture()]).shape == (1, cfg.preprocess.size, cfg.preprocess.size, 3)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(model.params))
    assert set(model.params) == {"image", "text", "objective"}


def test_a_loaded_model_scores_as_it_did_in_the_run(model, finished):
    (evaluator,) = model.config.evals.values()
    found = evaluator({"image": model.encode_image, "text": model.encode_text}).metrics
    *_, logged = lines(finished.workdir)
    assert {"step": 20, **{f"val/{evaluator.name}/{k}": v for k, v in found.items()}} == logged


def test_an_earlier_step_can_be_loaded(model, finished):
    earlier, latest = (mmjax.load(str(finished.workdir), step=step) for step in (10, 20))
    assert not np.array_equal(earlier.encode_text(TEXTS), model.encode_text(TEXTS))
    np.testing.assert_array_equal(latest.encode_text(TEXTS), model.encode_text(TEXTS))


def test_a_copied_run_loads_without_config_file_and_training_data(model, finished, tmp_path):
    copy = tmp_path / "elsewhere" / "run"
    for name in ("config.json", "tokenizer.model"):
        copy.mkdir(parents=True, exist_ok=True)
        shutil.copy(finished.workdir / name, copy)
    shutil.copytree(finished.workdir / "checkpoints", copy / "checkpoints")
    Image.fromarray(picture()).save(tmp_path / "elsewhere" / "picture.png")
    python(
        "import sys\n"
        "sys.modules['configs'] = None\n"  # an import of it fails
        "import numpy, mmjax\n"
        "from mmjax.data.sources.scenes import Scenes\n"
        "Scenes.prepare = Scenes.__getitem__ = None\n"
        "m = mmjax.load('run')\n"
        "numpy.savez('z', image=m.encode_image(['picture.png']), text=m.encode_text(sys.argv[1:]))\n",
        *TEXTS,
        cwd=tmp_path / "elsewhere",
    )
    z = np.load(tmp_path / "elsewhere" / "z.npz")
    np.testing.assert_array_equal(z["image"], model.encode_image([picture()]))
    np.testing.assert_array_equal(z["text"], model.encode_text(TEXTS))


def test_what_cannot_be_loaded_is_refused(finished, tmp_path):
    with pytest.raises(ValueError, match=rf"no run in {tmp_path}: .*config.json is not there; give"):
        mmjax.load(tmp_path)
    shutil.copy(finished.workdir / "config.json", tmp_path)
    with pytest.raises(ValueError, match=rf"no weights in {tmp_path}/checkpoints; saved are the steps \[\]"):
        mmjax.load(tmp_path)
    with pytest.raises(ValueError, match=r"no weights of step 15 in .*; saved are the steps \[10, 20\]"):
        mmjax.load(finished.workdir, step=15)
    shutil.copytree(finished.workdir / "checkpoints", tmp_path / "checkpoints")
    with pytest.raises(ValueError, match=rf"{tmp_path}/tokenizer.model is not there"):
        mmjax.load(tmp_path)
