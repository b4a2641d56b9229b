"""The modalities of a run: what its batches hold of them, and what its towers are given of that.

`image` and `text` are prepared by the stream, from pictures and strings; any other modality is an array of
`data.fields`, and its tower is given just that.

Letters: B batch, H W C image.
"""

import jax
import jax.numpy as jnp

from mmjax.data import colour
from mmjax.objectives.pairs import present
from mmjax.towers.batch_norm import apply_in_training

_PREPARED = ("image", "text")


def check(cfg):
    """Raises ValueError where the towers of a config and what it says of its data do not go together."""
    towers, data = set(cfg.modules), cfg.data
    if len(towers) < 2:
        raise ValueError(f"towers={sorted(towers)}: give two or more, such as 'image' and 'text'")
    for name, field, given in (("image", "preprocess", cfg.preprocess), ("text", "tokenizer", cfg.tokenizer)):
        if name in towers and given is None:
            raise ValueError(f"towers has {name!r}, for which {field} is needed")
    unknown = towers - set(_PREPARED) - set(data.fields)
    if unknown:
        raise ValueError(
            f"towers has {sorted(unknown)}, but data.fields has {sorted(data.fields)}; say there what arrays "
            "these are"
        )
    if "objective" in towers:
        raise ValueError("towers has 'objective', the name of the objective's parameters; choose another")
    if data.hard_texts and "text" not in towers:
        raise ValueError(f"data.hard_texts={data.hard_texts} needs a tower for 'text'")
    # Of anything else nobody would ask whether it is there.
    unused = set(data.may_lack) - towers - {f"teacher/{name}" for name in towers}
    if unused:
        raise ValueError(
            f"data.may_lack has {sorted(unused)}, which is no modality; it must be in every example"
        )


def names(cfg) -> tuple[str, ...]:
    """Modalities in the order of their random keys: a further one changes no draw of image and text."""
    return (*_PREPARED, *sorted(set(cfg.modules) - set(_PREPARED)))


def first_pair(cfg, z, batch):
    """(embeddings of two modalities by name, image and text where they are among the towers; where both are
    there, bool [B], or None for everywhere)."""
    first, second = [name for name in names(cfg) if name in cfg.modules][:2]
    return {first: z[first], second: z[second]}, present(batch, first, second)


def batch_shapes(cfg, rows: int, channels: int = 3) -> dict[str, jax.ShapeDtypeStruct]:
    """What a batch of `rows` looks like."""
    data, kinds = cfg.data, {"id": ((), "int32")}
    if "image" in cfg.modules:
        kinds["image"] = ((cfg.preprocess.size, cfg.preprocess.size, channels), "uint8")
    if "text" in cfg.modules:
        kinds["text"] = ((cfg.tokenizer.length,), "int32")
    kinds |= {name: (field.shape, field.dtype) for name, field in data.fields.items()}
    kinds |= {f"present/{name}": ((), "bool") for name in data.may_lack}
    if data.hard_texts:
        kinds["hard_text"] = ((data.hard_texts, cfg.tokenizer.length), "int32")
        kinds["present/hard_text"] = ((data.hard_texts,), "bool")
    return {name: jax.ShapeDtypeStruct((rows, *shape), jnp.dtype(d)) for name, (shape, d) in kinds.items()}


def inputs(cfg, batch, colour_key):
    """What the towers are given in training, by modality."""
    found = augmented(cfg, batch, colour_key)
    if "image" in found:
        found["image"] = colour.normalise(found["image"], cfg.preprocess.mean, cfg.preprocess.std)
    return found


def augmented(cfg, batch, colour_key):
    """What a batch holds for the towers, pictures augmented, in float32 in [0, 1]."""
    found = {name: batch[name] for name in cfg.modules}
    if "image" in found:
        found["image"] = colour.augment(cfg.colour, batch["image"], colour_key)
    return found


def examples(cfg, rows: int):
    """A batch of zeros, and inputs of the towers, all zeros: what shapes are taken from."""
    batch = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), batch_shapes(cfg, rows))
    found = {name: batch[name] for name in cfg.modules}
    if "image" in found:
        found["image"] = jnp.zeros(batch["image"].shape)
    return batch, found


def normalised_by_batch(cfg, params, rows: int, key) -> list[str]:
    """Modalities whose tower normalises by statistics of the batch.

    Args:
        cfg: a `Pretrain`, or a config like it.
        params: by modality, or their shapes, of the towers that are asked about.
        rows: of a batch that divides over the mesh.
        key: of the kind that the towers will be given.
    """
    found, inputs = [], examples(cfg, rows)[1]
    for name in (name for name in inputs if name in params):
        _, statistics = jax.eval_shape(
            lambda *args, tower=cfg.modules[name]: apply_in_training(tower, *args),
            params[name],
            inputs[name],
            key,
        )
        found += [name] if jax.tree.leaves(statistics) else []
    return found


def check_statistics(cfg, params, rows: int):
    """Raises ValueError where examples that are not there would count in a tower's statistics of the batch;
    arguments as of `normalised_by_batch`."""
    lacking = set(cfg.data.may_lack) | ({"text"} if cfg.data.hard_texts else set())
    if not lacking:
        return
    for name in normalised_by_batch(cfg, params, rows, jax.random.key(0)):
        if name in lacking:
            raise ValueError(
                f"the {name} tower normalises by statistics of the batch, in which what is missing would "
                "count (data.may_lack, data.hard_texts); use a tower without batch norm"
            )
