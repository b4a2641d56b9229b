"""Labelled pictures whose embedding is known: a picture's pixels are the number of its row in a table."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Points:
    """Rows `begin` to `end` of a table, as a source."""

    table: "Table"
    begin: int
    end: int
    licence = ""

    def prepare(self):
        pass

    def __len__(self):
        return self.end - self.begin

    def __getitem__(self, index):
        row = self.begin + index
        image = np.zeros((2, 2, 3), np.uint8)
        image[:] = row >> 16, row >> 8 & 255, row & 255
        id = int(self.table.label_N[row])
        return {"image": image, "text": (self.names[id],), "id": id}

    @property
    def names(self):
        return {c: f"class {c}" for c in range(self.table.classes)}


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Unit-norm embeddings around the direction of their class, and their labels."""

    z_NE: np.ndarray
    label_N: np.ndarray
    classes: int

    def source(self, begin, end):
        return Points(self, begin, end)

    @property
    def embed(self):
        def image(pictures):
            rows = [
                picture[0, 0].astype(int) @ (1 << 16, 1 << 8, 1) for picture in pictures[0 : len(pictures)]
            ]
            return self.z_NE[rows]

        return {"image": image}


def table(seed, n, *, classes=5, width=16, noise=1.0):
    random = np.random.default_rng(seed)
    centre_CE = random.normal(size=(classes, width))
    label_N = np.arange(n) % classes
    z_NE = centre_CE[label_N] + noise * random.normal(size=(n, width))
    z_NE = (z_NE / np.linalg.norm(z_NE, axis=1, keepdims=True)).astype(np.float32)
    return Table(z_NE, label_N, classes)
