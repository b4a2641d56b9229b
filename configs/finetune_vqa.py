"""Questions about scenes, "what color is the circle left of the square", answered from a fixed set of words.

    python -m mmjax.main --config=configs/scenes.py --workdir=runs/scenes
    python -m mmjax.main --config=configs/finetune_vqa.py:init_from=runs/scenes --workdir=runs/vqa

14 minutes on two CPU cores. `fusion=concat` joins one embedding of each in place of letting the question
attend to the picture; `tower=text` and `tower=image` show what can be guessed from one of them alone.
"""

from typing import Literal

from mmjax.data.geometry import Resize
from mmjax.data.labels import Answers
from mmjax.data.pipeline import Data
from mmjax.data.sources.scenes import Scenes
from mmjax.data.sources.scenes_asked import SceneQuestions
from mmjax.data.sources.scenes_questions import ANSWERS, TOPICS
from mmjax.evals.classified import Classified
from mmjax.finetune import Backbone, Classify, Task, heads
from mmjax.finetune.fusion import Concat, CrossAttention
from mmjax.optim import Multiplier, Muon, Optim

SIZE = 48  # of the pictures of configs/scenes.py
FUSIONS = {"cross": CrossAttention(width=128, depth=2, heads=4), "concat": Concat()}
TOWERS = {"both": ("image", "text"), "image": ("image",), "text": ("text",)}


def get_config(
    init_from: str = "runs/scenes",
    fusion: Literal["cross", "concat"] = "cross",
    tower: Literal["both", "image", "text"] = "both",
    size: int = SIZE,
    steps: int = 1_300,
    seed: int = 0,
):
    answers = Answers(names=ANSWERS)
    test = Scenes(split="test", px=size)
    asked = {"all": TOPICS} | {topic: (topic,) for topic in TOPICS}
    both = {"fusion": FUSIONS[fusion]} if tower == "both" else {}
    return Classify(
        init_from=init_from,
        towers={name: Backbone() for name in TOWERS[tower]},
        **both,
        tasks={"answer": Task(head=heads.Hidden(hidden=512), labels=answers)},
        data=Data(
            train=SceneQuestions(
                scenes=Scenes(split="train", px=size, size=100_000),
                topics=(*TOPICS, "shape", "shape"),  # the hardest
            ),
            batch_size=128,
            geometry=(Resize(size=size),),
            seed=seed,
        ),
        steps=steps,
        optim=Optim(
            rule=Muon(),
            lr=2e-3,
            warmup_steps=steps // 15,
            weight_decay=0.05,
            # Words are known from captions; shapes are what the picture's tower has yet to learn.
            multipliers=(Multiplier(pattern="^text/", lr=0.2),) if "text" in TOWERS[tower] else (),
        ),
        evals={
            name: Classified(
                name=f"questions_{name}",
                source=SceneQuestions(scenes=test, topics=topics),
                task="answer",
                labels=answers,
            )
            for name, topics in asked.items()
        },
        log_every=20,
        seed=seed,
    )
