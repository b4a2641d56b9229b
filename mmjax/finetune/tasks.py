"""What is asked of every example: a task has one head, one set of classes and one loss.

Letters: B batch, C classes.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mmjax.data import Source, labels
from mmjax.data.labels import Labels, OneClass
from mmjax.finetune import heads, loss
from mmjax.finetune.loss import Balance


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One question about an example, and how its answer is learned."""

    head: nn.Module = heads.Linear()
    keep_head: bool = False  # begins with the head of this task in the finetune that `init_from` names
    labels: Labels = OneClass()
    weight: float = 1.0  # of its loss among those of all tasks
    # Share of the target that goes to all classes alike (Szegedy et al. 2016, arXiv:1512.00567).
    smoothing: float = 0.0
    balance: Balance = "none"  # how rare classes weigh more

    def __post_init__(self):
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight={self.weight} of a task's loss must be positive")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing={self.smoothing} is a share; use a value in [0, 1)")

    def resolved(self, name: str, source: Source) -> "Task":
        """With the classes of the training data, which are prepared.

        Raises:
            ValueError: the head has another number of classes.
        """
        found = self.labels.resolved(source)
        if self.head.classes not in (0, len(found.names)):
            raise ValueError(
                f"tasks.{name}.head.classes={self.head.classes}, but there are {len(found.names)} classes "
                f"({', '.join(found.names[:8])}); leave it 0"
            )
        return dataclasses.replace(self, labels=found, head=self.head.clone(classes=len(found.names)))

    def class_weights(self, source: Source) -> np.ndarray:
        """Float32 [C]: what an example of each class weighs.

        Raises:
            ValueError: a class has no training example.
        """
        count_C = labels.counted(self.labels, source)
        missing = [name for name, count in zip(self.labels.names, count_C, strict=True) if not count]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(count_C)} classes have no training example: "
                f"{', '.join(missing[:5])}; add examples, or leave these classes out of labels.names and of "
                "the data"
            )
        return loss.class_weights(self.balance, count_C)

    def loss(self, logits_BC, target_BC, weight_C):
        """The mean over the batch."""
        entropy = loss.binary_cross_entropy if self.labels.several else loss.cross_entropy
        return entropy(logits_BC, target_BC, weight_C, smoothing=self.smoothing)

    def accuracy(self, logits_BC, target_BC):
        """The share of right answers; where an example may be of several classes, of right yes and no."""
        if self.labels.several:
            right = (logits_BC > 0) == (target_BC > 0)
        else:
            right = logits_BC.argmax(axis=1) == target_BC.argmax(axis=1)
        return jnp.mean(right.astype(jnp.float32))
