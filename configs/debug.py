"""Seconds on any machine: tiny towers on scenes. For trying out changes, and for tests."""

from mmjax.checkpoint import Checkpointing
from mmjax.data.geometry import Flip, Preprocess, Resize
from mmjax.data.pipeline import Data
from mmjax.data.sources.scenes import Scenes
from mmjax.data.tokenizers.sentencepiece import SentencePiece
from mmjax.evals.retrieval import Retrieval
from mmjax.objectives.infonce import InfoNCE
from mmjax.objectives.sigmoid import Sigmoid
from mmjax.optim import Optim
from mmjax.pretrain import Pretrain
from mmjax.towers.layers import Encoder
from mmjax.towers.text import TextTransformer
from mmjax.towers.vit import ViT

SIZE = 32
VOCAB = 600


def get_config(sigmoid: bool = False, dtype: str = "float32"):
    image, text = (Encoder(depth=2, heads=2, causal=causal, dtype=dtype) for causal in (False, True))
    return Pretrain(
        towers={
            "image": ViT(width=32, patch=8, embed=16, encoder=image),
            "text": TextTransformer(vocab=VOCAB, length=16, width=32, embed=16, encoder=text),
        },
        objective=Sigmoid() if sigmoid else InfoNCE(),
        data=Data(
            train=Scenes(split="train", px=SIZE),
            batch_size=16,
            geometry=(Resize(size=SIZE), Flip(prob=0.0)),
        ),
        preprocess=Preprocess(size=SIZE),
        tokenizer=SentencePiece(model="bpe", vocab=VOCAB, length=16),
        steps=20,
        optim=Optim(lr=1e-3, warmup_steps=2, weight_decay=0.1),
        checkpoint=Checkpointing(every_steps=10),
        evals={"test": Retrieval(name="scenes_test", source=Scenes(split="test", px=SIZE), limit=50)},
        log_every=1,
    )
