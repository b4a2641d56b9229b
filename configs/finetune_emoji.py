"""A run of configs/emoji.py, or its quickstart, gone on with at another resolution, for a few steps.

    python -m mmjax.main --config=configs/finetune_emoji.py:init_from=runs/quickstart --workdir=runs/larger

Convolutions are for any size, but for the layer that sees the last grid whole, which begins anew. Towers with
learned positions (configs/emoji_vit.py) have these resized: `fresh=none`.
"""

import dataclasses

from configs import emoji
from mmjax.data.geometry import Affine
from mmjax.finetune import Contrast
from mmjax.finetune.adapt import Adapt
from mmjax.finetune.backbone import Backbone
from mmjax.optim import Muon, Optim


def get_config(
    init_from: str = "runs/quickstart",
    size: int = 64,
    fresh: str = "^image/hidden/",
    steps: int = 300,
    seed: int = 0,
):
    base = emoji.get_config(seed=seed, every_steps=0)
    _, *others = base.data.geometry
    return Contrast(
        init_from=init_from,
        towers={
            "image": Backbone(adapt=Adapt(fresh=None if fresh == "none" else fresh)),
            "text": Backbone(),
        },
        data=dataclasses.replace(base.data, geometry=(Affine(size=size, filter="bilinear"), *others)),
        colour=base.colour,
        steps=steps,
        optim=Optim(rule=Muon(), lr=1e-3, warmup_steps=steps // 20, weight_decay=0.1),
        checkpoint=base.checkpoint,
        evals=base.evals,
        log_every=10,
        seed=seed,
    )
