"""What clip art is filed under, of its picture, of its title, or of both.

    python -m mmjax.main --config=configs/finetune_openclipart.py:towers=both --workdir=runs/clip_both

The first text of a drawing is its title. Its keywords, most of which name the folder, are shown to nobody.
"""

from typing import Literal

from configs.finetune_folder import RATES, TUNES, Tunes
from mmjax.data import colour
from mmjax.data.geometry import Affine, Flip
from mmjax.data.pipeline import Data
from mmjax.data.sources.openclipart import Openclipart
from mmjax.evals.classified import Classified
from mmjax.finetune import Backbone, Classify, Task, heads
from mmjax.finetune.fusion import Concat, CrossAttention, Gated, Mean, Only, Weighted
from mmjax.optim import Optim

Towers = Literal["image", "text", "both"]
Fusions = Literal["concat", "mean", "weighted", "gated", "cross"]
TOWERS = {"image": ("image",), "text": ("text",), "both": ("image", "text")}
FUSIONS = {
    "concat": Concat(),
    "mean": Mean(),
    "weighted": Weighted(),
    "gated": Gated(),
    "cross": CrossAttention(dropout=0.1),
}


def get_config(
    init_from: str = "runs/quickstart",
    towers: Towers = "both",
    fusion: Fusions = "concat",
    tune: Tunes = "full",
    size: int = 48,
    steps: int = 400,
    seed: int = 0,
):
    train = Openclipart(split="train", by="folder")
    return Classify(
        init_from=init_from,
        towers={modality: Backbone(tune=TUNES[tune]) for modality in TOWERS[towers]},
        fusion=FUSIONS[fusion] if towers == "both" else Only(),
        tasks={"class": Task(head=heads.Linear(dropout=0.1), smoothing=0.1)},
        data=Data(
            train=train,
            batch_size=128,
            geometry=(Affine(size=size, filter="bilinear"), Flip(prob=0.3)),
            seed=seed,
        ),
        colour=(colour.Jitter(prob=0.5),),
        steps=steps,
        optim=Optim(lr=RATES[tune], warmup_steps=steps // 20, weight_decay=0.05),
        evals={
            split: Classified(
                name=f"openclipart_{split}",
                source=Openclipart(split=split, by="folder"),
                classes=train,
                every_steps=every_steps,
            )
            for split, every_steps in (("val", steps // 2), ("test", 0))
        },
        seed=seed,
    )
