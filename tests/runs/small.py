"""A run of seconds in which all is random that can be, so that what a resume forgets shows in the loss."""

import dataclasses
import os
import pathlib
import signal
import time

from configs import debug
from mmjax.checkpoint import Checkpointing
from mmjax.data import Source, colour
from mmjax.data.geometry import Affine, Flip
from mmjax.data.pipeline import Data
from mmjax.data.sources.scenes import Scenes
from mmjax.evals import Embed, Report
from mmjax.evals.retrieval import Retrieval
from mmjax.pretrain import Pretrain
from mmjax.towers.conv import ConvNet
from mmjax.towers.text import BagOfPieces

STEPS = 48
TEST = Scenes(split="test", px=debug.SIZE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fuse:
    """An evaluator that kills its process once a checkpoint is on disk, as long as there is a file `path`."""

    path: str
    checkpoint: str
    name: str = "fuse"
    source: Source = TEST
    every_steps: int = 0

    def prepare(self) -> None:
        pass

    def __call__(self, embed: Embed) -> Report:
        if pathlib.Path(self.path).exists():
            while not pathlib.Path(self.checkpoint).exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return Report({})


def get_config(fuse: str | None = None, checkpoint: str | None = None, steps: int = STEPS) -> Pretrain:
    """`fuse`: burns in the evaluation after step 16, when `checkpoint` is there."""
    burning = {"fuse": Fuse(path=fuse, checkpoint=checkpoint, every_steps=16)} if fuse else {}
    test = Retrieval(name="scenes_test", source=TEST, every_steps=16, limit=16)
    return dataclasses.replace(
        debug.get_config(),
        towers={
            "image": ConvNet(widths=(8,), depth=0, hidden=32, embed=16, dropout=0.2),
            "text": BagOfPieces(vocab=debug.VOCAB, width=32, embed=16),
        },
        # Epochs of 16 steps: the order of the examples changes on the way.
        data=Data(
            train=Scenes(split="train", px=debug.SIZE, size=256),
            batch_size=16,
            geometry=(Affine(size=debug.SIZE), Flip(prob=0.5)),
        ),
        colour=(colour.ColourDrop(prob=0.5),),
        steps=steps,
        checkpoint=Checkpointing(every_steps=4, every_minutes=None),
        evals={**burning, "test": test},
    )
