"""A finetune of seconds in which a picture is of any number of classes, each with a threshold of its own."""

from mmjax.data.geometry import Resize
from mmjax.data.labels import Several
from mmjax.data.pipeline import Data
from mmjax.data.sources.folder import Folder
from mmjax.evals.classified import Classified
from mmjax.finetune import Classify, Task
from mmjax.optim import Optim

LABELS = Several(names=("black", "red", "square", "pole"), thresholds=(0.05, 0.2, 0.4, 0.8))


def get_config(init_from: str, data: str):
    train, val = (
        Folder(path=data, split=split, val_share=0.4, captions=("tags",)) for split in ("train", "val")
    )
    return Classify(
        init_from=init_from,
        tasks={"tags": Task(labels=LABELS, balance="root")},
        data=Data(train=train, batch_size=16, geometry=(Resize(size=32),)),
        steps=12,
        optim=Optim(lr=1e-2),
        evals={"val": Classified(name="val", source=val, task="tags", labels=LABELS)},
        log_every=1,
    )
