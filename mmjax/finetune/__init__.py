"""Finetuning what was pretrained: classification with one tower of a checkpoint or with several, and
contrastive finetuning, with a teacher or without.

**The checkpoint contract.** A finetune reads nothing but a workdir, and of it:

- `config.json`: the fields `towers`, `preprocess`, `tokenizer`, `objective` and `optim.ema` of a config of
  whatever class;
- `tokenizer.model`, where texts are classified or a head begins with the names of classes;
- `checkpoints/<step>/params`, or `best/<step>/params`; `ema` in its place where the run averaged its
  weights, since these are what it was evaluated with: the shapes of all parameters, and the values of those
  that are used, the towers'; where a head begins with names, or learns prompts, the text tower's and the
  objective's scale, too.

The optimizer state is never read. Parameters are laid out on the mesh that asks, whatever mesh wrote them.
The workdir of a finetune keeps the same contract, so that another may start from it, unless its checkpoints
hold only a part of a tower. Nothing here imports `mmjax.pretrain`.
"""

from mmjax.finetune.backbone import Backbone
from mmjax.finetune.classifier import Classifier
from mmjax.finetune.classify import Classify
from mmjax.finetune.contrast import Contrast
from mmjax.finetune.matching import Matching
from mmjax.finetune.tasks import Task

__all__ = ["Backbone", "Classifier", "Classify", "Contrast", "Matching", "Task"]
