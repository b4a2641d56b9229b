"""CLIP ViT-B/32 by OpenAI's recipe: Radford et al. 2021, arXiv:2103.00020, section 2.5 and appendix F.

The 400 million pairs of the paper are private, and generated scenes stand in for them: give `data.train` and
`evals` a source of your own. The vocabulary is CLIP's, from the package open_clip_torch or `tokenizer.path`.
"""

from mmjax.checkpoint import Checkpointing
from mmjax.data.geometry import RandomResizedCrop
from mmjax.data.pipeline import Data
from mmjax.data.sources.scenes import Scenes
from mmjax.evals.retrieval import Retrieval
from mmjax.objectives.infonce import InfoNCE
from mmjax.optim import AdamW, Optim
from mmjax.presets import preset
from mmjax.pretrain import Pretrain

BATCH = 32_768
STEPS = 32 * 400_000_000 // BATCH  # 32 epochs of 400 million pairs


def get_config(model: str = "CLIP B/32", lr: float = 5e-4, dtype: str = "bfloat16", remat: str = "none"):
    clip = preset(model)
    size = clip.preprocess.size
    return Pretrain(
        towers=clip.towers(dtype=dtype, remat=remat),
        objective=InfoNCE(initial_scale=1 / 0.07, ceiling=100.0),
        # The paper takes a random square of the resized picture; this is open_clip's form of it.
        data=Data(
            train=Scenes(split="train", px=size),
            batch_size=BATCH,
            geometry=(RandomResizedCrop(size=size, area=(0.9, 1.0)),),
        ),
        preprocess=clip.preprocess,
        tokenizer=clip.tokenizer(),
        steps=STEPS,
        # Tables 18 and 20. All weights decay that are neither gains nor biases.
        optim=Optim(
            rule=AdamW(b1=0.9, b2=0.98, eps=1e-6),
            lr=lr,
            warmup_steps=2_000,
            clip=None,
            weight_decay=0.2,
            decayed=r"(kernel|embedding|positions|class)$",
        ),
        checkpoint=Checkpointing(every_steps=1_000),
        evals={
            "test": Retrieval(name="scenes_test", source=Scenes(split="test", px=size), every_steps=10_000)
        },
    )
