"""Image-text matching on emoji: picture and name are read together, to put right what their embeddings found.

    python -m mmjax.main --config=configs/finetune_matching.py --workdir=runs/matching

The towers stay as they are, so that the candidates are those of the checkpoint; what is trained is the
fusion, on names that these towers take for the right ones.
"""

from configs.emoji import SIZE
from mmjax.data import colour
from mmjax.data.geometry import Affine, Flip
from mmjax.data.pipeline import Data
from mmjax.data.sources.emoji import Emoji
from mmjax.evals.matched import Matched
from mmjax.finetune import Backbone, Classify, Matching
from mmjax.finetune.fusion import CrossAttention
from mmjax.finetune.tune import Part
from mmjax.optim import Optim


def get_config(init_from: str = "runs/quickstart", steps: int = 600, seed: int = 0):
    return Classify(
        init_from=init_from,
        towers={modality: Backbone(tune=Part()) for modality in ("image", "text")},
        fusion=CrossAttention(width=128, depth=2, heads=4, dropout=0.1),
        tasks={"match": Matching()},
        data=Data(
            train=Emoji(split="train"),
            batch_size=128,
            geometry=(Affine(size=SIZE, filter="bilinear"), Flip(prob=0.3)),
            seed=seed,
        ),
        colour=(
            colour.ColourDrop(prob=0.15),
            colour.Outline(prob=0.2),
            colour.Jitter(prob=0.5),
            colour.Background(prob=0.15),
        ),
        steps=steps,
        optim=Optim(lr=1e-3, warmup_steps=steps // 20, weight_decay=0.05),
        evals={
            split: Matched(name=f"emoji_{split}", source=Emoji(split=split), limit=300)
            for split in ("val_style", "val_concept")
        },
        log_every=20,
        seed=seed,
    )
