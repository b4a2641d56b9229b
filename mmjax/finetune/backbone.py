"""A tower of a checkpoint, and what becomes of it in a finetune."""

import dataclasses

from flax import linen as nn

from mmjax.data.tokenizers import TokenizerConfig
from mmjax.finetune.adapt import Adapt
from mmjax.finetune.tune import Full, Tune
from mmjax.towers.extended import Extended


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backbone:
    """What of a tower is trained, and what may differ from the checkpoint."""

    tune: Tune = Full()
    frozen_steps: int = 0  # first steps that leave the tower as it is
    adapt: Adapt = Adapt()
    module: nn.Module | Extended | None = None  # None: as the checkpoint's run has it
    tokenizer: TokenizerConfig | None = None  # of texts; None: as the checkpoint's run has it

    def __post_init__(self):
        if self.frozen_steps < 0:
            raise ValueError(f"frozen_steps={self.frozen_steps} must be 0 or more")
