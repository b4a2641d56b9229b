"""Runs of seconds on pictures, texts and sounds: towers for all three, and a classification that fuses them.

A sound is a row of codes, which alone tell what is asked.
"""

import dataclasses
from typing import Any

import numpy as np

from mmjax.data.fields import Field
from mmjax.data.geometry import Preprocess, Resize
from mmjax.data.pipeline import Data
from mmjax.data.tokenizers.utf8 import Bytes
from mmjax.evals.classified import Classified
from mmjax.finetune import Backbone, Classify, Task
from mmjax.finetune.fusion import Gated
from mmjax.objectives.infonce import InfoNCE
from mmjax.objectives.pairs import Pair, Views
from mmjax.optim import Optim
from mmjax.pretrain import Pretrain
from mmjax.towers.conv import ConvNet
from mmjax.towers.text import BagOfPieces

PX, CODES, EMBED = 8, 6, 8
NAMES = ("low", "middle", "high")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heard:
    """Noise as pictures and texts, and codes around the pitch that gives an example its class."""

    first: int
    size: int
    licence: str = ""

    def prepare(self) -> None:
        pass

    @property
    def names(self) -> dict[int, str]:
        return dict(enumerate(NAMES))

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng, pitch = np.random.default_rng(self.first + index), index % len(NAMES)
        return {
            "image": rng.integers(0, 256, (PX, PX, 3), dtype=np.uint8),
            "text": (f"take {rng.integers(10)}",),
            "sound": (1 + 10 * pitch + rng.integers(0, 10, CODES)).astype(np.int32),
            "id": pitch,
        }


def get_config(init_from: str | None = None):
    data = Data(
        train=Heard(first=0, size=240),
        batch_size=24,
        geometry=(Resize(size=PX),),
        fields={"sound": Field(shape=(CODES,), dtype="int32")},
    )
    if init_from is None:
        tokenizer = Bytes(length=8)
        return Pretrain(
            towers={
                "image": ConvNet(widths=(8,), depth=0, stride=4, hidden=16, embed=EMBED),
                "text": BagOfPieces(vocab=tokenizer.vocab, width=8, embed=EMBED),
                "sound": BagOfPieces(vocab=32, width=8, embed=EMBED),
            },
            objective=InfoNCE(views=Views(pairs=(Pair(), Pair(second="sound")))),
            data=data,
            preprocess=Preprocess(size=PX),
            tokenizer=tokenizer,
            steps=2,
        )
    return Classify(
        init_from=init_from,
        towers={name: Backbone() for name in ("image", "text", "sound")},
        fusion=Gated(width=16),
        tasks={"pitch": Task()},
        data=data,
        steps=60,
        optim=Optim(lr=1e-2),
        evals={"val": Classified(name="val", source=Heard(first=1_000, size=23), task="pitch")},
        log_every=10,
    )
