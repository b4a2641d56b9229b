"""SentencePiece: a model trained on the captions of a run, or a model file of your own.

Kudo and Richardson 2018, arXiv:1808.06226; the unigram model of Kudo 2018, arXiv:1804.10959, and the byte
pair encoding of Sennrich et al. 2016, arXiv:1508.07909.
"""

import dataclasses
import io
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import sentencepiece

from mmjax.data.tokenizers import Eos, Truncate, check_row, read
from mmjax.data.tokenizers.cleaning import clean


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentencePiece:
    """A vocabulary learned from the training captions when a run starts first."""

    # Unigram takes pieces that several words share: it spells a language of a hundred words in scraps.
    model: Literal["unigram", "bpe"] = "unigram"
    vocab: int = 2_000  # most pieces, the marks and 256 byte pieces included; few texts make fewer
    length: int = 16  # positions of a row, EOS included
    pad_id: int = 0
    eos_id: int = 1
    unk_id: int = 2  # only ever seen without byte_fallback
    eos: Eos = "always"
    truncate: Truncate = "end"
    lower: bool = True  # texts are lower-cased in training and in use
    punctuation: bool = True  # False takes it away; with `lower` that is SigLIP's canonical form
    byte_fallback: bool = True  # a letter without a piece is spelt in UTF-8 bytes instead of `unk_id`

    def __post_init__(self):
        check_row(self)
        if not 0 <= self.unk_id < self.vocab:
            raise ValueError(f"unk_id={self.unk_id} must lie in [0, vocab={self.vocab})")

    @property
    def bos_id(self) -> None:
        return None

    def build(self, captions: Callable[[], list[str]]) -> bytes:
        return train(captions(), self)

    def codec(self, model: bytes) -> "_Pieces":
        return _Pieces(model, self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentencePieceFile:
    """A model file that you have, such as Gemma's or C4's; published weights want theirs, and its marks.

    SigLIP (C4's 32,000 pieces) pads with its EOS, `pad_id=1`; SigLIP 2 (Gemma's 256,000) with 0. Both have
    rows of 64 and lower case.
    """

    path: str  # of the model; a copy goes into the workdir, which is all that is read later
    vocab: int  # most pieces
    length: int = 64  # positions of a row, marks included
    pad_id: int = 0
    eos_id: int = 1
    bos_id: int | None = None
    eos: Eos = "always"
    truncate: Truncate = "end"
    lower: bool = True
    punctuation: bool = True  # False takes it away; with `lower` that is SigLIP's canonical form

    def __post_init__(self):
        check_row(self)

    def build(self, captions: Callable[[], list[str]]) -> bytes:
        return read(self.path, "a SentencePiece model")

    def codec(self, model: bytes) -> "_Pieces":
        return _Pieces(model, self)


class _Pieces:
    """A `Codec` of one SentencePiece model."""

    def __init__(self, model: bytes, config: SentencePiece | SentencePieceFile):
        self._config = config
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            # The library takes zero bytes for a model of zero pieces, and complains only in use.
            loaded = bool(model) and self._pieces.LoadFromSerializedProto(model)
        except RuntimeError:
            loaded = False
        if not loaded:
            raise ValueError(
                f"the tokenizer model of {len(model)} bytes is damaged or no SentencePiece model; "
                "copy the file from where it was made"
            )
        self.vocab = self._pieces.vocab_size()
        # A model that marks no end itself may be given one.
        if self._pieces.eos_id() not in (config.eos_id, -1) or self.vocab > config.vocab:
            raise ValueError(
                f"the tokenizer model has {self.vocab} pieces and EOS {self._pieces.eos_id()}, the config "
                f"wants at most {config.vocab} and EOS {config.eos_id}; use this config's model, or set "
                "tokenizer.vocab and tokenizer.eos_id"
            )

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        # One thread: the readers that call this are threads already.
        return self._pieces.encode([_clean(text, self._config) for text in texts], num_threads=1)

    def decode(self, ids: list[int]) -> str:
        return self._pieces.decode(ids)


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


def _clean(text: str, config: SentencePiece | SentencePieceFile) -> str:
    # Unicode form (NFKC) and white space are normalised by the model itself.
    return clean(text, lower=config.lower, punctuation=config.punctuation)
