"""The linear probe: a classifier in minutes, fitted to its optimum on the embeddings of any run.

    python -m mmjax.main --config=configs/finetune_probe.py --workdir=runs/probe --data=photos/

One folder a class, of which two tenths choose the regulariser; or Fashion-MNIST with `:fashion`.
"""

from mmjax.data.sources.fashion import Fashion
from mmjax.data.sources.folder import Folder
from mmjax.evals.classified import Classified
from mmjax.finetune.probe import Probe


def get_config(init_from: str = "runs/quickstart", fashion: bool = False):
    if fashion:
        train, val, test = (Fashion(split=split, inverted=True) for split in ("train", "val", "test"))
        evals = {"test": Classified(name="fashion_test", source=test, classes=train)}
        return Probe(init_from=init_from, train=train, val=val, evals=evals)
    train, val = (
        Folder(path="photos", split=split, val_share=0.2, strict=True) for split in ("train", "val")
    )
    evals = {"val": Classified(name="photos_val", source=val, classes=train)}
    return Probe(init_from=init_from, train=train, val=val, refit=False, evals=evals)
