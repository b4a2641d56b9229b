"""A finished pretraining run that never trained, and contrastive finetunes of it that compile in seconds."""

import dataclasses
import pathlib

import jax
import numpy as np

from mmjax import config, sharding
from mmjax.checkpoint import Checkpointing, Checkpoints
from mmjax.contrastive.step import init_state
from mmjax.data import tokenizers
from mmjax.data.geometry import Preprocess, Resize
from mmjax.data.pipeline import Data
from mmjax.data.sources.scenes import Scenes
from mmjax.data.tokenizers.utf8 import Bytes
from mmjax.finetune import Contrast, mixing
from mmjax.finetune.contrast_setup import set_up
from mmjax.objectives.infonce import InfoNCE
from mmjax.optim import Optim
from mmjax.pretrain import Pretrain
from mmjax.sharding import MeshShape
from mmjax.towers.conv import ConvNet
from mmjax.towers.text import BagOfPieces

SIZE, ROWS, EMBED = 16, 16, 8
TOKENIZER = Bytes(length=12)
STEP = 10


def image(**fields):
    return ConvNet(**dict(widths=(8,), depth=0, stride=8, hidden=16, embed=EMBED) | fields)


def text(**fields):
    return BagOfPieces(**dict(vocab=TOKENIZER.vocab, width=8, embed=EMBED) | fields)


def data(size=SIZE):
    return Data(
        train=Scenes(split="train", px=2 * SIZE, size=64), batch_size=ROWS, geometry=(Resize(size=size),)
    )


def pretraining(**fields):
    given = dict(
        towers={"image": image(), "text": text()},
        objective=InfoNCE(initial_scale=20.0),
        data=data(),
        preprocess=Preprocess(size=SIZE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)),
        tokenizer=TOKENIZER,
        steps=STEP,
    )
    return Pretrain(**given | fields)


def drawn(cfg, seed):
    """Parameters that no initialiser gives."""
    params = drawn_like(jax.eval_shape(lambda: init_state(cfg, ROWS))["params"], seed)
    return params | {"objective": {"log_scale": np.float32(np.log(7))}}


def drawn_like(shapes, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: np.asarray(rng.normal(0, 0.3, x.shape), np.float32), shapes)


def finished(workdir: pathlib.Path, *, seed=0, beside=None, **fields) -> pathlib.Path:
    """The workdir of a run that ended with drawn weights, written by eight devices along `data`.

    `beside` is what its state has beside the weights.
    """
    cfg = pretraining(**fields)
    state = {"params": drawn(cfg, seed), **(beside or {"opt_state": np.float32(0)})}
    mesh = sharding.make_mesh(MeshShape())
    saves = Checkpoints(workdir / "checkpoints", Checkpointing())
    saves.save(STEP, jax.device_put(state, sharding.shardings(mesh, state)), {"next_index": 0})
    saves.wait()
    saves.close()
    (workdir / "config.json").write_text(config.to_json(cfg))
    (workdir / tokenizers.FILE).write_bytes(b"")
    return workdir


def ended(workdir: pathlib.Path, cfg, *, seed=1) -> pathlib.Path:
    """The workdir of a contrastive finetune that ended with drawn weights."""
    setup = set_up(cfg)
    trained = jax.device_put(drawn_like(setup.state["params"], seed), sharding.replicated(setup.mesh))
    mixing.write(workdir, setup.cfg, setup.vocabulary.tokenizer(), cfg.steps, trained, {})
    return workdir


def contrast(workdir, **fields):
    given = dict(data=data(), steps=10, optim=Optim(lr=0.01), log_every=1)
    return Contrast(init_from=str(workdir), **given | fields)


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (ROWS, SIZE, SIZE, 3), dtype=np.uint8),
        "text": rng.integers(2, 256, (ROWS, TOKENIZER.length), dtype=np.int32),
        "id": np.arange(ROWS, dtype=np.int32),
    }


def begun(cfg):
    """(setup, step compiled as `step(state, batch)`, the state that training begins with, what is fixed)."""
    setup = set_up(cfg)
    layout = sharding.shardings(setup.mesh, setup.state)
    with jax.set_mesh(setup.mesh):
        fixed = setup.read_fixed()
        state = setup.first_state(layout, *fixed)
        jitted = jax.jit(setup.step(), out_shardings=(layout, sharding.replicated(setup.mesh)))

    def step(state, rows):
        with jax.set_mesh(setup.mesh):
            return jitted(state, sharding.put_batch(setup.mesh, rows), *fixed)

    return setup, step, state, fixed


def with_data(cfg, **fields):
    return dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, **fields))
