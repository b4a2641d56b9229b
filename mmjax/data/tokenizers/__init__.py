"""Tokenizers: texts to rows of ids, and back.

A **tokenizer config** is one frozen dataclass in one file of this folder, or anywhere: it says how a row
looks and makes a `Codec` of the contents of one file. That file and `config.json` lie in the workdir, so that
they travel with the weights. `docs/data.md` shows how to add one.

A row is `bos_id` where there is one, the ids of the text, the EOS by the rule `eos`, then `pad_id` up to
`length`. A text too long for it loses pieces by the rule `truncate`, and the row no mark.

Letters: N texts, S positions.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, get_args

import numpy as np

Eos = Literal["always", "if_room", "never"]
"""Which rows have the EOS: all, at the cost of a last piece where a text is too long; those with room left
after the text; none."""

Truncate = Literal["end", "start"]
"""Where a text that is too long loses its pieces."""

FILE = "tokenizer.model"  # in the workdir, whatever the tokenizer


class Codec(Protocol):
    """Texts to ids without marks; safe to call from several threads."""

    vocab: int  # number of ids, marks included

    def encode(self, texts: Sequence[str]) -> list[list[int]]: ...

    def decode(self, ids: list[int]) -> str: ...


class TokenizerConfig(Protocol):
    """A frozen dataclass with these fields, or properties, and whatever else it needs."""

    vocab: int  # most ids: what the embedding table of a text tower needs
    length: int  # positions of a row, marks included
    pad_id: int
    eos_id: int
    bos_id: int | None
    eos: Eos
    truncate: Truncate

    def build(self, captions: Callable[[], list[str]]) -> bytes:
        """The contents of the tokenizer's file, at the first start of a run.

        Args:
            captions: reads captions of the training data, for a tokenizer that learns from them.

        Raises:
            ValueError: it cannot be made, or read from where the config says.
        """

    def codec(self, model: bytes) -> Codec:
        """Of the contents that `build` gave.

        Raises:
            ValueError: they are damaged, or of another config.
        """


class Tokenizer:
    """Encodes and decodes; safe to share between threads and to pickle."""

    def __init__(self, model: bytes, config: TokenizerConfig):
        """Raises ValueError where `model`, the contents of the tokenizer's file, is not of this config."""
        self.model, self.config = bytes(model), config
        self._codec = config.codec(self.model)

    def __reduce__(self):
        return Tokenizer, (self.model, self.config)

    @property
    def vocab(self) -> int:
        """Number of ids: what the embedding table of a text tower needs."""
        return self._codec.vocab

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Token ids of the texts, int32 [N, length]."""
        config = self.config
        tokens_NS = np.full((len(texts), config.length), config.pad_id, np.int32)
        for row, ids in zip(tokens_NS, self._encode(texts), strict=True):
            ids = ids[: self._room] if config.truncate == "end" else ids[-self._room :]
            if config.bos_id is not None:
                ids = [config.bos_id, *ids]
            if config.eos != "never" and len(ids) < config.length:
                ids = [*ids, config.eos_id]
            row[: len(ids)] = ids
        return tokens_NS

    def decode(self, tokens_NS: np.ndarray) -> list[str]:
        """Texts of rows of ids, each up to its first EOS; what cleaning took away does not come back."""
        return [self._codec.decode(self._bare(np.asarray(row).tolist())) for row in tokens_NS]

    def truncated(self, texts: Sequence[str]) -> float:
        """Share of the texts, in [0, 1], that lose pieces to `length`; 0 for no texts."""
        cut = [len(ids) > self._room for ids in self._encode(texts)]
        return sum(cut) / max(len(cut), 1)

    @property
    def _room(self) -> int:
        """Most ids of a text in a row."""
        marks = (self.config.bos_id is not None) + (self.config.eos == "always")
        return self.config.length - marks

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        if isinstance(texts, str):
            raise ValueError(f"a tokenizer wants a sequence of texts, got the one text {texts!r}; use [text]")
        return self._codec.encode(texts)

    def _bare(self, ids: list[int]) -> list[int]:
        config = self.config
        if config.bos_id is not None and ids[:1] == [config.bos_id]:
            ids = ids[1:]
        if config.eos != "never" and config.eos_id in ids:
            return ids[: ids.index(config.eos_id)]
        while ids and ids[-1] == config.pad_id:
            ids = ids[:-1]
        return ids


def load(folder: pathlib.Path, config: TokenizerConfig) -> Tokenizer:
    """The tokenizer whose file was saved in a workdir.

    Raises:
        ValueError: the file is not there, damaged, or not of this config; names it.
    """
    path = folder / FILE
    try:
        return Tokenizer(path.read_bytes(), config)
    except FileNotFoundError:
        raise ValueError(f"{path} is not there; copy it from where it was made") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read(path: str, wanted: str) -> bytes:
    """The contents of a tokenizer's file that a config names.

    Raises:
        ValueError: it is not there; says what is `wanted`.
    """
    try:
        return pathlib.Path(path).expanduser().read_bytes()
    except OSError as error:
        raise ValueError(f"tokenizer.path={path}: {error.strerror}; give the path of {wanted}") from error


def check_row(config: TokenizerConfig) -> None:
    """Raises ValueError for a row without room, or with marks that are no ids of the vocabulary."""
    marks = 1 + (config.bos_id is not None)
    if config.length <= marks:
        raise ValueError(
            f"length={config.length} leaves no room for a piece beside the marks; use {marks + 1} or more"
        )
    for name, value, rule in (("eos", config.eos, Eos), ("truncate", config.truncate, Truncate)):
        if value not in get_args(rule):
            raise ValueError(f"{name}={value!r} must be one of {', '.join(get_args(rule))}")
    for name in ("pad_id", "eos_id", "bos_id"):
        id_ = getattr(config, name)
        if id_ is not None and not 0 <= id_ < config.vocab:
            raise ValueError(f"{name}={id_} must lie in [0, vocab={config.vocab})")
