"""Data: what a source of examples is, and what a batch of them looks like.

A **source** is one frozen dataclass in one file of `mmjax/data/sources/`; a config imports and builds it.
`docs/adding.md` shows how to add one.
"""

from typing import Any, Literal, Protocol, get_args, runtime_checkable

Batch = dict[str, Any]
"""One global batch: `image` uint8 [B, H, W, C] with C = 3, or 4 with an alpha channel; `text` int32
[B, S], padded token ids; `id` int32 [B], equal for examples that show the same thing.

Where a config asks for it also: every array of `Data.fields` by its name; `hard_text` int32 [B, K, S] and
`present/hard_text` bool [B, K]; `present/<name>` bool [B] for what `Data.may_lack` names. What is not present
is blank."""


Reason = Literal[
    "missing", "undecodable", "truncated", "too_large", "no_caption", "long_caption", "other_field"
]
"""Why an example cannot be used; metrics count by it."""
REASONS: tuple[Reason, ...] = get_args(Reason)

_SAID: dict[Reason, str] = {
    "missing": "is not there",
    "undecodable": "could not be read as a picture",
    "truncated": "is a picture cut short",
    "too_large": "is a picture of too many pixels",
    "no_caption": "has no caption",
    "long_caption": "has a caption that is too long",
    "other_field": "is not as data.fields says",
}

MAX_CAPTION = 10_000  # characters; what is longer is no caption but some other file


class BadExample(ValueError):
    """An example of a source cannot be used: training replaces it, evaluators leave it out, both count it.

    `where` is what to look at: a file, or the number of a record.
    """

    def __init__(self, reason: Reason, where: str, detail: str = ""):
        super().__init__(f"{where} {_SAID[reason]}{f': {detail}' if detail else ''}")
        self.reason, self.where = reason, where


class Source(Protocol):
    """Random access to examples: data only, knows no model, no tokenizer and no process count."""

    def prepare(self) -> None:
        """Fetches and builds what is missing on this machine; returns at once where nothing is.

        Raises:
            ValueError: something is not there or damaged; the message says which and what to do.
        """

    def __len__(self) -> int:
        """Number of examples; fixed for the life of the source."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Example `index`, always the same, from any thread.

        Returns a dict of
            image: uint8 [H, W, C] array, C = 3 (RGB) or 4 (RGBA, straight alpha);
            text: tuple of strings, the name or main caption first, further captions or keywords after it;
            id: int in [0, 2**31), equal for examples that show the same thing (a concept, a class);
            kinds: where the texts come from several fields or are of several languages, one string for each
                that says so, such as `caption_de`; `captions.WeightedCaption` chooses by it;
            hard_text: where `Data.hard_texts` asks for it, texts that are wrong but nearly right, or ();
            further arrays under the names in `Data.fields`.
        What `Data.may_lack` names may be left out or None.

        Raises:
            BadExample: it cannot be read, now or ever.
        """

    @property
    def names(self) -> dict[int, str]:
        """Name of every `id` that occurs in this source; empty where examples have no class."""

    @property
    def licence(self) -> str:
        """What the report says of the origin and licence of the data; empty for generated data."""


@runtime_checkable
class HasTexts(Protocol):
    """A source that can give an example without its picture, where that costs something to decode."""

    def texts(self, index: int) -> dict[str, Any]:
        """`self[index]` without `image`."""


def texts(source: Source, index: int) -> dict[str, Any]:
    """Example `index` of a source, without its picture where that is cheaper."""
    return source.texts(index) if isinstance(source, HasTexts) else source[index]
