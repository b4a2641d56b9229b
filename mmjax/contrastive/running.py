"""What a contrastive run needs around its step: checks, batches, the model that is evaluated, operations."""

from collections.abc import Collection, Mapping

import jax
from jax.sharding import Mesh

from mmjax import flops, sharding
from mmjax.contrastive import accumulation, modalities
from mmjax.contrastive.loss import loss
from mmjax.contrastive.step import First, first
from mmjax.data import pipeline
from mmjax.data.tokenizers import Tokenizer
from mmjax.model import Model, check_marks, check_vocab, encoders, relevance_maps


def check(cfg):
    """Raises ValueError for values of a config's fields that no contrastive run can have."""
    modalities.check(cfg)
    if cfg.accumulate < 1 or cfg.data.batch_size % cfg.accumulate:
        raise ValueError(
            f"accumulate={cfg.accumulate} does not divide data.batch_size={cfg.data.batch_size}; use "
            "one of its divisors"
        )


def shapes_of(cfg, mesh: Mesh, beside: Mapping[str, jax.ShapeDtypeStruct] | None = None) -> First:
    """What a run begins with if all is new, as shapes; `beside` as of `step.first`.

    Raises:
        ValueError: batches, pictures or texts do not fit the mesh or the towers.
    """
    sharding.check_batch(mesh, cfg.data.batch_size)
    if "image" in cfg.modules:
        pipeline.check_size(cfg.data, cfg.preprocess.size)
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(lambda: first(cfg, cfg.data.batch_size, beside))
    if "text" in cfg.modules:
        check_vocab(shapes.params["text"], cfg.tokenizer.vocab)
        check_marks(cfg.modules["text"], cfg.tokenizer)
    return shapes


def check_training(cfg, mesh: Mesh, params):
    """Raises ValueError where towers that are trained cannot be, on blanks or in micro-batches.

    Args:
        params: their parameters by modality, or the shapes.
    """
    modalities.check_statistics(cfg, params, sharding.batch_devices(mesh))
    accumulation.check(cfg, mesh, params)


def batch_shapes(cfg, mesh: Mesh):
    """What one global batch looks like; the channels of pictures are those of the training data."""
    channels = pipeline.channels(cfg.data) if "image" in cfg.modules else 3
    shapes = modalities.batch_shapes(cfg, cfg.data.batch_size, channels)
    return sharding.with_layout(shapes, dict.fromkeys(shapes, sharding.batch_sharding(mesh)))


def batches(cfg, tokenizer: Tokenizer | None, start: int) -> pipeline.Batches:
    """From so many steps on."""
    return pipeline.batches(
        cfg.data,
        tokenizer,
        modalities=cfg.modules,
        start=start * cfg.data.batch_size,
        process=jax.process_index(),
        processes=jax.process_count(),
    )


def make_model(cfg, tokenizer: Tokenizer | None, mesh: Mesh, params) -> Model:
    return Model(
        objective=cfg.objective,
        preprocessing=cfg.preprocess,
        tokenizer=tokenizer,
        params=params,
        encoders=encoders(cfg.modules, cfg.preprocess, mesh),
        maps=relevance_maps(cfg.modules, cfg.preprocess, mesh),
        mesh=mesh,
        config=cfg,
    )


def model_flops(cfg, params, batch, *, still: Collection[str]) -> int:
    """Operations of a step: forward, and twice as many backward for all but towers that are not trained.

    What `remat` computes again does not count (Chowdhery et al. 2022, arXiv:2204.02311, appendix B).

    Args:
        params, batch: or their shapes.
        still: modalities whose towers are not trained.
    """
    forward = flops.count(lambda p, b: loss(cfg, p, b, jax.random.key(0))[0], params, batch)
    inputs = jax.eval_shape(lambda b: modalities.inputs(cfg, b, jax.random.key(0)), batch)
    times = dict.fromkeys(cfg.modules, 1) | {"text": 1 + cfg.data.hard_texts}
    spared = sum(
        times[name] * flops.count(cfg.modules[name].apply, {"params": params[name]}, inputs[name])
        for name in still
    )
    return 3 * forward - 2 * spared
