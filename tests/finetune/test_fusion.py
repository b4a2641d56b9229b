"""What several towers say, made into one: against formulas, and by what must not change it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.finetune.fusion import Concat, CrossAttention, Gated, Mean, Only, Weighted
from mmjax.towers import Encoded

RNG = np.random.default_rng(0)
ALL = {"image": None, "text": np.array([5, 3, 1]), "sound": None}
POOLED = [Concat(), Mean(), Weighted(), Gated(width=6)]


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def encoded(*names, width=8):
    """Three examples; 9 tokens of width 4 a picture and a sound, 5 of width 6 a text."""
    tokens = {"image": (9, 4), "text": (5, 6), "sound": (9, 4)}
    return {name: Encoded(7 * normal(3, width), normal(3, *tokens[name])) for name in names}


def begun(fusion, given):
    """Its parameters, all of them moved from where they start."""
    variables = fusion.init(jax.random.key(0), given, lengths(given))
    return jax.tree.map(lambda x: x + 0.3 * normal(*x.shape), variables)


def lengths(given):
    return {name: ALL[name] for name in given}


def embedding(fusion, variables, given):
    return np.asarray(fusion.apply(variables, given, lengths(given)).encoded.embedding_BE)


def leveled(of_tower):
    z_BE = np.float64(of_tower.embedding_BE)
    return z_BE / np.sqrt(np.mean(z_BE**2, axis=1, keepdims=True))


def test_embeddings_are_joined_or_averaged_at_equal_size():
    given = encoded("image", "text", "sound")
    parts = [leveled(x) for x in given.values()]
    np.testing.assert_allclose(embedding(Concat(), {}, given), np.concatenate(parts, axis=1), rtol=1e-5)
    np.testing.assert_allclose(embedding(Mean(), {}, given), np.mean(parts, axis=0), rtol=1e-4, atol=1e-6)


def test_learned_weights_begin_as_a_mean_and_are_a_softmax():
    given = encoded("image", "text", "sound")
    start = Weighted().init(jax.random.key(0), given, lengths(given))
    np.testing.assert_allclose(embedding(Weighted(), start, given), embedding(Mean(), {}, given), rtol=1e-5)
    weights = np.log([0.2, 0.5, 0.3]).astype(np.float32) + 4
    expected = np.einsum("m,mbe->be", [0.2, 0.5, 0.3], [leveled(x) for x in given.values()])
    found = embedding(Weighted(), {"params": {"weights": weights}}, given)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_gates_of_two_modalities_are_those_of_the_paper():
    """h = s tanh(W x) + (1 - s) tanh(V y), with s the sigmoid of a linear function of x and y."""
    given = encoded("image", "text")
    variables = begun(Gated(width=6), given)
    p, x, y = variables["params"], *(leveled(each) for each in given.values())

    def dense(name, x):
        return x @ np.float64(p[name]["kernel"]) + p[name]["bias"]

    both = np.concatenate([x, y], axis=1)
    s = 1 / (1 + np.exp(-(dense("gate_image", both) - dense("gate_text", both))))
    expected = s * np.tanh(dense("hidden_image", x)) + (1 - s) * np.tanh(dense("hidden_text", y))
    np.testing.assert_allclose(embedding(Gated(width=6), variables, given), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fusion", POOLED, ids=lambda fusion: type(fusion).__name__)
def test_the_scale_of_an_embedding_says_nothing(fusion):
    given = encoded("image", "text", "sound")
    variables = begun(fusion, given)
    louder = given | {"text": given["text"]._replace(embedding_BE=100 * given["text"].embedding_BE)}
    found, expected = (embedding(fusion, variables, x) for x in (louder, given))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def crossing(given, **fields):
    fusion = CrossAttention(width=8, depth=2, heads=2, **fields)
    return fusion, begun(fusion, given)


@pytest.mark.parametrize("asks", ["text", "image"])
def test_padding_of_a_text_changes_nothing(asks):
    given = encoded("image", "text")
    fusion, variables = crossing(given, asks=asks)
    padded_BS1 = (np.arange(5) >= ALL["text"][:, None])[..., None]
    tokens = given["text"].tokens_BSD
    noisy = {"text": given["text"]._replace(tokens_BSD=np.where(padded_BS1, 9 * tokens + 1, tokens))}
    found, expected = (embedding(fusion, variables, x) for x in (given | noisy, given))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_padding_of_a_text_hides_no_patch_where_both_are_as_many():
    """As many patches as pieces, or one piece of padding more: the same answer."""
    given = encoded("image", "text")
    given["image"] = given["image"]._replace(tokens_BSD=given["image"].tokens_BSD[:, :5])
    fusion, variables = crossing(given, asks="image")
    longer = given | {"text": given["text"]._replace(tokens_BSD=one_more(given["text"].tokens_BSD))}
    places = {"positions_text": one_more(variables["params"]["positions_text"][None])[0]}
    found = embedding(fusion, {"params": variables["params"] | places}, longer)
    np.testing.assert_allclose(found, embedding(fusion, variables, given), rtol=1e-5, atol=1e-6)


def one_more(x_BSD):
    return np.pad(x_BSD, ((0, 0), (0, 1), (0, 0)))


def test_the_place_of_a_patch_counts():
    """A convolution's tokens may be the same wherever a thing is; what is left of what must still be told."""
    given = encoded("image", "text")
    fusion, variables = crossing(given)
    mirrored = given["image"]._replace(tokens_BSD=given["image"].tokens_BSD[:, ::-1])
    moved = embedding(fusion, variables, given | {"image": mirrored})
    assert np.abs(moved - embedding(fusion, variables, given)).max() > 1e-2
    still = jax.tree.map(jnp.array, variables)
    still["params"]["positions_image"] = jnp.zeros_like(still["params"]["positions_image"])
    found, expected = (embedding(fusion, still, x) for x in (given | {"image": mirrored}, given))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["image", "text"])
def test_cross_attention_hears_the_embedding_of_either_tower_and_not_how_loud_it_is(name):
    given = encoded("image", "text")
    fusion, variables = crossing(given)
    z_BE = given[name].embedding_BE
    heard = {
        factor: embedding(fusion, variables, given | {name: given[name]._replace(embedding_BE=factor * z_BE)})
        for factor in (1, 9, -1)
    }
    np.testing.assert_allclose(heard[9], heard[1], rtol=1e-4, atol=1e-5)
    assert np.abs(heard[-1] - heard[1]).min(axis=0).max() > 1e-3


def test_one_tower_is_passed_on():
    given = encoded("text")
    fused = Only().apply({}, given, lengths(given))
    assert fused.encoded is given["text"] and fused.lengths_B is ALL["text"]


def widths(given, **by_name):
    return given | {
        name: given[name]._replace(embedding_BE=normal(3, width)) for name, width in by_name.items()
    }


@pytest.mark.parametrize(
    "fusion, given, message",
    [
        (Only(), encoded("image", "text"), r"towers=\['image', 'text'\] need a fusion, such as"),
        (Mean(), widths(encoded("image", "text"), text=5), "one width, but image has 8, text has 5; use"),
        (Concat(), {"text": Encoded(normal(3, 5, 8), normal(3, 5, 6))}, r"text tower gives \[3, 5, 8\], not"),
        (CrossAttention(), encoded("image"), r"'text' to one other tower, but towers=\['image'\]; give"),
        (CrossAttention(), encoded("image", "text", "sound"), "to one other tower, but towers="),
        (CrossAttention(heads=3), encoded("image", "text"), "128 does not divide over 3 heads"),
        (
            CrossAttention(),
            encoded("text") | {"image": Encoded(normal(3, 8), None)},
            "of those the image tower gives None; use another tower, or a fusion of embeddings",
        ),
    ],
    ids=lambda x: type(x).__name__,
)
def test_what_cannot_be_fused_is_refused(fusion, given, message):
    with pytest.raises(ValueError, match=message):
        fusion.init(jax.random.key(0), given, {name: None for name in given})
