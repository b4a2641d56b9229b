"""Presets are the published models: their sizes, their names, and how their weights are used."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from mmjax import presets, sharding
from mmjax.data.tokenizers.sentencepiece import SentencePiece
from mmjax.presets import preset

# Parameters of image and text tower, in millions: open_clip's docs/model_profile.csv.
PROFILE = {
    "ViT-B-32": (87.85, 63.43),
    "ViT-B-16": (86.19, 63.43),
    "ViT-L-14": (303.97, 123.65),
    "ViT-L-14-336": (304.29, 123.65),
    "RN50": (38.32, 63.69),
    "ViT-H-14": (632.08, 354.03),
    "ViT-bigG-14": (1844.91, 694.66),
    "ViT-B-16-SigLIP": (92.88, 110.27),
    "ViT-SO400M-14-SigLIP": (427.68, 449.68),
    "ViT-H-14-CLIPA": (632.07, 336.16),
}
# Fixed positions, which open_clip stores among them: 257 of width 1280.
STORED = {"ViT-H-14-CLIPA": 257 * 1280}
# Both towers together.
TOTAL = {
    # Hugging Face's card of google/siglip2-base-patch16-224, less scale and bias.
    "ViT-B-16-SigLIP2": 375_187_970 - 2,
    # The modules that open_clip 3.3.0 builds from its model_configs, which test_oracle.py counts again.
    "ViT-L-16-SigLIP2-256": 315_956_224 + 565_570_560,
    "ViT-SO400M-16-SigLIP2-256": 427_888_064 + 707_782_896,
    "ViT-gopt-16-SigLIP2-256": 1_163_168_256 + 708_225_648,
    # The same, less the bias that timm adds to the image's projection.
    "PE-Core-B-16": 93_673_984 - 1024 + 353_986_560,
    "PE-Core-L-14-336": 317_152_256 - 1024 + 353_986_560,
    "PE-Core-bigG-14-448": 1_882_033_920 - 1280 + 537_233_920,
}
# Billions of the image tower: Bolya et al. 2025, arXiv:2504.13181, table of model configurations.
PE_IMAGE = {"PE-Core-B-16": 0.09, "PE-Core-L-14-336": 0.32, "PE-Core-bigG-14-448": 1.88}
# With a class token and 1,000 classes in place of pool and embedding: DeiT-Ti and DeiT-S, Touvron et al.
# 2021, arXiv:2012.12877, table 1, in millions as timm counts them.
CLASSIFIERS = {"Ti/16": 5.717416, "S/16": 22.050664}

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "towers.md").read_text()


@functools.cache
def shapes(name):
    found = preset(name)
    size, length = found.preprocess.size, found.text.length
    image = jax.eval_shape(found.image.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    text = jax.eval_shape(found.text.init, jax.random.key(0), jnp.zeros((1, length), jnp.int32))
    return {"image": image["params"], "text": text["params"]}


def count(tree):
    """Parameters, less running statistics, which others do not count among them."""
    named = [(sharding.path_name(path), x) for path, x in jax.tree_util.tree_leaves_with_path(tree)]
    return sum(x.size for path, x in named if not path.endswith(("/mean", "/var")))


@pytest.mark.parametrize("name", PROFILE)
def test_towers_have_as_many_parameters_as_published(name):
    image, text = (count(shapes(name)[modality]) for modality in ("image", "text"))
    image += STORED.get(name, 0)
    assert (round(image / 1e6, 2), round(text / 1e6, 2)) == PROFILE[name]


@pytest.mark.parametrize("name", TOTAL)
def test_pairs_have_as_many_parameters_as_published(name):
    assert count(shapes(name)) == TOTAL[name]
    if name in PE_IMAGE:
        assert round(count(shapes(name)["image"]) / 1e9, 2) == PE_IMAGE[name]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_small_towers_are_the_usual_ones(name):
    tower = preset(name).image.clone(pool="class", projection="affine", embed=1000)
    shape = jax.eval_shape(tower.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    assert count(shape) / 1e6 == CLASSIFIERS[name]


def dense(inputs, outputs):
    return inputs * outputs + outputs


def block(width, mlp):
    """Two norms, four projections of attention, two layers of an MLP."""
    return 2 * 2 * width + 4 * dense(width, width) + dense(width, mlp) + dense(mlp, width)


# Width, depth and MLP width of big_vision's mu, Ti and S (Zhai et al. 2022, arXiv:2106.04560, table 2).
SMALL = {"mu/16": (32, 1, 128), "Ti/16": (192, 12, 768), "S/16": (384, 12, 1536)}


@pytest.mark.parametrize("name", SMALL)
def test_the_towers_of_small_pairs_are_counted_by_hand(name):
    width, depth, mlp = SMALL[name]
    norm, patches = 2 * width, (224 // 16) ** 2
    # The pool is a block without the norm before attention, and with a query.
    pool = block(width, mlp) - norm + width
    image = dense(16 * 16 * 3, width) + patches * width + depth * block(width, mlp) + norm + pool
    text = 32_000 * width + 64 * width + depth * block(width, mlp) + norm + dense(width, width)
    assert (count(shapes(name)["image"]), count(shapes(name)["text"])) == (image, text)


def test_every_preset_is_counted_somewhere():
    counted = {preset(name).name for name in (*PROFILE, *TOTAL, *SMALL)}
    assert counted == {name for name in presets.names() if not name.endswith("quickgelu")}


@pytest.mark.parametrize("name", [name for name in presets.names() if name.endswith("quickgelu")])
def test_openai_and_open_clip_differ_in_the_activation_alone(name):
    openai, other = preset(name), preset(name.removesuffix("-quickgelu"))
    for modality in ("image", "text"):
        given, expected = getattr(openai, modality), getattr(other, modality)
        if modality == "text" or not name.startswith("RN50"):
            encoder = expected.encoder.clone(activation="quick_gelu")
            expected = expected.clone(encoder=encoder)
        assert given == expected
    assert (openai.preprocess, openai.vocabulary) == (other.preprocess, other.vocabulary)


@pytest.mark.parametrize(
    "one, other",
    [
        ("B/32", "ViT-B-32"),
        ("OpenAI B/16", "ViT-B-16-quickgelu"),
        ("CLIP L/14-336", "ViT-L-14-336-quickgelu"),
        ("ViT-B/32", "ViT-B-32-quickgelu"),
        ("ViT-B/16", "ViT-B-16-quickgelu"),
        ("ViT-L/14", "ViT-L-14-quickgelu"),
        ("ViT-L/14@336px", "ViT-L-14-336-quickgelu"),
        ("OpenAI RN50", "RN50-quickgelu"),
        ("G/14", "ViT-bigG-14"),
        ("B/16", "ViT-B-16-SigLIP"),
        ("So400m/14", "ViT-SO400M-14-SigLIP"),
        ("L/16", "ViT-L-16-SigLIP2-256"),
        ("SigLIP2 B/16", "ViT-B-16-SigLIP2"),
        ("g-opt/16", "ViT-gopt-16-SigLIP2-256"),
        ("CLIPA H/14", "ViT-H-14-CLIPA"),
        ("PE-Core-G14-448", "PE-Core-bigG-14-448"),
        ("mu/16", "ViT-mu-16-SigLIP"),
    ],
)
def test_a_preset_is_found_in_either_spelling(one, other):
    assert preset(one) is preset(other)


def test_no_two_presets_share_a_name():
    found = [preset(name) for name in presets.names()]
    known = [name for one in found for name in (one.name, *one.also)]
    assert len(known) == len(set(known))


@pytest.mark.parametrize(
    "name, near",
    [("vit-b-32", "ViT-B-32"), ("ViT-L-16-SigLIP2", "ViT-L-16-SigLIP2-256"), ("so400m/14", "So400m/14")],
)
def test_a_preset_that_does_not_exist_is_refused_with_the_nearest_names(name, near):
    with pytest.raises(ValueError, match=f"no preset '{name}'; did you mean .*{near}"):
        preset(name)


@pytest.mark.parametrize("name", ["", "xyz", "???"])
def test_a_name_that_is_near_to_none_is_told_where_all_are(name):
    with pytest.raises(ValueError) as error:
        preset(name)
    assert str(error.value) == (f"there is no preset {name!r}; docs/towers.md lists all, and presets.names()")


def test_no_more_than_a_few_names_are_offered():
    with pytest.raises(ValueError, match=r"'vit'; did you mean ([\w./ -]+, ){2}[\w./ -]+\? docs"):
        preset("vit")


def test_towers_take_the_marks_of_a_tokenizer_of_ones_own():
    tokenizer = SentencePiece(vocab=500, length=9, pad_id=3, eos_id=4)
    towers = preset("CLIP B/32").towers(tokenizer=tokenizer, dtype="bfloat16", remat="full")
    text = towers["text"]
    assert (text.vocab, text.length, text.eos) == (500, 9, 4)
    assert {tower.dtype for tower in towers.values()} == {"bfloat16"}
    assert {tower.encoder.remat for tower in towers.values()} == {"full"}
    assert preset("RN50").towers(dtype="bfloat16")["image"].dtype == "bfloat16"


@pytest.mark.parametrize("name", [name for name in presets.names() if "CLIPA" not in name])
def test_the_tokenizer_of_a_preset_fits_its_text_tower(name):
    found = preset(name)
    tokenizer = found.tokenizer("a/file")
    assert (tokenizer.path, tokenizer.vocab, tokenizer.length) == (
        "a/file",
        found.text.vocab,
        found.text.length,
    )
    assert tokenizer.eos_id == found.text.eos
    assert found.towers(tokenizer=tokenizer) == found.towers()
    # SigLIP removes punctuation and pads with its end mark.
    c4 = found.vocabulary.name == "c4_en"
    assert (tokenizer.pad_id == 1, tokenizer.punctuation) == (c4, not c4)


@pytest.mark.parametrize(
    "name, message",
    [("B/16", "the SentencePiece model c4_en; give the path"), ("CLIPA H/14", "BERT's word pieces, which")],
)
def test_a_tokenizer_that_cannot_be_made_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        preset(name).tokenizer()


def test_the_table_of_the_documents_is_right():
    rows = re.findall(
        r"^\| `([\w-]+)` \| (\d+) \| ([\d.]+) \| ([\d.]+) \| (\d+) \| (?:`(.+)` )?\|$", PAGE, re.M
    )
    assert [row[0] for row in rows] == [name for name in presets.names() if "quickgelu" not in name]
    for name, size, image, text, length, alone in rows:
        found = preset(name)
        assert (found.preprocess.size, found.text.length) == (int(size), int(length))
        assert round(count(shapes(name)["image"]) / 1e6, 2) == float(image), name
        assert round(count(shapes(name)["text"]) / 1e6, 2) == float(text), name
        assert not alone or preset(alone) is found
