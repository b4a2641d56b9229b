r"""A classifier of your own pictures, one folder a class, from any run with an image tower.

    python -m mmjax.main --config=configs/finetune_folder.py:init_from=runs/quickstart --workdir=runs/mine \
        --data=photos/

Two tenths of the pictures validate, or a folder `val` beside `train`. `size` is that of the checkpoint's
pictures. `layer_decay=0.75` slows each layer of the tower by so much more than the one above it, and
`mixup=0.2` mixes pictures.
"""

from typing import Literal

from mmjax.data import colour
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

Tunes = Literal["full", "lora", "adapter", "tokens", "border", "bias", "head", "pruned"]
Heads = Literal["linear", "prompts", "learned", "attentive"]
TUNES = {
    "full": Full(),
    "lora": Lora(pattern="kernel$"),
    "adapter": Extend(extras=(Adapters(width=16),)),
    "tokens": Extend(extras=(Tokens(count=8),)),  # of a ViT
    "border": Extend(extras=(Border(width=4),)),
    "bias": Part(pattern="bias$"),
    "head": Part(),
    "pruned": Pruned(share=0.5),
}
RATES = {
    "full": 5e-4,
    "lora": 2e-3,
    "adapter": 2e-3,
    "tokens": 1e-2,
    "border": 1e-2,
    "bias": 3e-3,
    "head": 1e-2,
    "pruned": 5e-4,
}
HEADS = {
    "linear": heads.Linear(),
    "prompts": heads.Prompted(templates=("a photo of a {}", "{}")),
    "learned": Prompts(length=4),  # with tune=head: prompt learning
    "attentive": heads.Attentive(heads=4),
}


def get_config(
    init_from: str = "runs/quickstart",
    tune: Tunes = "full",
    head: Heads = "linear",
    keep_head: bool = False,
    layer_decay: float | None = None,
    mixup: float = 0.0,
    size: int = 48,
    steps: int = 300,
):
    splits = (
        Folder(path="photos", split=split, val_share=0.2, side=2 * size, strict=True)
        for split in ("train", "val")
    )
    train, val = splits
    return Classify(
        init_from=init_from,
        towers={"image": Backbone(tune=TUNES[tune], frozen_steps=steps // 10)},
        tasks={"class": Task(head=HEADS[head], keep_head=keep_head, smoothing=0.1)},
        mixup=mixup,
        data=Data(
            train=train,
            batch_size=32,
            geometry=(RandomResizedCrop(size=size, area=(0.6, 1.0)), Flip(prob=0.5)),
        ),
        colour=(colour.Jitter(prob=0.5),),
        steps=steps,
        optim=Optim(
            lr=RATES[tune],
            warmup_steps=steps // 10,
            # Learned prompts alone have nothing that decays.
            weight_decay=0.0 if (tune, head) == ("head", "learned") else 0.05,
            layer_decay=layer_decay,
        ),
        evals={"val": Classified(name="photos_val", source=val, classes=train, every_steps=steps // 3)},
        log_every=10,
    )
