r"""A classifier of your own pictures, one folder a class, from any run with an image tower.

    python -m mmjax.main --config=configs/finetune_folder.py --workdir=runs/mine --data=photos/ \
        init_from=runs/quickstart

Two tenths of the pictures validate, or a folder `val` beside `train`.
"""

from mmjax.data import colour
from mmjax.data.geometry import Flip, RandomResizedCrop
from mmjax.data.pipeline import Data
from mmjax.data.sources.folder import Folder
from mmjax.evals.classified import Classified
from mmjax.finetune import Backbone, Classify
from mmjax.finetune.loss import Regular
from mmjax.optim import Optim


def get_config(init_from: str = "runs/quickstart", size: int = 48, steps: int = 300):
    train, val = (
        Folder(path="photos", split=split, val_share=0.2, side=2 * size) for split in ("train", "val")
    )
    return Classify(
        init_from=init_from,
        tower=Backbone(frozen_steps=steps // 10),
        regular=Regular(smoothing=0.1),
        data=Data(
            train=train,
            batch_size=32,
            geometry=(RandomResizedCrop(size=size, area=(0.6, 1.0)), Flip(prob=0.5)),
        ),
        colour=(colour.Jitter(prob=0.5),),
        steps=steps,
        optim=Optim(lr=5e-4, warmup_steps=steps // 10, weight_decay=0.05, layer_decay=0.8),
        evals={"val": Classified(name="photos_val", source=val, classes=train, every_steps=steps // 3)},
        log_every=10,
    )
