r"""Retrieval on your own pictures with texts, from any run with towers for both.

    python -m mmjax.main --config=configs/finetune_retrieval.py:init_from=runs/quickstart \
        --workdir=runs/album --data=photos/

`lock=image` trains the text tower alone (LiT: Zhai et al. 2022, arXiv:2111.07991), which costs no backward
pass of the other one; `loss=sigmoid` goes on with another objective, whose scale and bias begin anew; `size`
is that of the pictures, the checkpoint's or another.
"""

from typing import Literal

from mmjax.data import colour
from mmjax.data.captions import AnyCaption
from mmjax.data.geometry import Flip, RandomResizedCrop
from mmjax.data.pipeline import Data
from mmjax.data.sources.folder import Folder
from mmjax.evals.retrieval import Retrieval
from mmjax.finetune import Contrast
from mmjax.objectives.infonce import InfoNCE
from mmjax.objectives.sigmoid import Sigmoid
from mmjax.optim import Optim

OBJECTIVES = {"same": None, "infonce": InfoNCE(), "sigmoid": Sigmoid()}


def get_config(
    init_from: str = "runs/quickstart",
    lock: Literal["none", "image", "text"] = "none",
    loss: Literal["same", "infonce", "sigmoid"] = "same",
    size: int = 48,
    steps: int = 300,
):
    train, val = (Folder(path="photos", split=split, side=2 * size) for split in ("train", "val"))
    return Contrast(
        init_from=init_from,
        objective=OBJECTIVES[loss],
        data=Data(
            train=train,
            batch_size=32,
            geometry=(RandomResizedCrop(size=size, area=(0.6, 1.0)), Flip(prob=0.3)),
            captions=AnyCaption(),
        ),
        colour=(colour.Jitter(prob=0.5),),
        steps=steps,
        optim=Optim(
            lr=5e-4,
            warmup_steps=steps // 10,
            weight_decay=0.05,
            frozen=None if lock == "none" else f"^{lock}/",
        ),
        evals={"val": Retrieval(name="photos_val", source=val, every_steps=steps // 3)},
        log_every=10,
    )
