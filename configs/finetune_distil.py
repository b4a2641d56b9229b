"""A student with a quarter of the parameters, which learns the emoji of configs/emoji.py beside its teacher.

    python -m mmjax.main --config=configs/finetune_distil.py:teacher=runs/quickstart --workdir=runs/student

At most 15 minutes on two CPU cores. `alone` trains the same student without the teacher, for comparison.
"""

import dataclasses

from configs import emoji
from mmjax.finetune import Contrast
from mmjax.finetune.backbone import Backbone
from mmjax.objectives.distilled import DistilledInfoNCE
from mmjax.objectives.infonce import InfoNCE
from mmjax.towers.conv import ConvNet
from mmjax.towers.text import BagOfPieces


def get_config(teacher: str = "runs/quickstart", alone: bool = False, steps: int = 2_400, seed: int = 0):
    base = emoji.get_config(steps=steps, seed=seed, every_steps=0)
    towers = {
        "image": ConvNet(widths=(24, 48, 64), hidden=128, embed=128),
        "text": BagOfPieces(vocab=emoji.VOCAB, width=30, embed=128),
    }
    infonce = InfoNCE(initial_scale=14.0)
    # The slopes of a softmax are larger by its scale; these weights make up for it.
    distilled = DistilledInfoNCE(
        infonce=infonce, share=0.5, teacher_scale=None, embedding=10.0, affinity=10.0
    )
    if alone:
        return dataclasses.replace(base, towers=towers, objective=infonce, optim=_optim(base))
    return Contrast(
        teacher=teacher,
        towers={name: Backbone(module=tower) for name, tower in towers.items()},
        objective=distilled,
        data=base.data,
        colour=base.colour,
        steps=steps,
        optim=_optim(base),
        checkpoint=base.checkpoint,
        evals=base.evals,
        log_every=base.log_every,
        seed=seed,
    )


def _optim(base):
    return dataclasses.replace(base.optim, lr=3e-3)
