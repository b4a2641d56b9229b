"""Decoded pictures kept in memory, as far as they fit: they cost more to decode than all else together."""

import threading
from collections.abc import Callable

import numpy as np


class Kept:
    """Pictures by number, until `most_bytes` are full; those that come later are decoded every time."""

    def __init__(self, most_bytes: int):
        self._left = most_bytes
        self._pictures: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def picture(self, number: int, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """The picture, not writeable."""
        found = self._pictures.get(number)
        if found is not None:
            return found
        decoded = decode()
        decoded.flags.writeable = False
        with self._lock:
            if number not in self._pictures and decoded.nbytes <= self._left:
                self._pictures[number] = decoded
                self._left -= decoded.nbytes
        return decoded
