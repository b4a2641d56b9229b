"""A finetune of seconds with two questions about every picture of one thing: its color and its shape."""

import dataclasses
from typing import Any

from mmjax.data.geometry import Resize
from mmjax.data.labels import Answers
from mmjax.data.pipeline import Data
from mmjax.data.sources import scenes_draw
from mmjax.data.sources.scenes_spec import COLORS, SHAPES, Rng, draw_scene
from mmjax.evals.classified import Classified
from mmjax.finetune import Backbone, Classify, Task
from mmjax.optim import Optim

PX = 32
TASKS = {
    "color": Task(labels=Answers(names=COLORS, field="color"), weight=2.0),
    "shape": Task(labels=Answers(names=SHAPES, field="shape"), weight=0.5, smoothing=0.1),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Single:
    """Pictures of one thing."""

    first: int
    size: int
    licence: str = ""

    def prepare(self) -> None:
        pass

    @property
    def names(self) -> dict[int, str]:
        return {}

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = Rng(self.first + index)
        scene = draw_scene(rng, novel=False, kind="single")
        (thing,) = scene.things
        image = scenes_draw.render(scene, rng, PX)
        return {"image": image, "text": (), "id": index, "color": thing.color, "shape": thing.shape}


def get_config(init_from: str, towers: str = "image"):
    train, val = Single(first=0, size=400), Single(first=1_000, size=23)
    return Classify(
        init_from=init_from,
        towers={name: Backbone() for name in towers.split("+")},
        tasks=TASKS,
        data=Data(train=train, batch_size=16, geometry=(Resize(size=PX),)),
        steps=4,
        optim=Optim(lr=1e-3),
        evals={
            name: Classified(name=f"val_{name}", source=val, task=name, labels=task.labels)
            for name, task in TASKS.items()
        },
        log_every=1,
    )
