"""A config of configs/ cut down to one step of a few examples: towers and all that feeds them stay."""

import dataclasses
import pathlib

import numpy as np

from mmjax import config
from mmjax.data.sources.scenes import Scenes

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
EXAMPLES = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawings:
    """Transparent noise with a name and keywords, in place of drawings that would have to be fetched."""

    px: int = 64

    def prepare(self) -> None:
        pass

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> dict:
        image = np.random.default_rng(index).integers(0, 256, (self.px, self.px, 4), np.uint8)
        return {"image": image, "text": (self.names[index], "thing", "noise", f"number {index}"), "id": index}

    @property
    def names(self) -> dict[int, str]:
        return {index: f"drawing {'abcdefgh'[index]}" for index in range(EXAMPLES)}

    @property
    def licence(self) -> str:
        return ""


def get_config(name: str, run: str | None = None):
    """A config that needs a finished run starts from `run`, or has it as its teacher."""
    cfg = config.load(str(CONFIGS / f"{name}.py"))
    if run is not None:
        cfg = dataclasses.replace(cfg, **{"init_from" if cfg.init_from else "teacher": run})
    if isinstance(cfg.data.train, Scenes):
        train = dataclasses.replace(cfg.data.train, size=EXAMPLES)
    else:
        train = Drawings()
    return dataclasses.replace(
        cfg,
        data=dataclasses.replace(cfg.data, train=train, batch_size=EXAMPLES),
        steps=1,
        # One rate, so that what differs in nothing else is compiled once.
        optim=dataclasses.replace(cfg.optim, warmup_steps=0, lr=1e-3),
        evals={},
        log_every=1,
    )
