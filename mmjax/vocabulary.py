"""The tokenizer of a run: made at its first start, read from its workdir ever after."""

import logging
import pathlib

import jax
from jax.experimental import multihost_utils

from mmjax import metrics, workdir
from mmjax.data import pipeline, tokenizers
from mmjax.data.pipeline import Data
from mmjax.data.tokenizers import Tokenizer, TokenizerConfig

log = logging.getLogger("mmjax")

# Enough captions for a vocabulary of tens of thousands, and seconds to read.
_CAPTIONS = 20_000


def of_run(directory: pathlib.Path, config: TokenizerConfig, data: Data, seed: int) -> Tokenizer:
    """The workdir's tokenizer; at first it is made, and the log says how many captions it cuts.

    Raises:
        ValueError: it cannot be made, or its file is damaged.
    """
    path = directory / tokenizers.FILE
    if not path.is_file() and jax.process_index() == 0:
        with metrics.phase("making the tokenizer"):
            texts = pipeline.captions(data, limit=_CAPTIONS, seed=seed)
            tokenizer = Tokenizer(config.build(lambda: texts), config)
            share = tokenizer.truncated(texts)
        log.info("tokenizer: %.1f %% of the captions are cut at %d tokens", 100 * share, config.length)
        workdir.write(path, tokenizer.model)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("tokenizer")
    return tokenizers.load(directory, config)
