"""The mean of the weights of several finetunes of one network; of one, its low-rank changes merged.

python -m mmjax.main --config=configs/finetune_soup.py:of=runs/a+runs/b --workdir=runs/soup
"""

from mmjax.finetune.mixing import Soup


def get_config(of: str = "runs/a+runs/b"):
    return Soup(of=tuple(of.split("+")))
