"""WiSE-FT: the models between a zero-shot classifier and what finetuning made of it, by its evaluators.

    python -m mmjax.main --config=configs/finetune_wise.py:tuned=runs/mine --workdir=runs/wise

`runs/mine` is a finetune of all parameters whose head began with prompts. The report has the per cent of the
way in place of the step.
"""

from mmjax.finetune.mixing import Wise


def get_config(tuned: str = "runs/mine", keep: float = 0.5):
    return Wise(tuned=tuned, keep=keep)
