"""Seconds on any machine: tiny towers on scenes. For trying out changes, and for tests."""

from mmjax.checkpoint import Checkpointing
from mmjax.data.geometry import Flip, Preprocess, Resize
from mmjax.data.pipeline import Data
from mmjax.data.sources.scenes import Scenes
from mmjax.data.tokenizer import SentencePiece
from mmjax.evals.retrieval import Retrieval
from mmjax.objectives.infonce import InfoNCE
from mmjax.objectives.sigmoid import Sigmoid
from mmjax.optim import Optim
from mmjax.pretrain import Pretrain
from mmjax.towers.text import TextTransformer
from mmjax.towers.vit import ViT

SIZE = 32
VOCAB = 400


def get_config(sigmoid: bool = False, dtype: str = "float32"):
    block = dict(width=32, depth=2, heads=2, embed=16, dtype=dtype)
    return Pretrain(
        towers={
            "image": ViT(patch=8, **block),
            "text": TextTransformer(vocab=VOCAB, length=16, **block),
        },
        objective=Sigmoid() if sigmoid else InfoNCE(),
        data=Data(
            train=Scenes(split="train", px=SIZE),
            batch_size=16,
            geometry=(Resize(size=SIZE), Flip(prob=0.0)),
        ),
        preprocess=Preprocess(size=SIZE),
        tokenizer=SentencePiece(vocab=VOCAB, length=16),
        steps=20,
        optim=Optim(lr=1e-3, warmup_steps=2, weight_decay=0.1),
        checkpoint=Checkpointing(every_steps=10),
        evals={"test": Retrieval(name="scenes_test", source=Scenes(split="test", px=SIZE), limit=50)},
        log_every=1,
    )
