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

# Captions that are learned from: enough for a vocabulary of tens of thousands, and seconds to read.
_LEARNED_FROM = 20_000
# Captions that are counted at every start, in well under a second.
_COUNTED = 2_000


def of_run(directory: pathlib.Path, config: TokenizerConfig, data: Data, seed: int) -> Tokenizer:
    """The workdir's tokenizer, made where it is not there yet; the log says how many captions it cuts.

    Raises:
        ValueError: it cannot be made, or its file is damaged.
    """
    path, leads = directory / tokenizers.FILE, jax.process_index() == 0
    if leads and not path.is_file():
        with metrics.phase("making the tokenizer"):
            model = config.build(lambda: pipeline.captions(data, limit=_LEARNED_FROM, seed=seed))
            workdir.write(path, Tokenizer(model, config).model)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("tokenizer")
    tokenizer = tokenizers.load(directory, config)
    if leads:
        texts = pipeline.captions(data, limit=_COUNTED, seed=seed)
        said = 100 * tokenizer.truncated(texts), len(texts), config.truncate, config.length
        log.info("tokenizer: %.1f %% of %d training captions lose their %s to length=%d", *said)
    return tokenizer
