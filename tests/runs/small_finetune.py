"""A finetune of seconds in which all is random that can be, on a folder of classes that a test makes."""

from mmjax.checkpoint import Checkpointing
from mmjax.data.colour import Invert
from mmjax.data.geometry import Flip, RandomResizedCrop
from mmjax.data.pipeline import Data
from mmjax.data.sources.folder import Folder
from mmjax.evals.classified import Classified
from mmjax.finetune import Backbone, Classify, Task, heads
from mmjax.finetune.context import Prompts
from mmjax.finetune.tune import Extend, Full, Lora, Part, Pruned
from mmjax.optim import Optim
from mmjax.towers.extended import Adapters
from mmjax.towers.prompts import Border, Tokens

STEPS, SIZE = 12, 32
TUNES = {
    "full": Full(),
    "lora": Lora(),
    "adapter": Extend(extras=(Adapters(width=4), Tokens(count=2, deep=True), Border(width=2))),
    "bias": Part(pattern="bias$"),
    "head": Part(),
    "pruned": Pruned(share=0.6, over_steps=8),
}
HEADS = {
    "linear": heads.Linear(),
    "prompted": heads.Prompted(),
    "learned": Prompts(length=2),
    "attentive": heads.Attentive(heads=2),
}


def get_config(
    init_from: str,
    data: str,
    tune: str = "full",
    head: str = "linear",
    size: int = SIZE,
    towers: str = "image",
    mixup: float = 0.2,
    keep_head: bool = False,
):
    train, val = (Folder(path=data, split=split, val_share=0.3, side=64) for split in ("train", "val"))
    return Classify(
        init_from=init_from,
        towers={name: Backbone(tune=TUNES[tune], frozen_steps=2) for name in towers.split("+")},
        tasks={"class": Task(head=HEADS[head], keep_head=keep_head, smoothing=0.1, balance="root")},
        mixup=mixup,
        data=Data(
            train=train,
            batch_size=16,
            geometry=(RandomResizedCrop(size=size, area=(0.5, 1.0)), Flip(prob=0.5)),
        ),
        colour=(Invert(prob=0.2),),
        steps=STEPS,
        optim=Optim(lr=1e-3),
        checkpoint=Checkpointing(every_steps=3, every_minutes=None),
        evals={"val": Classified(name="val", source=val, classes=train, every_steps=4)},
        log_every=1,
    )
