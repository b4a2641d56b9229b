"""Data: what a source of examples is, and what a batch of them looks like.

A **source** is one frozen dataclass in one file of `mmjax/data/sources/`; a config imports and builds it.
`docs/data.md` shows how to add one.
"""

from typing import Any, Protocol

Batch = dict[str, Any]
"""One global batch: `image` uint8 [B, H, W, C] with C = 3, or 4 with an alpha channel; `text` int32
[B, S], padded token ids; `id` int32 [B], equal for examples that show the same thing."""


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
            id: int in [0, 2**31), equal for examples that show the same thing (a concept, a class).
        """

    @property
    def names(self) -> dict[int, str]:
        """Name of every `id` that occurs in this source; empty where examples have no class."""

    @property
    def licence(self) -> str:
        """What the report says of the origin and licence of the data; empty for generated data."""
