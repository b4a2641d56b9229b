"""What a row of ids looks like, whatever the tokenizer, and that it travels with the weights."""

import dataclasses
import pickle

import numpy as np
import pytest

from mmjax import config
from mmjax.data import tokenizers
from mmjax.data.tokenizers import Tokenizer
from mmjax.data.tokenizers.cleaning import bare, clean, repaired
from mmjax.data.tokenizers.clip import ClipBpe
from mmjax.data.tokenizers.sentencepiece import SentencePiece, SentencePieceFile, train
from mmjax.data.tokenizers.utf8 import Bytes

TEXTS = ["a red circle", "", "Two GREEN squares, left of a star!", "ünï"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Letters:
    """A tokenizer of one's own: letter a is id 4."""

    length: int = 6
    vocab: int = 30
    pad_id: int = 0
    eos_id: int = 1
    bos_id: int | None = None
    eos: tokenizers.Eos = "always"
    truncate: tokenizers.Truncate = "end"

    def build(self, captions):
        return b""

    def codec(self, model):
        return self

    def encode(self, texts):
        return [[ord(letter) - 93 for letter in text] for text in texts]

    def decode(self, ids):
        return "".join(chr(id_ + 93) for id_ in ids)


@pytest.mark.parametrize(
    ("fields", "short", "exact", "long"),
    [
        ({}, [4, 5, 1, 0, 0, 0], [4, 5, 6, 7, 8, 1], [4, 5, 6, 7, 8, 1]),
        ({"eos": "if_room"}, [4, 5, 1, 0, 0, 0], [4, 5, 6, 7, 8, 1], [4, 5, 6, 7, 8, 9]),
        ({"eos": "never", "pad_id": 3}, [4, 5, 3, 3, 3, 3], [4, 5, 6, 7, 8, 3], [4, 5, 6, 7, 8, 9]),
        ({"bos_id": 2, "pad_id": 1}, [2, 4, 5, 1, 1, 1], [2, 4, 5, 6, 7, 1], [2, 4, 5, 6, 7, 1]),
        ({"truncate": "start"}, [4, 5, 1, 0, 0, 0], [4, 5, 6, 7, 8, 1], [6, 7, 8, 9, 10, 1]),
        (
            {"truncate": "start", "eos": "if_room", "bos_id": 2},
            [2, 4, 5, 1, 0, 0],
            [2, 4, 5, 6, 7, 8],
            [2, 6, 7, 8, 9, 10],
        ),
    ],
    ids=str,
)
def test_marks_and_padding_follow_the_fields(fields, short, exact, long):
    tokenizer = Tokenizer(b"", Letters(**fields))
    rows = tokenizer(["ab", "abcde", "abcdefg"])
    assert rows.dtype == np.int32
    np.testing.assert_array_equal(rows, [short, exact, long])
    assert tokenizer.decode(rows[:1]) == ["ab"]
    whole = [4, 5], range(4, 9), range(4, 11)
    cut = [not {*ids} <= {*row} for ids, row in zip(whole, rows.tolist(), strict=True)]
    assert tokenizer.truncated(["ab", "abcde", "abcdefg"]) == pytest.approx(np.mean(cut))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Bytes(length=1),
        lambda: Bytes(eos="sometimes"),
        lambda: Bytes(truncate="middle"),
        lambda: Bytes(pad_id=3),
        lambda: ClipBpe(length=2),
        lambda: SentencePieceFile(path="x", vocab=10, bos_id=10),
    ],
)
def test_impossible_rows_are_refused(make):
    with pytest.raises(ValueError, match="length=|eos=|truncate=|pad_id=|bos_id="):
        make()


@pytest.mark.parametrize("text", ["a red circle", "日本語", "ünï 🙂", "", "line\nbreak"])
def test_bytes_give_back_any_text_and_are_utf8(text):
    tokenizer = Tokenizer(b"", Bytes(length=40))
    rows = tokenizer([text])
    assert tokenizer.decode(rows) == [text]
    expected = [byte + 3 for byte in text.encode()]
    np.testing.assert_array_equal(rows[0], expected + [1] + [0] * (39 - len(expected)))
    assert tokenizer.vocab == 259 and rows.max() < 259


def test_half_a_letter_at_the_end_of_a_row_of_bytes_is_not_read():
    tokenizer = Tokenizer(b"", Bytes(length=5))
    assert tokenizer.decode(tokenizer(["日本"])) == ["日"]


def test_bytes_of_a_model_are_refused():
    with pytest.raises(ValueError, match="bytes need no model"):
        Tokenizer(b"model", Bytes())


def model_file(folder, **fields):
    config_ = SentencePiece(vocab=300, **fields)
    path = folder / "mine.model"
    path.write_bytes(train(TEXTS * 3, config_))
    return path


def test_a_model_file_gives_the_rows_that_its_trainer_gave(tmp_path):
    path = model_file(tmp_path)
    trained = SentencePiece(vocab=300, length=12)
    given = SentencePieceFile(path=str(path), vocab=300, length=12)
    rows = [Tokenizer(config_.build(lambda: TEXTS * 3), config_)(TEXTS) for config_ in (trained, given)]
    np.testing.assert_array_equal(*rows)


def test_siglips_rows_are_padded_with_the_eos_and_end_in_one_when_cut(tmp_path):
    config_ = SentencePieceFile(path=str(model_file(tmp_path)), vocab=300, length=6, pad_id=1)
    rows = Tokenizer(config_.build(lambda: []), config_)(["a", "two green squares left of a star"])
    assert (rows[:, -1] == 1).all() and (rows[0, 1:] == 1).sum() >= 3


def test_a_model_file_with_a_start_mark_and_without_an_end(tmp_path):
    config_ = SentencePieceFile(path=str(model_file(tmp_path)), vocab=300, length=6, bos_id=2, eos="never")
    tokenizer = Tokenizer(config_.build(lambda: []), config_)
    rows = tokenizer(["a"])
    assert rows[0, 0] == 2 and 1 not in rows
    assert tokenizer.decode(rows) == ["a"]


def test_model_files_that_do_not_fit_are_refused(tmp_path):
    missing = SentencePieceFile(path=str(tmp_path / "gone.model"), vocab=300)
    with pytest.raises(
        ValueError, match="gone.model: No such file.*; give the path of a SentencePiece model"
    ):
        missing.build(lambda: [])
    path = str(model_file(tmp_path))
    small, other = SentencePieceFile(path=path, vocab=100), SentencePieceFile(path=path, vocab=300, eos_id=2)
    for config_ in (small, other):
        with pytest.raises(ValueError, match="or set tokenizer.vocab and tokenizer.eos_id"):
            Tokenizer(config_.build(lambda: []), config_)


def test_a_saved_tokenizer_is_the_same_from_its_workdir_alone(tmp_path):
    path = model_file(tmp_path)
    configs = [
        Bytes(length=9, punctuation=False),
        SentencePiece(vocab=300, length=9),
        SentencePieceFile(path=str(path), vocab=300, length=9, pad_id=1),
    ]
    for number, config_ in enumerate(configs):
        folder = tmp_path / str(number)
        folder.mkdir()
        tokenizer = Tokenizer(config_.build(lambda: TEXTS), config_)
        (folder / tokenizers.FILE).write_bytes(tokenizer.model)
        path.unlink(missing_ok=True) if number == 2 else None
        loaded = tokenizers.load(folder, config.from_json(config.to_json(config_)))
        for copy in (loaded, pickle.loads(pickle.dumps(loaded))):
            np.testing.assert_array_equal(copy(TEXTS), tokenizer(TEXTS))
            assert copy.config == config_ and copy.vocab == tokenizer.vocab


def test_the_canonical_form_is_that_of_siglip():
    # Worked out by hand from the rule: `_` is a space, ASCII punctuation goes, spaces are single.
    pairs = [
        ("A Photo of a DOG.", "a photo of a dog"),
        ("it's-a  me!\tMario", "itsa me mario"),
        ("snake_case (x)", "snake case x"),
        ("«Ünï» — 1,000.5", "«ünï» — 10005"),
    ]
    for text, expected in pairs:
        assert clean(text, lower=True, punctuation=False) == expected
    assert bare("A_b.") == "A b" and clean("A_b.", lower=True, punctuation=True) == "a_b."
    assert clean("A_b.", lower=False, punctuation=True) == "A_b."


def test_canonical_texts_have_equal_rows():
    tokenizer = Tokenizer(b"", Bytes(length=30, punctuation=False))
    rows = tokenizer(["A dog, running!", "a dog running", "a_dog  running"])
    np.testing.assert_array_equal(rows, np.broadcast_to(rows[:1], rows.shape))


def test_htmls_escapes_are_undone_twice_for_clip():
    assert repaired(" a &amp;amp; b\n&lt;c&gt; ", ftfy=False) == "a & b <c>"
