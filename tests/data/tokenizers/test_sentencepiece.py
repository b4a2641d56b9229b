"""The tokenizer: padding, EOS, truncation, round trips, and models that cannot be made or loaded."""

import concurrent.futures
import pickle

import numpy as np
import pytest

from mmjax.data.tokenizers import Tokenizer
from mmjax.data.tokenizers.sentencepiece import SentencePiece, train

COLOURS = ("red", "blue", "green", "yellow", "grey")
SHAPES = ("circle", "square", "triangle", "heart", "arrow", "star", "cross", "diamond")
TEXTS = [
    f"A {one} {shape} above the {two} {other}"
    for one in COLOURS
    for two in COLOURS
    for shape in SHAPES
    for other in SHAPES
]
CONFIG = SentencePiece(vocab=512, length=16)


@pytest.fixture(scope="module")
def model():
    return train(TEXTS, CONFIG)


@pytest.fixture(scope="module")
def tokenizer(model):
    return Tokenizer(model, CONFIG)


def test_a_row_is_pieces_then_one_eos_then_padding(tokenizer):
    tokens_NS = tokenizer(["red circle", "", "the blue heart"])
    assert tokens_NS.shape == (3, 16) and tokens_NS.dtype == np.int32
    for row in tokens_NS:
        assert np.sum(row == CONFIG.eos_id) == 1
        end = np.argmax(row == CONFIG.eos_id)
        assert np.all(row[:end] > CONFIG.unk_id) and np.all(row[end + 1 :] == CONFIG.pad_id)
    assert tokens_NS[1, 0] == CONFIG.eos_id


def test_no_texts_make_no_rows(tokenizer):
    assert tokenizer([]).shape == (0, 16)


def test_a_long_text_keeps_its_first_pieces_and_its_eos(model):
    text = TEXTS[0]
    long, short = (Tokenizer(model, SentencePiece(vocab=512, length=n)) for n in (64, 5))
    whole, cut = long([text])[0], short([text])[0]
    np.testing.assert_array_equal(cut, [*whole[:4], CONFIG.eos_id])


def test_a_text_that_just_fits_is_not_cut(model):
    pieces = int(np.argmax(Tokenizer(model, SentencePiece(vocab=512, length=64))(["red circle"])[0] == 1))
    fits, cuts = (Tokenizer(model, SentencePiece(vocab=512, length=n)) for n in (pieces + 1, pieces))
    assert fits.truncated(["red circle"]) == 0 and cuts.truncated(["red circle"]) == 1
    assert fits.decode(fits(["red circle"])) == ["red circle"]


def test_truncated_is_the_share_of_texts_that_lose_pieces(tokenizer):
    long = " ".join(["red circle"] * 20)
    assert tokenizer.truncated(["red", "blue", "green", long]) == 0.25
    assert tokenizer.truncated([]) == 0


def test_decoding_gives_the_text_back(model):
    texts = ["a red heart above the blue star", "Ünïcode 日本", "green </s> <pad>"]
    long = Tokenizer(model, SentencePiece(vocab=512, length=64))
    assert long.decode(long(texts)) == [text.lower() for text in texts]


def test_case_matters_only_without_lower(model):
    kept = Tokenizer(model, SentencePiece(vocab=512, lower=False))
    lowered = Tokenizer(model, CONFIG)
    assert np.array_equal(lowered(["RED Heart"]), lowered(["red heart"]))
    assert not np.array_equal(kept(["RED Heart"]), kept(["red heart"]))


def test_unseen_letters_are_spelt_in_bytes(tokenizer):
    assert CONFIG.unk_id not in tokenizer(["日本"])
    without = SentencePiece(vocab=128, byte_fallback=False)
    assert without.unk_id in Tokenizer(train(TEXTS, without), without)(["日本"])


def test_training_depends_on_the_set_of_texts_alone(model, capfd):
    assert train(list(reversed(TEXTS)) + TEXTS[:10], CONFIG) == model
    assert capfd.readouterr() == ("", "")


def test_few_texts_make_a_smaller_vocabulary():
    config = SentencePiece(vocab=2_000)
    tokenizer = Tokenizer(train(["red heart", "blue star"], config), config)
    assert 256 < tokenizer.vocab < 300
    assert tokenizer.decode(tokenizer(["red star"])) == ["red star"]


def test_the_marks_have_the_ids_of_the_config():
    config = SentencePiece(vocab=512, pad_id=2, eos_id=0, unk_id=1)
    row = Tokenizer(train(TEXTS, config), config)(["red"])[0]
    assert row[-1] == 2 and np.sum(row == 0) == 1 and np.all(row != 1)


def test_a_text_longer_than_the_librarys_default_is_learned_from():
    config = SentencePiece(vocab=400)
    assert Tokenizer(train(["red circle " * 1_000], config), config).vocab > 259


def test_threads_share_a_tokenizer_and_pickles_equal_it(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda text: tokenizer([text])[0], TEXTS))
    np.testing.assert_array_equal(np.stack(rows), copy(TEXTS))
    assert copy.config == tokenizer.config


def test_a_vocabulary_below_the_letters_is_refused_with_the_least_that_works():
    with pytest.raises(ValueError, match=r"vocab=100 cannot hold .* use vocab=(\d+) or more") as error:
        train(TEXTS, SentencePiece(vocab=100))
    least = int(str(error.value).split("use vocab=")[1].split()[0])
    config = SentencePiece(vocab=least)
    assert Tokenizer(train(TEXTS, config), config).vocab <= least


@pytest.mark.parametrize("texts", [[], ["", "  "]])
def test_training_on_nothing_is_refused(texts):
    with pytest.raises(ValueError, match="needs texts"):
        train(texts, CONFIG)


def test_equal_marks_are_refused_in_training():
    with pytest.raises(ValueError, match="must differ"):
        train(TEXTS, SentencePiece(pad_id=1))


def test_a_damaged_model_is_one_line(model):
    for damaged in (b"", b"no model" * 9, model[: len(model) // 2]):
        with pytest.raises(ValueError, match=f"of {len(damaged)} bytes is damaged") as error:
            Tokenizer(damaged, CONFIG)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("config", [SentencePiece(vocab=257), SentencePiece(vocab=512, eos_id=3)])
def test_a_model_of_another_config_is_refused(model, config):
    with pytest.raises(ValueError, match="use this config's model"):
        Tokenizer(model, config)


def test_one_bare_text_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"use \[text\]"):
        tokenizer("red")


@pytest.mark.parametrize("fields", [{"length": 1}, {"pad_id": -1}, {"eos_id": 2_000}])
def test_impossible_configs_are_refused(fields):
    with pytest.raises(ValueError, match=str(next(iter(fields)))):
        SentencePiece(**fields)


def test_bpe_keeps_the_words_of_a_small_language_whole_and_unigram_does_not():
    colours, shapes = ("red", "orange", "purple"), ("circle", "square", "bolt")
    texts = [f"a {colour} {shape} above it" for colour in colours for shape in shapes]
    lengths = {}
    for kind in ("unigram", "bpe"):
        config = SentencePiece(model=kind, vocab=350, length=24)
        tokens_NS = Tokenizer(train(texts, config), config)(texts)
        lengths[kind] = (tokens_NS != config.pad_id).sum(axis=1)
    assert (lengths["bpe"] == 6).all()  # five words and the EOS
    assert (lengths["unigram"] > 6).any()
