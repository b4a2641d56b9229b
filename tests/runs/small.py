"""A run of seconds in which all is random that can be, so that what a resume forgets shows in the loss."""

import dataclasses
import pathlib
import time
from typing import ClassVar

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

STEPS = 24
TEST = Scenes(split="test", px=debug.SIZE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gate:
    """An evaluator that lets nobody pass as long as there is a file `path`."""

    path: str
    every_steps: int
    name: str = "gate"
    source: Source = TEST
    needs: ClassVar[tuple[str, ...]] = ()

    def prepare(self) -> None:
        pass

    def __call__(self, embed: Embed) -> Report:
        while pathlib.Path(self.path).exists():
            time.sleep(0.01)
        return Report({})


def get_config(gate: str | None = None, gate_every: int = 0) -> Pretrain:
    gates = {"gate": Gate(path=gate, every_steps=gate_every)} if gate else {}
    test = Retrieval(name="scenes_test", source=TEST, every_steps=8, limit=16)
    return dataclasses.replace(
        debug.get_config(),
        towers={
            "image": ConvNet(widths=(8,), depth=0, hidden=32, embed=16, dropout=0.2),
            "text": BagOfPieces(vocab=debug.VOCAB, width=32, embed=16),
        },
        # Epochs of 8 steps: the order of the examples changes on the way.
        data=Data(
            train=Scenes(split="train", px=debug.SIZE, size=128),
            batch_size=16,
            geometry=(Affine(size=debug.SIZE), Flip(prob=0.5)),
        ),
        colour=(colour.ColourDrop(prob=0.5),),
        steps=STEPS,
        checkpoint=Checkpointing(every_steps=4, every_minutes=None),
        evals={**gates, "test": test},
    )
