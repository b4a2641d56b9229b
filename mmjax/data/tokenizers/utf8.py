"""UTF-8 bytes as ids: no vocabulary, no file to keep, any language.

As ByT5: Xue et al. 2021, arXiv:2105.13626.
"""

import dataclasses
from collections.abc import Callable, Sequence

from mmjax.data.tokenizers import Eos, Truncate, check_row
from mmjax.data.tokenizers.cleaning import clean

_MARKS = 3  # ids before those of the bytes: padding, EOS, and one that is never used, as in ByT5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bytes:
    """Byte b of a text is id b + 3."""

    length: int = 64  # positions of a row, EOS included
    pad_id: int = 0
    eos_id: int = 1
    eos: Eos = "always"
    truncate: Truncate = "end"
    lower: bool = True
    punctuation: bool = True  # False takes it away; with `lower` that is SigLIP's canonical form

    def __post_init__(self):
        check_row(self)
        if max(self.pad_id, self.eos_id) >= _MARKS:
            raise ValueError(
                f"pad_id={self.pad_id} and eos_id={self.eos_id} must be below {_MARKS}, where bytes begin"
            )

    @property
    def vocab(self) -> int:
        return _MARKS + 256

    @property
    def bos_id(self) -> None:
        return None

    def build(self, captions: Callable[[], list[str]]) -> bytes:
        return b""

    def codec(self, model: bytes) -> "_Bytes":
        if model:
            raise ValueError(f"bytes need no model, got one of {len(model)} bytes; it is of another config")
        return _Bytes(self)


class _Bytes:
    """A `Codec`."""

    def __init__(self, config: Bytes):
        self.vocab = config.vocab
        self._config = config

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        config = self._config
        cleaned = (clean(text, lower=config.lower, punctuation=config.punctuation) for text in texts)
        return [[byte + _MARKS for byte in text.encode("utf-8", "replace")] for text in cleaned]

    def decode(self, ids: list[int]) -> str:
        # A row may end in half a letter.
        return bytes(id_ - _MARKS for id_ in ids if id_ >= _MARKS).decode("utf-8", "ignore")
