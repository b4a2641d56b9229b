"""Fashion-MNIST from a checkpoint: the network or half of its weights, changes of it, parts in it, a head.

    python -m mmjax.main --config=configs/finetune_fashion.py:tune=lora --workdir=runs/fashion

`head=prompts` begins as the zero-shot classifier; `fresh` keeps the network and throws its weights away, for
comparison; `shots=16` trains on 16 pictures a class alone. `layer_decay` and `mixup` are those of
configs/finetune_folder.py. `tune=pruned,keep_head,init_from=runs/fashion`
goes on with a finetune, half of its weights gone.
"""

from configs.finetune_folder import HEADS, RATES, TUNES, Heads, Tunes
from mmjax.data.geometry import Flip, RandomResizedCrop
from mmjax.data.pipeline import Data
from mmjax.data.sources.fashion import Fashion
from mmjax.data.sources.few import Few
from mmjax.evals.classified import Classified
from mmjax.finetune import Backbone, Classify, Task
from mmjax.finetune.adapt import Adapt
from mmjax.optim import Optim


def get_config(
    init_from: str = "runs/quickstart",
    tune: Tunes = "full",
    head: Heads = "linear",
    keep_head: bool = False,
    fresh: bool = False,
    layer_decay: float | None = None,
    mixup: float = 0.0,
    size: int = 48,
    shots: int | None = None,
    steps: int = 1_500,
    seed: int = 0,
):
    train = Fashion(split="train", inverted=True)
    if shots is not None:
        train = Few(source=train, each=shots, seed=seed)
    return Classify(
        init_from=init_from,
        towers={"image": Backbone(tune=TUNES[tune], adapt=Adapt(fresh="." if fresh else None))},
        tasks={"class": Task(head=HEADS[head], keep_head=keep_head)},
        mixup=mixup,
        data=Data(
            train=train,
            batch_size=128,
            geometry=(RandomResizedCrop(size=size, area=(0.7, 1.0)), Flip(prob=0.5)),
            seed=seed,
        ),
        steps=steps,
        optim=Optim(
            lr=RATES[tune],
            warmup_steps=steps // 20,
            # Learned prompts alone have nothing that decays.
            weight_decay=0.0 if (tune, head) == ("head", "learned") else 0.05,
            layer_decay=layer_decay,
        ),
        evals={
            split: Classified(
                name=f"fashion_{split}",
                source=Fashion(split=split, inverted=True),
                classes=train,
                every_steps=every_steps,
            )
            for split, every_steps in (("val", steps // 3), ("test", 0))
        },
        seed=seed,
    )
