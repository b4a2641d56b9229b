"""CLIPA-v2 H/14, its long first stage at 84 pixels and 8 tokens: Li et al. 2023, arXiv:2306.15658.

Values of the authors' clipa_jax/configs/model_h/84_8_pre_training.py; from there one goes on at 224 and 336
pixels with 32 tokens. Generated scenes stand in for LAION: give `data.train` and `evals` a source of your
own. The authors keep the nouns of a caption that is too long, which is not part of this.
"""

from mmjax.checkpoint import Checkpointing
from mmjax.data import colour
from mmjax.data.geometry import Preprocess, RandomResizedCrop
from mmjax.data.pipeline import Data
from mmjax.data.sources.scenes import Scenes
from mmjax.data.tokenizers.sentencepiece import SentencePiece
from mmjax.evals.retrieval import Retrieval
from mmjax.objectives.infonce import InfoNCE
from mmjax.optim import AdamW, Optim
from mmjax.presets import preset
from mmjax.pretrain import Pretrain
from mmjax.sharding import MeshShape

SIZE, LENGTH = 84, 8
BATCH = 65_536


def get_config(dtype: str = "bfloat16", remat: str = "full"):
    clipa = preset("CLIPA H/14")
    colours = clipa.preprocess
    tokenizer = SentencePiece(vocab=clipa.text.vocab, length=LENGTH)
    return Pretrain(
        towers=clipa.towers(tokenizer=tokenizer, dtype=dtype, remat=remat),
        objective=InfoNCE(initial_scale=1 / 0.07),
        data=Data(
            train=Scenes(split="train", px=SIZE),
            batch_size=BATCH,
            geometry=(RandomResizedCrop(size=SIZE, area=(0.4, 1.0), filter="bilinear"),),
        ),
        # SimCLR's at strength 0.4.
        colour=(
            colour.Jitter(prob=0.8, brightness=0.32, contrast=0.32, saturation=0.32, hue=0.08),
            colour.ColourDrop(prob=0.2),
        ),
        preprocess=Preprocess(
            size=SIZE, mode="squash", filter="bilinear", mean=colours.mean, std=colours.std
        ),
        tokenizer=tokenizer,
        steps=10_000 * 1_281_167 // BATCH,  # counted in epochs of ImageNet
        optim=Optim(
            rule=AdamW(b1=0.9, b2=0.95, moment="bfloat16"),
            lr=8e-6 * BATCH / 256,
            warmup_steps=3_200,
            clip=None,
            weight_decay=0.2,
            decayed=r"kernel$",
        ),
        mesh=MeshShape(data=1, fsdp=-1),
        checkpoint=Checkpointing(every_steps=1_000),
        evals={
            "test": Retrieval(name="scenes_test", source=Scenes(split="test", px=SIZE), every_steps=10_000)
        },
    )
