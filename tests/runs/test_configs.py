"""Every file of configs/ builds, survives JSON and takes a step."""

import dataclasses
import math

import numpy as np
import pytest
from commands import ROOT, lines

from mmjax import config
from mmjax.data.sources.scenes import Scenes
from mmjax.sharding import MeshShape

FILES = sorted(path for path in (ROOT / "configs").glob("*.py") if path.name != "__init__.py")
BATCH = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawings:
    """Blobs with transparency, named, and with keywords: in place of drawings that have to be fetched."""

    px: int = 64

    def prepare(self) -> None:
        pass

    def __len__(self) -> int:
        return 2 * BATCH

    def __getitem__(self, index: int) -> dict:
        image = np.random.default_rng(index).integers(0, 256, (self.px, self.px, 4), np.uint8)
        return {"image": image, "text": (self.names[index], "thing", "blob", f"number {index}"), "id": index}

    @property
    def names(self) -> dict[int, str]:
        return {index: f"drawing {'abcdefghijklmnop'[index]}" for index in range(len(self))}

    @property
    def licence(self) -> str:
        return ""


def debug_size(cfg):
    """One step of a few examples, and no evaluation; the towers and all that feeds them stay."""
    scenes = isinstance(cfg.data.train, Scenes)
    train = dataclasses.replace(cfg.data.train, size=2 * BATCH) if scenes else Drawings()
    return dataclasses.replace(
        cfg,
        data=dataclasses.replace(cfg.data, train=train, batch_size=BATCH),
        steps=1,
        optim=dataclasses.replace(cfg.optim, warmup_steps=0),
        evals={},
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_config_builds_survives_json_and_takes_a_step(file, tmp_path):
    cfg = config.load(str(file))
    assert config.from_json(config.to_json(cfg), packages=config.packages(cfg)) == cfg
    assert cfg.mesh == MeshShape() and cfg.evals
    debug_size(cfg).run(tmp_path / "run")
    (line,) = lines(tmp_path / "run")
    # Embeddings of an untrained model say little: about log(batch) of InfoNCE, nothing like it is a mistake.
    assert line["step"] == 1 and math.isfinite(line["train/loss"])
