"""Texts to padded token ids with SentencePiece, trained on the captions of a run.

Kudo and Richardson 2018, arXiv:1808.06226; the unigram model of Kudo 2018, arXiv:1804.10959, and the byte
pair encoding of Sennrich et al. 2016, arXiv:1508.07909.
Letters: N texts, S positions.
"""

import dataclasses
import io
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import sentencepiece


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentencePiece:
    """What turns a text into a row of ids; it belongs to the weights and is saved with them.

    A row is the pieces of the text, one `eos_id`, then `pad_id` up to `length`. A longer text loses its
    last pieces, never its EOS: a tower that pools there finds one in every row. There is no start mark.
    """

    # Unigram takes pieces that several words share: it spells a language of a hundred words in scraps.
    model: Literal["unigram", "bpe"] = "unigram"
    vocab: int = 2_000  # most pieces, the marks and 256 byte pieces included; few texts make fewer
    length: int = 16  # positions of a row, EOS included
    pad_id: int = 0
    eos_id: int = 1
    unk_id: int = 2  # only ever seen without byte_fallback
    lower: bool = True  # texts are lower-cased in training and in use
    byte_fallback: bool = True  # a letter without a piece is spelt in UTF-8 bytes instead of `unk_id`

    def __post_init__(self):
        if self.length < 2:
            raise ValueError(f"length={self.length} leaves no room for a piece and the EOS; use 2 or more")
        for name in ("pad_id", "eos_id", "unk_id"):
            if not 0 <= getattr(self, name) < self.vocab:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, vocab={self.vocab})")


def train(texts: Iterable[str], config: SentencePiece) -> bytes:
    """A SentencePiece model of these texts, as the bytes of its file.

    The same set of texts gives the same bytes, whatever their order and number of repeats.

    Raises:
        ValueError: no text has a letter, or `vocab` cannot hold the letters of these texts.
    """
    if len({config.pad_id, config.eos_id, config.unk_id}) < 3:
        raise ValueError(
            f"pad_id={config.pad_id}, eos_id={config.eos_id} and unk_id={config.unk_id} must differ to train"
        )
    unique = sorted({_clean(text, config) for text in texts if text.strip()})
    if not unique:
        raise ValueError("a tokenizer needs texts to train on, got none that has a letter")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(unique),
            model_writer=model,
            model_type=config.model,
            vocab_size=config.vocab,
            hard_vocab_limit=False,
            byte_fallback=config.byte_fallback,
            pad_id=config.pad_id,
            eos_id=config.eos_id,
            unk_id=config.unk_id,
            bos_id=-1,
            # In bytes. Longer texts would be left out without a word.
            max_sentence_length=max(len(text.encode()) for text in unique) + 1,
            # Several threads sum in a varying order, and the pieces would differ from run to run.
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        # The only failure a caller can mend, known by its text alone: "smaller than ... 100 vs 280."
        needed = re.search(r"Vocabulary size is smaller than required_chars\. \d+ vs (\d+)", str(error))
        if needed is None:
            raise
        raise ValueError(
            f"vocab={config.vocab} cannot hold the letters of these {len(unique)} texts; "
            f"use vocab={needed[1]} or more"
        ) from error
    return model.getvalue()


def load(path: pathlib.Path, config: SentencePiece) -> "Tokenizer":
    """The tokenizer whose model was saved at `path`.

    Raises:
        ValueError: the file is not there, damaged, or not of this config; names it.
    """
    try:
        return Tokenizer(path.read_bytes(), config)
    except FileNotFoundError:
        raise ValueError(f"{path} is not there; copy it from where it was trained") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


class Tokenizer:
    """Encodes and decodes with one trained model; safe to share between threads and to pickle."""

    def __init__(self, model: bytes, config: SentencePiece):
        """Loads the bytes of a SentencePiece model file.

        Raises:
            ValueError: the bytes are no SentencePiece model, or not one of this config.
        """
        self.model = bytes(model)
        self.config = config
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            # The library takes zero bytes for a model of zero pieces, and complains only in use.
            loaded = bool(self.model) and self._pieces.LoadFromSerializedProto(self.model)
        except RuntimeError:
            loaded = False
        if not loaded:
            raise ValueError(
                f"the tokenizer model of {len(self.model)} bytes is damaged or no SentencePiece model; "
                "copy tokenizer.model from where it was trained"
            )
        if self._pieces.eos_id() != config.eos_id or self.vocab > config.vocab:
            raise ValueError(
                f"the tokenizer model has {self.vocab} pieces and EOS {self._pieces.eos_id()}, the config "
                f"wants at most {config.vocab} and EOS {config.eos_id}; use this config's tokenizer.model"
            )

    def __reduce__(self):
        return Tokenizer, (self.model, self.config)

    @property
    def vocab(self) -> int:
        """Number of ids: what the embedding table of a text tower needs."""
        return self._pieces.vocab_size()

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Token ids of the texts, int32 [N, length]: pieces, EOS, padding (see `SentencePiece`)."""
        config = self.config
        tokens_NS = np.full((len(texts), config.length), config.pad_id, np.int32)
        for row, ids in zip(tokens_NS, self._encode(texts), strict=True):
            kept = ids[: config.length - 1]
            row[: len(kept)] = kept
            row[len(kept)] = config.eos_id
        return tokens_NS

    def decode(self, tokens_NS: np.ndarray) -> list[str]:
        """Texts of rows of ids, each read up to its first EOS; lower-casing and spacing do not come back."""
        rows = [np.asarray(row).tolist() for row in tokens_NS]
        ends = [row.index(self.config.eos_id) if self.config.eos_id in row else len(row) for row in rows]
        return [self._pieces.decode(row[:end]) for row, end in zip(rows, ends, strict=True)]

    def truncated(self, texts: Sequence[str]) -> float:
        """Share of the texts, in [0, 1], that lose pieces to `length`; 0 for no texts."""
        cut = [len(ids) > self.config.length - 1 for ids in self._encode(texts)]
        return sum(cut) / max(len(cut), 1)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        if isinstance(texts, str):
            raise ValueError(f"a tokenizer wants a sequence of texts, got the one text {texts!r}; use [text]")
        # One thread: the readers that call this are threads already.
        return self._pieces.encode([_clean(text, self.config) for text in texts], num_threads=1)


def _clean(text: str, config: SentencePiece) -> str:
    # Unicode form (NFKC) and white space are normalised by the model itself.
    return text.lower() if config.lower else text
