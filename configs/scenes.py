"""CLIP on generated scenes, which need no download: what goes with what, where, and how many.

At most 15 minutes on two CPU cores. The text tower reads word order, without which binding and relations
cannot be told (a bag of words scores 0.5 there). And a scene shares its batch with a twin that differs in one
fact (as the negatives of Yuksekgonul et al. 2023, arXiv:2210.01936): chance puts no two pictures into a batch
that differ in their relation alone.
"""

from mmjax.checkpoint import Checkpointing
from mmjax.data.geometry import Preprocess, Resize
from mmjax.data.pipeline import Data
from mmjax.data.sources.scenes import Scenes
from mmjax.data.tokenizers.sentencepiece import SentencePiece
from mmjax.evals.composition import Composition
from mmjax.evals.retrieval import Retrieval
from mmjax.objectives.infonce import InfoNCE
from mmjax.optim import Muon, Optim
from mmjax.pretrain import Pretrain
from mmjax.towers.conv import ConvNet
from mmjax.towers.layers import Encoder
from mmjax.towers.text import TextTransformer

SIZE = 48
VOCAB = 600  # 256 of them are bytes
LENGTH = 24


def get_config(steps: int = 2_000, seed: int = 0):
    test, novel = Scenes(split="test", px=SIZE), Scenes(split="novel", px=SIZE)
    return Pretrain(
        towers={
            "image": ConvNet(embed=128, hidden=384),
            "text": TextTransformer(
                vocab=VOCAB,
                length=LENGTH,
                width=128,
                embed=128,
                encoder=Encoder(depth=2, heads=4, causal=True, scan=False),
            ),
        },
        objective=InfoNCE(initial_scale=14.0),
        data=Data(
            train=Scenes(split="train", px=SIZE, twins=True),
            together=2,
            batch_size=128,
            geometry=(Resize(size=SIZE),),
            seed=seed,
        ),
        preprocess=Preprocess(size=SIZE),
        tokenizer=SentencePiece(model="bpe", vocab=VOCAB, length=LENGTH),
        steps=steps,
        optim=Optim(rule=Muon(), lr=2e-3, warmup_steps=100, weight_decay=0.1),
        checkpoint=Checkpointing(every_minutes=2.0),
        evals={
            "test": Retrieval(name="scenes_test", source=test),
            "novel": Retrieval(name="scenes_novel", source=novel),
            "test_composition": Composition(name="scenes_test", source=test),
            "novel_composition": Composition(name="scenes_novel", source=novel),
        },
        log_every=20,
        seed=seed,
    )
