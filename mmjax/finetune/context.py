"""Prompt learning: a head whose classifier is a text tower that reads learned vectors before a class's name.

Zhou et al. 2022, arXiv:2109.01134 (CoOp), section 3.2.1, with one context for all classes. Text tower and
scale are those of the checkpoint and stay as they are: the run's checkpoints hold the context alone.

Letters: B batch, C classes, S positions, E embedding.
"""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mmjax.data.tokenizers import Tokenizer, TokenizerConfig
from mmjax.finetune.heads import Prompted
from mmjax.finetune.trees import pick
from mmjax.model import unit
from mmjax.optim.paths import map_paths
from mmjax.towers import Encoded
from mmjax.towers.extended import Extended
from mmjax.towers.prompts import Context

SCALE = "log_scale"  # of the objective, and of the head


class Prompts(nn.Module):
    """Logits as zero-shot classification gives them, of prompts that begin with `length` learned vectors."""

    classes: int = 0
    length: int = 4
    template: str = "{}"  # what follows the vectors; {} is a class's name
    # Taken from the checkpoint: its text tower with a context, and a row of ids a class with room for it.
    text: Extended | None = None
    rows: tuple[tuple[int, ...], ...] = ()

    @nn.compact
    def __call__(self, encoded: Encoded, lengths_B=None, *, train: bool = False):
        z_CE = unit(self.text.apply({"params": self.param("text", self._init_text)}, self._rows).embedding_BE)
        # What it starts at never counts: the checkpoint's takes its place.
        log_scale = self.param(SCALE, nn.initializers.zeros, ())
        return jnp.exp(log_scale) * unit(encoded.embedding_BE) @ z_CE.T

    def fixed(self, params):
        """All of its parameters but the context."""
        return pick(params, map_paths(lambda path, _: path != "text/context", params))

    def _init_text(self, key):
        return self.text.init(key, self._rows)["params"]

    @property
    def _rows(self):
        return jnp.asarray(self.rows, jnp.int32)


def merged(head: Prompts) -> Prompted:
    """A head that says the same without the text tower."""
    return Prompted(classes=head.classes, templates=(head.template,))


def merged_params(head: Prompts, params):
    """Its parameters, of what those of the learned one are."""
    rows = jnp.asarray(head.rows, jnp.int32)
    z_CE = unit(head.text.apply({"params": params["text"]}, rows).embedding_BE)
    kernel_EC = jnp.exp(params[SCALE]) * z_CE.T
    return {"logits": {"kernel": kernel_EC, "bias": jnp.zeros(head.classes)}}


def rows_with_room(tokenizer: Tokenizer, context: Context, prompts: list[str]) -> np.ndarray:
    """Int32 [C, S]: ids of the prompts, with some piece where the context comes; none loses pieces to it.

    Raises:
        ValueError: a prompt is too long.
    """
    config: TokenizerConfig = tokenizer.config
    room = config.length - context.length
    try:
        shorter = Tokenizer(tokenizer.model, dataclasses.replace(config, length=room))
        cut = [prompt for prompt in prompts if shorter.truncated([prompt])]
    except ValueError:
        cut = prompts
    if cut:
        raise ValueError(
            f"head.length={context.length} leaves too few of the tokenizer's {config.length} positions for "
            f"{cut[0]!r}; use a shorter context"
        )
    marks = (config.pad_id, config.eos_id, config.bos_id)
    piece = next(id_ for id_ in itertools.count() if id_ not in marks)
    return np.insert(shorter(prompts), [context.first] * context.length, piece, axis=1)
