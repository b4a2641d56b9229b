"""A config made to train on other data: what `mmjax.main --data` does."""

import dataclasses
import pathlib
import re

from mmjax.data import Source, colour, pipeline
from mmjax.data.captions import PHOTO, AnyCaption, Prompted
from mmjax.data.geometry import Flip, RandomResizedCrop
from mmjax.data.sources.folder import Folder
from mmjax.data.sources.folder_listing import TABLES
from mmjax.data.sources.tfds import Tfds
from mmjax.data.tokenizers import TokenizerConfig
from mmjax.data.tokenizers.sentencepiece import SentencePiece
from mmjax.evals import Evaluator
from mmjax.evals.classified import Classified
from mmjax.evals.retrieval import Retrieval
from mmjax.evals.zero_shot import ZeroShot
from mmjax.towers.text import BagOfPieces, TextTransformer

_TFDS = "tfds:"
_AREA = (0.6, 1.0)  # of a picture that training shows: captions speak of what is in it
_LENGTH = 32  # tokens: a sentence or two
# Of the pictures of classes: a few per cent would leave some classes without a picture to validate on.
_VAL_SHARE = 0.2
_SIDE = 256  # pixels that pictures are read at, where a config says no size
_LIMIT = 1_000  # examples of the training data, and of other data, that are evaluated on


def with_data(cfg, data: str):
    """A pretraining config on the pictures and texts of `data`, read by a tokenizer for whole sentences; all
    else as of `with_pairs`."""
    return dataclasses.replace(
        with_pairs(cfg, data), tokenizer=for_sentences(cfg.tokenizer, cfg.towers["text"])
    )


def with_pairs(cfg, data: str):
    """A contrastive config on the pictures and texts of `data`; towers, objective and optimizer stay.

    Args:
        cfg: `Pretrain`, or a resolved `Contrast`.
        data: a folder, or a table in it, or `tfds:` and the name of a data set or the folder of one version.

    Returns:
        The config with training and validation data, a geometry for pictures of any size, colour ops that
        need no alpha, any of an example's captions or its class in a prompt, and evaluators for it.

    Raises:
        ValueError: there is no such data, or it is not pictures and texts, or the config wants more.
    """
    if set(cfg.towers) != {"image", "text"} or cfg.data.fields or cfg.data.hard_texts:
        raise ValueError(
            "--data gives pictures and texts alone, but the config has other modalities, data.fields or "
            "data.hard_texts; use a config without"
        )
    size = cfg.preprocess.size
    train, val = _sources(data, side=2 * size)
    classes = bool(train.names)
    flips = (op for op in cfg.data.geometry if isinstance(op, Flip))
    crop = RandomResizedCrop(size=size, area=_AREA, filter=cfg.preprocess.filter)
    return dataclasses.replace(
        cfg,
        data=dataclasses.replace(
            cfg.data,
            train=train,
            geometry=(crop, *flips),
            captions=Prompted(templates=PHOTO) if classes else AnyCaption(),
            together=1,
        ),
        colour=colour.without_alpha(cfg.colour),
        evals=_evaluators(
            _name(data), train, val, max((e.every_steps for e in cfg.evals.values()), default=0)
        ),
    )


def changes(before, after) -> str:
    """One line for people: what `with_data` made of a config, beside the data itself."""
    chosen = _kind(after.data.captions)
    captions = f"captions are chosen by {chosen} and cut at {after.tokenizer.length} tokens"
    return _changes(before, after, captions)


def with_classes(cfg, data: str):
    """A classification of pictures on those of `data`, a folder a class or `tfds:` with a label.

    Args:
        cfg: `Classify`.

    Returns:
        The config with training and validation data, a geometry for pictures of any size, colour ops that
        need no alpha, and evaluators for it.

    Raises:
        ValueError: there is no such data, or it has no classes, or the config wants more.
    """
    if set(cfg.towers) != {"image"} or len(cfg.tasks) != 1:
        raise ValueError(
            f"--data gives pictures and one class of each, but the config has towers for {[*cfg.towers]} and "
            f"tasks {[*cfg.tasks]}; use a config with one of each"
        )
    ((task, asked),) = cfg.tasks.items()
    size, _ = pipeline.size(cfg.data)
    train, val = _sources(data, side=2 * size, val_share=_VAL_SHARE, strict=True)
    flips = (op for op in cfg.data.geometry if isinstance(op, Flip))
    every = max((e.every_steps for e in cfg.evals.values()), default=0)
    splits = {"val": (val, every), "train": (train, 0)}
    return dataclasses.replace(
        cfg,
        data=dataclasses.replace(
            cfg.data, train=train, geometry=(RandomResizedCrop(size=size, area=_AREA), *flips), together=1
        ),
        colour=colour.without_alpha(cfg.colour),
        evals={
            split: Classified(
                name=f"{_name(data)}_{split}",
                source=source,
                classes=train,
                task=task,
                labels=asked.labels,
                every_steps=every_steps,
                limit=_LIMIT,
            )
            for split, (source, every_steps) in splits.items()
            if len(source)
        },
    )


def with_probe(cfg, data: str):
    """A linear probe on the pictures of `data`, a folder a class or `tfds:` with a label.

    Args:
        cfg: `Probe`.

    Returns:
        The config with both splits and an evaluator for the validation split, on which nothing is fitted.

    Raises:
        ValueError: there is no such data, or it has no classes.
    """
    train, val = _sources(data, side=_SIDE, val_share=_VAL_SHARE, strict=True)
    judged = Classified(name=f"{_name(data)}_val", source=val, classes=train, labels=cfg.labels)
    return dataclasses.replace(cfg, train=train, val=val, refit=False, evals={"val": judged})


def changes_of_classes(before, after) -> str:
    """One line for people: what `with_classes` made of a config, beside the data itself."""
    return _changes(before, after)


def _changes(before, after, *more: str) -> str:
    gone = [_kind(op) for op in before.colour if op not in after.colour]
    parts = [
        f"geometry is {', '.join(map(_kind, after.data.geometry))}",
        *([f"without {', '.join(gone)}, which are for drawings with alpha"] if gone else []),
        *more,
        f"evaluators are {', '.join(after.evals)}",
    ]
    return f"{_kind(before.data.train)} gave way to {_kind(after.data.train)}: {'; '.join(parts)}"


def _kind(part) -> str:
    return type(part).__name__


def _sources(data: str, side: int, **fields) -> tuple[Folder | Tfds, Folder | Tfds]:
    if data.startswith(_TFDS):
        train, val = Tfds(name=data.removeprefix(_TFDS), side=side).splits()
    else:
        path = pathlib.Path(data)
        is_table = path.suffix.lower() in TABLES
        of = {"path": str(path.parent), "table": path.name} if is_table else {"path": data}
        train, val = (Folder(**of, side=side, split=split, **fields) for split in ("train", "val"))
    return train.resolved(), val.resolved()


def for_sentences(config: TokenizerConfig, tower) -> TokenizerConfig:
    """A text tower's tokenizer; one that is learned from the captions is made to hold sentences."""
    if not isinstance(config, SentencePiece):
        return config
    # Captions of few different words, which unigram would spell in scraps, are as likely as long ones.
    return lengthened(dataclasses.replace(config, model="bpe"), tower)


def lengthened(config: TokenizerConfig, tower) -> TokenizerConfig:
    """A text tower's tokenizer with rows for sentences, as far as the tower has places for their tokens."""
    match tower:
        case TextTransformer():
            places = tower.length
        case BagOfPieces():
            places = _LENGTH
        case _:  # not known
            places = config.length
    return dataclasses.replace(config, length=max(config.length, min(places, _LENGTH)))


def _evaluators(name: str, train: Source, val: Source, every_steps: int) -> dict[str, Evaluator]:
    """Retrieval on both splits, and where there are classes zero-shot classification among them.

    Data without validation examples, too few for a share of them, is evaluated on what was trained on alone.
    """
    found: dict[str, Evaluator] = {}
    for split, source, every in (("val", val, every_steps), ("train", train, 0)):
        if not len(source):
            continue
        about = dict(name=f"{name}_{split}", source=source, every_steps=every, limit=_LIMIT)
        found[split] = Retrieval(**about)
        if train.names:
            found[f"{split}_classes"] = ZeroShot(**about, classes=train, templates=PHOTO)
    return found


def _name(data: str) -> str:
    """The last part of the data's path, as metrics may name it."""
    if data.startswith(_TFDS):
        last = data.removeprefix(_TFDS).strip("/").partition(":")[0].replace("/", "_")
    else:
        path = pathlib.Path(data).expanduser().absolute()
        last = (path.parent if path.suffix.lower() in TABLES else path).name
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", last).strip("_") or "data"
