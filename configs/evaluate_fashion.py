"""What embeddings are worth on photos of clothes that no run here was trained on: with --eval_only, any run.

Fashion-MNIST, ten classes; ten minutes on two CPU cores for a model of configs/quickstart.py.
"""

from mmjax.data.sources.fashion import Fashion
from mmjax.evals.embedding_health import EmbeddingHealth
from mmjax.evals.few_shot import FewShot
from mmjax.evals.linear_probe import LinearProbe
from mmjax.evals.nearest import KNearest
from mmjax.evals.relevance import Relevance
from mmjax.evals.robustness import Robustness
from mmjax.evals.zero_shot import ZeroShot
from mmjax.evaluation import Evaluate

NAME = "fashion_test"
TEMPLATES = ("{}", "a {}", "a photo of a {}", "a picture of a {}")


def get_config():
    train, val, test = (Fashion(split=split, inverted=True) for split in ("train", "val", "test"))
    zero_shot = ZeroShot(name=NAME, source=test, templates=TEMPLATES, limit=1_000)
    return Evaluate(
        evals={
            "zero_shot": ZeroShot(name=NAME, source=test, templates=TEMPLATES, detail=True),
            "linear": LinearProbe(name=NAME, train=train, val=val, source=test),
            "few_shot": FewShot(name=NAME, train=train, source=test),
            "nearest": KNearest(name=NAME, train=train, source=test),
            "robust": Robustness(evaluator=zero_shot, metrics=("zs_acc1",)),
            "maps": Relevance(name=NAME, source=test),
            "health": EmbeddingHealth(name=NAME, source=test),
        }
    )
