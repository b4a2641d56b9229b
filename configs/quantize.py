"""A finished run with int8 weights, a quarter of the bytes, judged beside itself.

    python -m mmjax.main --config=configs/quantize.py:of=runs/quickstart --workdir=runs/quickstart_int8

`activations=int8` multiplies integers with integers, too.
"""

from mmjax.finetune.int8 import Activations
from mmjax.finetune.quantize import Quantize


def get_config(of: str = "runs/quickstart", activations: Activations = "none", keep: str | None = None):
    return Quantize(of=of, activations=activations, keep=keep)
