"""Prompt learning: rows of ids, what the head computes, and the head that remains without a text tower."""

import jax
import numpy as np
import pytest

from mmjax.data.tokenizers import Tokenizer
from mmjax.data.tokenizers.utf8 import Bytes
from mmjax.finetune.context import Prompts, merged, merged_params, rows_with_room
from mmjax.towers import Encoded
from mmjax.towers.extended import Extended
from mmjax.towers.prompts import Context
from mmjax.towers.text import BagOfPieces

TEXT = BagOfPieces(vocab=32, width=16, embed=8)
ROWS = ((5, 5, 7, 8, 1, 0), (5, 5, 9, 1, 0, 0), (5, 5, 7, 4, 6, 1))
HEAD = Prompts(classes=3, length=2, text=Extended(tower=TEXT, extras=(Context(length=2),)), rows=ROWS)
Z_BE = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
ENCODED = Encoded(Z_BE, Z_BE[:, None])


@pytest.fixture(scope="module")
def params():
    found = jax.jit(HEAD.init)(jax.random.key(0), ENCODED)["params"]
    return found | {"log_scale": np.log(np.float32(20.0))}


def test_a_context_of_pieces_is_zero_shot_classification_with_these_pieces(params):
    table = params["text"]["pieces"]["embedding"]
    params = params | {"text": params["text"] | {"context": table[np.array([11, 12])]}}
    tokens_CS = np.array(ROWS, np.int32)
    tokens_CS[:, :2] = 11, 12
    plain = {name: x for name, x in params["text"].items() if name != "context"}
    z_CE = np.float64(jax.jit(TEXT.apply)({"params": plain}, tokens_CS).embedding_BE)
    z_BE, z_CE = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (np.float64(Z_BE), z_CE))
    found = jax.jit(HEAD.apply)({"params": params}, ENCODED)
    np.testing.assert_allclose(found, 20 * z_BE @ z_CE.T, rtol=1e-4, atol=1e-4)


def test_all_but_the_context_stays(params):
    fixed = HEAD.fixed(params)
    assert set(params["text"]) - set(fixed["text"]) == {"context"} and "log_scale" in fixed


def test_a_merged_head_says_the_same_without_the_text_tower(params):
    head, kept = merged(HEAD), merged_params(HEAD, params)
    assert jax.tree.map(np.shape, kept) == {"logits": {"kernel": (8, 3), "bias": (3,)}}
    expected = jax.jit(HEAD.apply)({"params": params}, ENCODED)
    found = jax.jit(head.apply)({"params": kept}, ENCODED)
    np.testing.assert_allclose(jax.nn.softmax(found), jax.nn.softmax(expected), atol=1e-6)


class Marked(Bytes):
    """With a mark that begins texts."""

    @property
    def bos_id(self):
        return 2


def test_rows_have_room_behind_the_first_mark_and_lose_nothing():
    for config, first in ((Bytes(length=10), 0), (Marked(length=11), 1)):
        tokenizer = Tokenizer(config.build(list), config)
        rows = rows_with_room(tokenizer, Context(length=3, first=first), ["red", "a rose"])
        plain = tokenizer(["red", "a rose"])
        kept = np.delete(rows, [first, first + 1, first + 2], axis=1)
        np.testing.assert_array_equal(kept, plain[:, : rows.shape[1] - 3])
        inserted = set(rows[:, first : first + 3].flat)
        assert rows.shape == plain.shape and not inserted & {config.pad_id, config.eos_id, config.bos_id}


@pytest.mark.parametrize("length", [4, 30])
def test_a_context_that_leaves_no_room_for_a_name_is_refused(length):
    config = Bytes(length=10)
    tokenizer = Tokenizer(config.build(list), config)
    with pytest.raises(ValueError, match=f"head.length={length} leaves too few of the tokenizer's 10 .*rose"):
        rows_with_room(tokenizer, Context(length=length), ["red", "a rose"][1:])
