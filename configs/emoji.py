"""CLIP on drawings of ~1,900 concepts in seven styles, judged on a style and on concepts never trained on.

Half an hour on two CPU cores. A small convolutional tower and a bag of pieces: what learns there in that time
(docs/results.md compares a ViT, configs/emoji_vit.py).
"""

from mmjax.checkpoint import Checkpointing
from mmjax.data import colour
from mmjax.data.captions import NameAndKeywords
from mmjax.data.geometry import Affine, Flip, Preprocess
from mmjax.data.pipeline import Data
from mmjax.data.sources.emoji import Emoji
from mmjax.data.tokenizers.sentencepiece import SentencePiece
from mmjax.evals.retrieval import Retrieval
from mmjax.evals.zero_shot import ZeroShot
from mmjax.objectives.infonce import InfoNCE
from mmjax.optim import Muon, Optim
from mmjax.pretrain import Pretrain
from mmjax.towers.conv import ConvNet
from mmjax.towers.text import BagOfPieces

SIZE = 48  # pixels
VOCAB = 2_000
LENGTH = 16


def get_config(steps: int = 8_000, seed: int = 0, every_steps: int = 2_000):
    train = Emoji(split="train")
    return Pretrain(
        towers={
            "image": ConvNet(embed=128, dropout=0.1),
            "text": BagOfPieces(vocab=VOCAB, width=128, embed=128, dropout=0.1),
        },
        objective=InfoNCE(initial_scale=14.0),
        data=Data(
            train=train,
            batch_size=128,
            geometry=(Affine(size=SIZE, filter="bilinear"), Flip(prob=0.3)),
            captions=NameAndKeywords(name_only=0.4, most_keywords=4),
            seed=seed,
        ),
        colour=(
            colour.ColourDrop(prob=0.15),
            colour.Invert(prob=0.03),
            colour.Outline(prob=0.2),
            colour.Edges(prob=0.1),
            colour.Jitter(prob=0.5),
            colour.Background(prob=0.15),
        ),
        preprocess=Preprocess(size=SIZE, filter="bilinear"),
        tokenizer=SentencePiece(vocab=VOCAB, length=LENGTH),
        steps=steps,
        optim=Optim(rule=Muon(), lr=2e-3, warmup_steps=steps // 20, weight_decay=0.1),
        checkpoint=Checkpointing(every_minutes=2.0),
        evals={
            "style": ZeroShot(
                name="emoji_val_style",
                source=Emoji(split="val_style"),
                classes=train,
                every_steps=every_steps,
            ),
            "style_retrieval": Retrieval(name="emoji_val_style", source=Emoji(split="val_style")),
            "concept": Retrieval(
                name="emoji_val_concept", source=Emoji(split="val_concept"), every_steps=every_steps
            ),
            "both": Retrieval(name="emoji_val_both", source=Emoji(split="val_both")),
        },
        log_every=20,
        seed=seed,
    )
