"""CLIP's byte pair encoding: worked examples on a made-up vocabulary, and open_clip's own on the real one."""

import gzip
import importlib.util
import itertools
import pathlib
import pickle
import random
import sys
import unicodedata

import numpy as np
import pytest

from mmjax.data.tokenizers import Tokenizer
from mmjax.data.tokenizers.clip import VOCABULARY, ClipBpe

START, END, MERGED = 49_406, 49_407, 512
# Lines of the made-up vocabulary that texts below use; the others join signs that no text has.
MERGES = ["h e", "l l", "he ll", "hell o</w>", "o n", "o n</w>", "1 9", "é ?"]
CONFIG = ClipBpe(length=12, ftfy=False)


def signs():
    """The vocabulary file's sign for every byte, by byte: Python's own escape of what does not print."""
    printed = [byte for byte in range(256) if chr(byte).isprintable() and not chr(byte).isspace()]
    printed.remove(0xAD) if 0xAD in printed else None
    others = (chr(256 + i) for i in itertools.count())
    return {byte: chr(byte) if byte in printed else next(others) for byte in range(256)}


def vocabulary(lines=48_894):
    rare = [sign for byte, sign in signs().items() if byte < 32 or byte >= 0xC0]
    filler = (" ".join(pair) for pair in itertools.product(rare, signs().values()))
    words = [*MERGES[:7], *itertools.islice(filler, lines - 7)]
    if len(words) < lines:
        more = (f"{a} {b}</w>" for a, b in itertools.product(signs().values(), repeat=2) if a in rare)
        words += itertools.islice(more, lines - len(words))
    return gzip.compress("\n".join(["#version", *words, "", ""]).encode())


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(vocabulary(), CONFIG)


def byte(letter, last=False):
    """Id of an ASCII letter: printed bytes come first, from `!` on; those that end a word 256 later."""
    return ord(letter) - ord("!") + 256 * last


def row(*ids):
    return [START, *ids, END] + [0] * (10 - len(ids))


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        # Joined in the order of the lines: h e, then l l, then he ll, then hell o</w>.
        ("hello", [MERGED + 3]),
        ("  HELLO\n hello ", [MERGED + 3] * 2),
        ("hellon", [MERGED + 2, MERGED + 5]),
        ("onon", [MERGED + 4, MERGED + 5]),
        # Digits stand alone, so that 1 9 never meets; endings of English are words.
        ("19", [byte("1", True), byte("9", True)]),
        ("he's", [byte("h"), byte("e", True), byte("'"), byte("s", True)]),
        ("a,!b", [byte("a", True), byte(","), byte("!", True), byte("b", True)]),
        ("a_b", [byte("a", True), byte("_", True), byte("b", True)]),
        ("&lt;a", [byte("<", True), byte("a", True)]),
        ("", []),
    ],
)
def test_words_are_joined_in_the_order_of_the_lines(tokenizer, text, ids):
    np.testing.assert_array_equal(tokenizer([text])[0], row(*ids))


def test_a_long_text_ends_in_the_end_mark(tokenizer):
    found = tokenizer(["hello " * 50])[0]
    np.testing.assert_array_equal(found, [START, *[MERGED + 3] * 10, END])
    assert tokenizer.truncated(["hello " * 10, "hello " * 11]) == 0.5


@pytest.mark.parametrize("text", ["hello on 1 9", "日本語 🙂", "straße ½ é", "a megabyte " * 3])
def test_decoding_gives_the_words_back(text):
    long = Tokenizer(vocabulary(), ClipBpe(length=77, ftfy=False))
    assert long.decode(long([text])) == [text.strip()]


def test_a_copy_reads_alike_and_ids_are_of_the_vocabulary(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    np.testing.assert_array_equal(copy(["hello on"]), tokenizer(["hello on"]))
    assert tokenizer.vocab == 49_408 and tokenizer(["hello"]).max() < 49_408


@pytest.mark.parametrize("damage", [b"", b"no gzip", vocabulary()[:1000], vocabulary(lines=900)])
def test_a_damaged_vocabulary_is_one_line(damage):
    with pytest.raises(ValueError, match=f"copy {VOCABULARY} from open_clip_torch") as error:
        Tokenizer(damage, CONFIG)
    assert "\n" not in str(error.value)


def test_a_vocabulary_is_read_from_its_path_or_from_open_clip(tmp_path, monkeypatch):
    (tmp_path / "mine.gz").write_bytes(b"contents")
    assert ClipBpe(path=str(tmp_path / "mine.gz")).build(list) == b"contents"
    with pytest.raises(ValueError, match=f"gone.gz: No such file.*; give the path of {VOCABULARY}"):
        ClipBpe(path=str(tmp_path / "gone.gz")).build(list)
    package = tmp_path / "open_clip"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('was imported')")
    (package / VOCABULARY).write_bytes(b"theirs")
    monkeypatch.syspath_prepend(tmp_path)
    assert ClipBpe().build(list) == b"theirs"
    (package / VOCABULARY).unlink()
    with pytest.raises(ValueError, match="no open_clip is installed; give the path"):
        ClipBpe().build(list)


def test_a_missing_ftfy_is_one_line_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(ValueError, match=r"pip install ftfy, or set tokenizer\.ftfy=False"):
        Tokenizer(vocabulary(), ClipBpe())(["a"])


WORDS = [
    *(
        "a photo of the dog's I'll we’re don't it's-a 3rd 1998 x² C++ foo_bar … “quoted” &amp; &lt;b&gt;"
    ).split(),
    *("naïve Straße ﬁsh ＡＢＣ e\u0301 ſ'S 日本語 一二三 ٣٤ Ⅻ ⅷ ½ ㊿ 🙂👍🏽 Москва नमस्ते العربية Ã©").split(),
]


def odd_texts(count):
    """Words of many scripts, and letters from all over Unicode as far as this Python knows it."""
    rng = random.Random(0)
    known = [chr(code) for code in range(32, 0xD800) if unicodedata.category(chr(code)) != "Cn"]
    for _ in range(count):
        words = [
            rng.choice(WORDS) if rng.random() < 0.8 else "".join(rng.choices(known, k=rng.randint(1, 6)))
            for _ in range(rng.randint(0, 50))
        ]
        yield rng.choice([" ", "", " , "]).join(words)


@pytest.mark.oracle
@pytest.mark.parametrize("punctuation", [True, False])
def test_a_thousand_texts_are_read_as_open_clip_reads_them(punctuation):
    for name in ("torch", "ftfy", "regex"):
        pytest.importorskip(name)
    spec = importlib.util.find_spec("open_clip")
    if spec is None:
        pytest.skip("open_clip is not installed")
    # Its tokenizer alone: the package imports torchvision, which not every machine can.
    own = importlib.util.spec_from_file_location(
        "theirs", pathlib.Path(spec.origin).with_name("tokenizer.py")
    )
    theirs = importlib.util.module_from_spec(own)
    own.loader.exec_module(theirs)
    config = ClipBpe(punctuation=punctuation)
    ours, texts = Tokenizer(config.build(list), config), list(odd_texts(1_000))
    read = theirs.SimpleTokenizer(clean="lower" if punctuation else "canonicalize")
    np.testing.assert_array_equal(ours(texts), read(texts).numpy())
