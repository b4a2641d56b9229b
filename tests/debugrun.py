"""The parts of a debug run, made once for all tests that look at them."""

import functools

import jax

from configs import debug
from mmjax.contrastive.step import init_state
from mmjax.data.tokenizers import Tokenizer
from mmjax.data.tokenizers.sentencepiece import train


@functools.cache
def config():
    return debug.get_config()


@functools.cache
def tokenizer():
    cfg = config()
    return Tokenizer(train([cfg.data.train.caption(i) for i in range(200)], cfg.tokenizer), cfg.tokenizer)


@functools.cache
def state():
    """The state that training begins with, as NumPy arrays."""
    return jax.device_get(jax.jit(lambda: init_state(config(), 8))())
