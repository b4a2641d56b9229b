"""Towers of presets against open_clip's and timm's own modules on the same random weights.

In float32 throughout, at reduced depth and full width. Run with `-m oracle` where torch is installed.
"""

import dataclasses

import jax
import numpy as np
import peers
import pytest

from mmjax import presets
from mmjax.presets import preset
from mmjax.towers.batch_norm import apply_in_training, with_statistics

pytestmark = [
    pytest.mark.oracle,
    # Torch and its friends warn of what is to come.
    pytest.mark.filterwarnings("ignore"),
]
DEPTH = 2


@pytest.fixture(autouse=True)
def libraries():
    if peers.libraries() is None:
        pytest.skip("torch is not installed: pip install 'mmjax[oracle]'")
    with jax.default_matmul_precision("highest"):
        yield peers.libraries()


def shallow(tower):
    return tower.clone(encoder=tower.encoder.clone(depth=DEPTH))


def pictures(size, rows=2):
    return np.random.default_rng(0).normal(size=(rows, size, size, 3)).astype(np.float32)


def texts(found, rows=3):
    tokens = np.random.default_rng(1).integers(5, found.text.vocab - 5, (rows, found.text.length), np.int64)
    for row in range(rows):
        tokens[row, 4 + row :] = found.vocabulary.pad_id
        tokens[row, 4 + row] = found.vocabulary.eos_id
    return tokens


def assert_equal(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def same_image(tower, params, module, image):
    embedding_BE = jax.jit(tower.apply)({"params": params}, image).embedding_BE
    assert_equal(embedding_BE, peers.run(module, image.transpose(0, 3, 1, 2)))


def same_text(tower, params, module, tokens):
    embedding_BE = jax.jit(tower.apply)({"params": params}, tokens.astype(np.int32)).embedding_BE
    assert_equal(embedding_BE, peers.run(module, tokens))


def clip_config(libraries, name, layers):
    cfg = libraries.open_clip.get_model_config(name)
    cfg["vision_cfg"]["layers"], cfg["text_cfg"]["layers"] = layers, DEPTH
    return cfg


@pytest.mark.parametrize("name", ["ViT-B-32-quickgelu", "ViT-H-14"])
def test_clip_equals_open_clip(libraries, name):
    found = preset(name)
    module = peers.randomised(libraries.models.CLIP(**clip_config(libraries, name, DEPTH)))
    image, text = shallow(found.image), shallow(found.text)
    same_image(image, peers.clip_image(module.visual, image), module.visual, pictures(224))
    tokens = texts(found)
    with libraries.torch.no_grad():
        expected = module.encode_text(libraries.torch.from_numpy(tokens)).numpy()
    variables = {"params": peers.clip_text(module, text)}
    assert_equal(jax.jit(text.apply)(variables, tokens.astype(np.int32)).embedding_BE, expected)


def resnet(libraries):
    cfg = clip_config(libraries, "RN50-quickgelu", [1, 2, 1, 1])
    module = peers.randomised(libraries.models.CLIP(**cfg).visual)
    tower = preset("RN50-quickgelu").image.clone(depths=(1, 2, 1, 1))
    return tower, peers.clip_resnet(module, tower), module


def test_the_resnet_equals_open_clips(libraries):
    tower, params, module = resnet(libraries)
    same_image(tower, params, module, pictures(224))


def test_batch_norm_trains_as_torchs(libraries):
    tower, params, module = resnet(libraries)
    image = pictures(224, rows=4)
    module.train()
    expected = peers.run(module, image.transpose(0, 3, 1, 2))
    encoded, found = jax.jit(lambda p, x: apply_in_training(tower, p, x, jax.random.key(0)))(params, image)
    assert_equal(encoded.embedding_BE, expected)
    after, wanted = with_statistics(params, found), peers.clip_resnet(module, tower)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), after, wanted)


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "ViT-SO400M-16-SigLIP2-256"])
def test_siglip_equals_timm_and_open_clip(libraries, name):
    found = preset(name)
    cfg = libraries.open_clip.get_model_config(name)
    image, text = shallow(found.image), shallow(found.text)
    module = libraries.timm.create_model(
        cfg["vision_cfg"]["timm_model_name"], depth=DEPTH, num_classes=0, act_layer="gelu_tanh"
    )
    peers.randomised(module)
    size = found.preprocess.size
    same_image(image, peers.timm_vit(module, image, image.encoder.heads), module, pictures(size))
    # The vocabulary has no part in the arithmetic; its rows are many.
    small = dataclasses.replace(found, text=text.clone(vocab=1_000))
    fields = cfg["text_cfg"] | {"layers": DEPTH, "vocab_size": 1_000, "act_kwargs": {"approximate": "tanh"}}
    fields = {key: value for key, value in fields.items() if "tokenizer" not in key}
    module = peers.randomised(libraries.models._build_text_tower(cfg["embed_dim"], fields))
    same_text(small.text, peers.clip_text(module, small.text), module, texts(small))


def test_pe_core_equals_timm(libraries):
    found = preset("PE-Core-B-16")
    # Timm's projection has a bias where the authors' has none.
    tower = shallow(found.image).clone(projection="affine")
    module = libraries.timm.create_model("vit_pe_core_base_patch16_224", depth=DEPTH, num_classes=1024)
    peers.randomised(module)
    same_image(tower, peers.timm_vit(module, tower, tower.pool.heads), module, pictures(224))


def count(module):
    return sum(x.numel() for x in module.parameters())


@pytest.mark.parametrize("name", [name for name in presets.names() if "quickgelu" not in name])
def test_presets_have_the_parameters_of_open_clips_models(libraries, name):
    found = preset(name)
    cfg = libraries.open_clip.get_model_config(name)
    if cfg is None:
        pytest.skip("open_clip has no model of this size")
    build = libraries.models.CustomTextCLIP if cfg.pop("custom_text", False) else libraries.models.CLIP
    with libraries.torch.device("meta"):
        module = build(**cfg)
    scalars = sum(x.numel() for x in module.parameters() if x.ndim == 0)
    image, text = count(module.visual), count(module) - count(module.visual) - scalars
    if name.endswith("CLIPA"):
        image -= 257 * 1280  # positions, which are fixed
    if name.startswith("PE-Core"):
        image -= found.image.embed  # the bias of the projection
    assert (ours(found.image, pictures(found.preprocess.size, 1)), ours(found.text, texts_of(found))) == (
        image,
        text,
    )


def texts_of(found):
    return np.zeros((1, found.text.length), np.int32)


def ours(tower, inputs):
    shapes = jax.eval_shape(tower.init, jax.random.key(0), inputs)["params"]
    named = jax.tree_util.tree_leaves_with_path(shapes)
    return sum(x.size for path, x in named if path[-1].key not in ("mean", "var"))


@pytest.mark.parametrize(
    "name, tag",
    [
        ("ViT-B-32-quickgelu", "openai"),
        ("RN50-quickgelu", "openai"),
        ("ViT-H-14", "laion2b_s32b_b79k"),
        ("ViT-B-16-SigLIP", "webli"),
        ("ViT-gopt-16-SigLIP2-256", "webli"),
        ("ViT-H-14-CLIPA", "datacomp1b"),
        ("PE-Core-L-14-336", "meta"),
    ],
)
def test_pictures_are_prepared_as_open_clip_prepares_them(libraries, name, tag):
    given, expected = preset(name).preprocess, libraries.open_clip.get_pretrained_cfg(name, tag)
    assert expected, f"open_clip has no weights {tag!r} of {name}"
    size = libraries.open_clip.get_model_config(name)["vision_cfg"]["image_size"]
    mean, std = expected.get("mean", given.mean), expected.get("std", given.std)
    assert (given.size, given.mean, given.std) == (size, tuple(mean), tuple(std))
    wanted = expected.get("interpolation", "bicubic"), expected.get("resize_mode", "shortest")
    assert (given.filter, given.mode) == wanted
