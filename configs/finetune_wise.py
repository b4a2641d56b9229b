"""WiSE-FT: the models between a zero-shot model and what finetuning made of it.

    python -m mmjax.main --config=configs/finetune_wise.py:tuned=runs/mine --workdir=runs/wise

`runs/mine` is a finetune of all parameters whose head began with prompts, or a contrastive one. Its
evaluators judge, and the first of them once more on corrupted pictures: the report has the curve of the one
metric against the other, and the per cent of the way in place of the step.
"""

from mmjax.finetune.wise import Wise


def get_config(tuned: str = "runs/mine", keep: float = 0.5):
    return Wise(tuned=tuned, keep=keep)
