"""SigLIP B/16: Zhai et al. 2023, arXiv:2303.15343, the row of table 1 with 9 billion pairs in batches of 32k.

Its pairs (WebLI) are private, and generated scenes stand in for them: give `data.train` and `evals` a source
of your own. A tokenizer of as many pieces is trained on the captions.
"""

from mmjax.checkpoint import Checkpointing
from mmjax.data.geometry import Resize
from mmjax.data.pipeline import Data
from mmjax.data.sources.scenes import Scenes
from mmjax.data.tokenizers.sentencepiece import SentencePiece
from mmjax.evals.retrieval import Retrieval
from mmjax.objectives.sigmoid import Sigmoid
from mmjax.optim import Adafactor, Optim
from mmjax.presets import preset
from mmjax.pretrain import Pretrain

BATCH = 32_768


def get_config(model: str = "SigLIP B/16", pairs: float = 9e9, dtype: str = "bfloat16", remat: str = "dots"):
    siglip = preset(model)
    size = siglip.preprocess.size
    tokenizer = SentencePiece(
        vocab=siglip.text.vocab,
        length=siglip.text.length,
        punctuation=siglip.vocabulary.punctuation,
    )
    return Pretrain(
        towers=siglip.towers(tokenizer=tokenizer, dtype=dtype, remat=remat),
        objective=Sigmoid(initial_scale=10.0, initial_bias=-10.0),
        data=Data(train=Scenes(split="train", px=size), batch_size=BATCH, geometry=(Resize(size=size),)),
        preprocess=siglip.preprocess,
        tokenizer=tokenizer,
        steps=int(pairs) // BATCH,
        optim=Optim(
            # Section 4, and section 4.7: with b2 up to 0.999, large batches are unstable.
            rule=Adafactor(b1=0.9, b2_most=0.95),
            lr=1e-3,
            # As SigLIP 2 states it (arXiv:2502.14786, section 2.2).
            warmup_steps=20_000,
            clip=1.0,
            # 1e-4 in appendix C, where the learning rate does not scale it.
            weight_decay=1e-4 / 1e-3,
            decayed=r"kernel$",
        ),
        checkpoint=Checkpointing(every_steps=1_000),
        evals={
            "test": Retrieval(name="scenes_test", source=Scenes(split="test", px=size), every_steps=10_000)
        },
    )
