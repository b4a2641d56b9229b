"""LiT B/16: Zhai et al. 2022, arXiv:2111.07991, with values of big_vision's
configs/proj/image_text/lit_coco.py and README_lit.md (the model without a head on the picture's side).

LiT learns to read out a picture tower that is there already, and does not train it: `init_from` is a run with
this tower, trained on whatever. Two things that lit_coco.py has are not here, `randaug(2,10)` of the pictures
and a BERT with pretrained weights for texts: the text tower is a transformer trained from scratch, by
Adafactor as in the paper. Generated scenes stand in for CC12M and YFCC100M: give `data.train` and `evals` a
source of your own.
"""

from mmjax.checkpoint import Checkpointing
from mmjax.data.geometry import Flip, Preprocess, Resize
from mmjax.data.pipeline import Data
from mmjax.data.sources.scenes import Scenes
from mmjax.data.tokenizers.sentencepiece import SentencePiece
from mmjax.evals.retrieval import Retrieval
from mmjax.finetune import Contrast
from mmjax.finetune.adapt import Adapt
from mmjax.finetune.backbone import Backbone
from mmjax.objectives.infonce import InfoNCE
from mmjax.optim import Adafactor, Optim
from mmjax.towers.layers import Encoder
from mmjax.towers.text import TextTransformer
from mmjax.towers.vit import ViT

SIZE, WIDTH = 224, 768
VOCAB, LENGTH = 32_000, 16
STEPS = 60_000


def get_config(init_from: str = "runs/vit_b16", dtype: str = "bfloat16", remat: str = "dots"):
    encoder = Encoder(depth=12, heads=12, remat=remat, dtype=dtype)
    image = ViT(width=WIDTH, patch=16, embed=WIDTH, encoder=encoder, pool="class", projection="none")
    text = TextTransformer(
        vocab=VOCAB, length=LENGTH, width=WIDTH, embed=WIDTH, encoder=encoder, projection="affine"
    )
    return Contrast(
        init_from=init_from,
        towers={
            "image": Backbone(module=image),
            "text": Backbone(
                module=text,
                adapt=Adapt(fresh="."),
                tokenizer=SentencePiece(vocab=VOCAB, length=LENGTH),
            ),
        },
        objective=InfoNCE(initial_scale=10.0),
        data=Data(
            train=Scenes(split="train", px=SIZE),
            batch_size=16_384,
            geometry=(Resize(size=SIZE, filter="bilinear"), Flip(prob=0.5)),
        ),
        preprocess=Preprocess(size=SIZE, mode="squash", filter="bilinear"),
        steps=STEPS,
        optim=Optim(
            rule=Adafactor(b1=0.9, b2_most=0.999),
            lr=1e-3,
            warmup_steps=STEPS * 3 // 100,
            clip=1.0,
            # 1e-4 in the paper, whose decay is not scaled by the learning rate.
            weight_decay=1e-4 / 1e-3,
            decayed=r"kernel$",
            frozen=r"^image/",
        ),
        checkpoint=Checkpointing(every_steps=1_000),
        evals={
            "test": Retrieval(name="scenes_test", source=Scenes(split="test", px=SIZE), every_steps=5_000)
        },
    )
