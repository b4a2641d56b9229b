"""Probes for a run of `small`: pictures of a few classes, and as many examples as do not divide."""

import dataclasses

import numpy as np

from mmjax.data import BadExample
from mmjax.evals.few_shot import FewShot
from mmjax.evals.linear_probe import LinearProbe
from mmjax.evals.nearest import KNearest
from mmjax.evaluation import Evaluate

_DAMAGED = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shades:
    """Noisy gray pictures; a class is how bright they are. One cannot be decoded, its class is known."""

    first: int
    size: int
    licence: str = ""

    def prepare(self) -> None:
        pass

    @property
    def names(self) -> dict[int, str]:
        return {0: "dark", 1: "gray", 2: "bright"}

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict:
        if index == _DAMAGED:
            raise BadExample("undecodable", f"picture {index}")
        noise = np.random.default_rng(self.first + index).integers(0, 100, (8, 8, 3))
        return {"image": (noise + 70 * (index % 3)).astype(np.uint8), **self.texts(index)}

    def texts(self, index: int) -> dict:
        return {"text": (self.names[index % 3],), "id": index % 3}


def get_config() -> Evaluate:
    train, val, test = (Shades(first=1_000 * i, size=size) for i, size in enumerate((37, 11, 23)))
    return Evaluate(
        evals={
            "linear": LinearProbe(name="shades", train=train, val=val, source=test, l2=(1e-2, 1e-3, 1e-4)),
            "few": FewShot(name="shades", train=train, source=test, shots=(1, 3), draws=2),
            "nearest": KNearest(name="shades", train=train, source=test, k=5),
        }
    )
