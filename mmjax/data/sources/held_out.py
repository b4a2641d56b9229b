"""Which examples validate where a data set has no split of its own: a stable share of them, by hash."""

import hashlib


def held_out(key: str, share: float) -> bool:
    """Whether the example of this name is of the share that is not trained on, on every machine alike."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64
