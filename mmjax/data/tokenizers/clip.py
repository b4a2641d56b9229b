"""CLIP's byte pair encoding: Radford et al. 2021, arXiv:2103.00020, section 2.4; Sennrich et al. 2016,
arXiv:1508.07909.

The vocabulary is the file `bpe_simple_vocab_16e6.txt.gz`, which the package open_clip_torch and published
checkpoints carry. A text is cut into words, numbers one digit at a time, and runs of other signs; each is
spelt in UTF-8 bytes, and neighbours are joined in the order of the file's lines.
"""

import dataclasses
import functools
import gzip
import importlib.util
import pathlib
import re
import sys
import unicodedata
import zlib
from collections.abc import Callable, Sequence

from mmjax.data.tokenizers import Eos, Truncate, check_row, read
from mmjax.data.tokenizers.cleaning import clean, repaired

VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
_MERGES = 48_894  # lines of the file that are used, after the first; the file is longer
_START, _END = 49_406, 49_407
_CACHED_WORDS = 100_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipBpe:
    """CLIP's vocabulary of 49,408 ids."""

    path: str | None = None  # of the vocabulary's file; None takes that of the installed open_clip
    length: int = 77  # positions of a row, both marks included
    pad_id: int = 0
    eos: Eos = "always"
    truncate: Truncate = "end"
    lower: bool = True
    punctuation: bool = True  # False takes it away; with `lower` that is SigLIP's canonical form
    ftfy: bool = True  # mend texts with the package ftfy, as those were that published weights have seen

    def __post_init__(self):
        check_row(self)

    @property
    def vocab(self) -> int:
        return _END + 1

    @property
    def bos_id(self) -> int:
        return _START

    @property
    def eos_id(self) -> int:
        return _END

    def build(self, captions: Callable[[], list[str]]) -> bytes:
        return read(self.path or _installed(), VOCABULARY)

    def codec(self, model: bytes) -> "_Bpe":
        return _Bpe(model, self)


class _Bpe:
    """A `Codec`: ids 0-255 are bytes, 256-511 bytes that end a word, then one id a merge, then two marks."""

    def __init__(self, vocabulary: bytes, config: ClipBpe):
        self._config = config
        self.vocab = config.vocab
        order, signs = _alphabet()
        self._id_of_byte = {byte: id_ for id_, byte in enumerate(order)}
        id_of = {piece: id_ for id_, piece in enumerate([*signs, *(f"{sign}</w>" for sign in signs)])}
        self._text = [bytes([byte]) for byte in order] + [bytes([byte]) + b" " for byte in order]
        # The joined piece's id is also its rank: lines come in the order in which pieces are joined.
        self._joined: dict[tuple[int, int], int] = {}
        for left, right in _merges(vocabulary):
            id_of[left + right] = self._joined[id_of[left], id_of[right]] = len(self._text)
            self._text.append(self._text[id_of[left]] + self._text[id_of[right]])
        self._word = functools.lru_cache(_CACHED_WORDS)(self._spelt)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        config, words = self._config, _words()
        cleaned = [
            clean(repaired(text, ftfy=config.ftfy), lower=config.lower, punctuation=config.punctuation)
            for text in texts
        ]
        return [[id_ for word in words.findall(text) for id_ in self._word(word)] for text in cleaned]

    def decode(self, ids: list[int]) -> str:
        pieces = b"".join(self._text[id_] for id_ in ids if id_ < _START)
        return pieces.decode("utf-8", "replace").strip()

    def _spelt(self, word: str) -> tuple[int, ...]:
        ids = [self._id_of_byte[byte] for byte in word.encode("utf-8", "replace")]
        ids[-1] += 256
        while len(ids) > 1:
            first = min(self._joined.get(pair, _START) for pair in zip(ids, ids[1:], strict=False))
            if first == _START:
                break
            ids = self._join(ids, first)
        return tuple(ids)

    def _join(self, ids: list[int], joined: int) -> list[int]:
        """`ids` with every pair that makes `joined` replaced by it, from the left."""
        out = []
        for id_ in ids:
            if out and self._joined.get((out[-1], id_)) == joined:
                out[-1] = joined
            else:
                out.append(id_)
        return out


def _alphabet() -> tuple[list[int], list[str]]:
    """All bytes in the order of their ids, and the sign that stands for each in the vocabulary's file.

    Bytes that print stand for themselves and come first; the others are signs from 256 on.
    """
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return printed + others, [chr(byte) for byte in printed] + [chr(256 + i) for i in range(len(others))]


def _merges(vocabulary: bytes) -> list[tuple[str, str]]:
    remedy = f"copy {VOCABULARY} from open_clip_torch or from a checkpoint"
    try:
        lines = gzip.decompress(vocabulary).decode("utf-8").split("\n")[1 : _MERGES + 1]
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise ValueError(
            f"the vocabulary of {len(vocabulary)} bytes is damaged ({error}); {remedy}"
        ) from error
    merges = [tuple(line.split()) for line in lines]
    if len(merges) < _MERGES or any(len(merge) != 2 for merge in merges):
        raise ValueError(f"the vocabulary is not CLIP's: it wants {_MERGES} pairs; {remedy}")
    return merges


@functools.cache
def _words() -> re.Pattern[str]:
    """What a text is cut by: endings of English, words, digits, runs of all else, white space left out."""
    # Unicode's numbers: `\d` lacks the likes of Roman ones, and `\w` takes them for letters. Letters that are
    # newer than this Python's tables count as other signs.
    every = (chr(code) for code in range(sys.maxunicode + 1))
    number = "".join(letter for letter in every if unicodedata.category(letter)[0] == "N")
    letter = rf"(?:(?![{number}])[^\W_])"
    # As words of a text those two are no marks: `_spelt` spells them. open_clip makes marks of them.
    return re.compile(
        rf"'s|'t|'re|'ve|'m|'ll|'d|{letter}+|[{number}]|(?:(?!{letter}|[{number}])\S)+", re.IGNORECASE
    )


def _installed() -> str:
    """Path of the vocabulary within the installed open_clip, which is not imported."""
    spec = importlib.util.find_spec("open_clip")
    path = pathlib.Path(spec.origin or "").with_name(VOCABULARY) if spec else None
    if path is None or not path.is_file():
        raise ValueError(
            f"tokenizer.path=None, and no open_clip is installed; give the path of {VOCABULARY}, which "
            "open_clip_torch and published checkpoints carry"
        )
    return str(path)
