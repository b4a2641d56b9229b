"""A run of three modalities on synthetic data, of which any may be missing: for tests, and small."""

import dataclasses
import functools

import numpy as np
from flax import linen as nn

from mmjax.checkpoint import Checkpointing
from mmjax.data import pipeline
from mmjax.data.fields import Field
from mmjax.data.geometry import Preprocess, Resize
from mmjax.data.pipeline import Data
from mmjax.data.tokenizers import Tokenizer
from mmjax.data.tokenizers.utf8 import Bytes
from mmjax.objectives.infonce import InfoNCE
from mmjax.objectives.pairs import Pair, Views
from mmjax.optim import Optim
from mmjax.pretrain import Pretrain
from mmjax.towers import Encoded

WORDS = ("ant", "bee", "cow", "dog", "elk", "fox", "gnu", "hen")
SIZE, SAMPLES, WIDTH = 8, 32, 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Animals:
    """Animal k has a colour, a tone and a name; three examples in four lack one of these."""

    size: int = 512
    lacking: bool = True
    hard: bool = False  # with names of other animals
    licence: str = ""

    def prepare(self):
        pass

    @property
    def names(self):
        return dict(enumerate(WORDS))

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        rng, kind = np.random.default_rng(index), index % len(WORDS)
        colour = 60 + 120 * (kind >> np.arange(3) & 1)
        tone = np.sin(np.arange(SAMPLES) * (kind + 1) * np.pi / SAMPLES)
        example = {
            "image": np.uint8(colour + rng.integers(-40, 40, (SIZE, SIZE, 3))),
            "text": (WORDS[kind],),
            "sound": np.float32(tone + 0.3 * rng.standard_normal(SAMPLES)),
            "id": kind,
        }
        if self.hard:
            steps = range(1, 1 + index % 3)
            example["hard_text"] = tuple(WORDS[(kind + step) % len(WORDS)] for step in steps)
        if self.lacking:
            example[("image", "text", "sound", "nothing")[rng.integers(4)]] = None
        return example


class Colours(nn.Module):
    """Sees the mean colour of a picture."""

    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, image_BHWC, *, train=False):
        x_BD = nn.Dense(32)(image_BHWC.mean(axis=(1, 2)))
        x_BD = nn.Dropout(self.dropout, deterministic=not train)(nn.gelu(x_BD))
        return Encoded(nn.Dense(WIDTH)(x_BD), x_BD[:, None])


class Tones(nn.Module):
    """Hears a sound as a list of numbers."""

    embed: int = WIDTH
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, sound_BS, *, train=False):
        x_BS = nn.Dropout(self.dropout, deterministic=not train)(sound_BS)
        return Encoded(nn.Dense(self.embed)(x_BS), x_BS[..., None])


class Letters(nn.Module):
    """Counts the bytes of a text."""

    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens_BS, *, train=False):
        x_BSD = nn.Embed(Bytes().vocab, 8, name="pieces")(tokens_BS)
        x_BSD = nn.Dropout(self.dropout, deterministic=not train)(x_BSD)
        return Encoded(nn.Dense(WIDTH)(x_BSD.reshape(len(tokens_BS), -1)), x_BSD)


PAIRS = (Pair(), Pair(second="sound", weight=0.5), Pair(first="sound", second="text"))
VIEWS = Views(pairs=PAIRS)


def config(*, dropout=0.0, lacking=True, hard_texts=0, batch_size=32, objective=None, **fields):
    data = Data(
        train=Animals(lacking=lacking, hard=hard_texts > 0),
        batch_size=batch_size,
        geometry=(Resize(size=SIZE),),
        fields={"sound": Field(shape=(SAMPLES,))},
        may_lack=("image", "text", "sound") if lacking else (),
        hard_texts=hard_texts,
    )
    base = Pretrain(
        towers={
            "image": Colours(dropout=dropout),
            "text": Letters(dropout=dropout),
            "sound": Tones(dropout=dropout),
        },
        objective=objective or InfoNCE(initial_scale=10.0, views=VIEWS),
        data=data,
        preprocess=Preprocess(size=SIZE),
        tokenizer=Bytes(length=5),
        steps=60,
        optim=Optim(lr=1e-2, warmup_steps=2),
        checkpoint=Checkpointing(every_steps=20),
        log_every=10,
    )
    return dataclasses.replace(base, **fields)


TWO = {"image": Colours(), "text": Letters()}


@functools.cache
def batch(lacking=True, hard_texts=0):
    """The first batch of such a config."""
    cfg = config(lacking=lacking, hard_texts=hard_texts)
    return next(pipeline.batches(cfg.data, Tokenizer(b"", cfg.tokenizer), modalities=cfg.towers))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Taught(Animals):
    """With a teacher's embeddings of pictures and names, and halves of the kinds as labels."""

    def __getitem__(self, index):
        example = super().__getitem__(index)
        kind, rng = example["id"], np.random.default_rng(index)
        teacher = {
            "teacher/image": np.eye(8)[kind] + 0.1 * rng.random(8) if example["image"] is not None else None,
            "teacher/text": np.eye(8)[kind],
        }
        return example | teacher | {"half": kind // 4}


def taught(objective, *fields, **more):
    kinds = {"teacher": Field(shape=(8,)), "half": Field(dtype="int32"), "sound": Field(shape=(SAMPLES,))}
    data = dataclasses.replace(
        config().data,
        train=Taught(),
        fields={name: kinds[name.partition("/")[0]] for name in fields},
        may_lack=("image", "text", *(name for name in fields if name == "teacher/image")),
    )
    return dataclasses.replace(config(), towers=TWO, data=data, objective=objective, **more)
