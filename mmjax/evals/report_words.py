"""What metrics are called in the HTML report, and which of them are shares."""

import re

EVALUATORS = {
    "zs": "zero-shot",
    "lp": "linear probe",
    "probe": "linear probe",
    "knn": "nearest neighbours",
    "cls": "classifier",
    "itm": "matching",
    "rel": "maps",
}
_WORDS = {
    "acc": "accuracy",
    "acc1": "top-1",
    "acc5": "top-5",
    "mpcr": "mean class recall",
    "ece": "calibration error",
    "f1": "F1",
    "roc": "ROC",
    "auc": "AUC",
    "ap": "average precision",
    "l2": "regulariser",
    "val": "validation",
}
WAYS = {"i2t": "picture → caption", "t2i": "caption → picture"}
# A metric with one of these words in its name is no share of anything, though it may lie between 0 and 1.
_NO_RATES = {"medr", "loss", "l2", "std", "gap", "alpha", "alignment", "uniformity", "rank", "megabytes"}


def is_rate(metric: str, value: float) -> bool:
    """Whether a bar from 0 to 1 says something of the metric."""
    return 0 <= value <= 1 and not _NO_RATES & set(metric.split("_"))


def words(metric: str) -> str:
    """The metric for people; a name that is not known as it is, without underscores."""
    retrieval = re.fullmatch(r"(itm_)?(i2t|t2i)_(r(\d+)|medr)(_before)?", metric)
    if retrieval:
        judged, way, _, k, before = retrieval.groups()
        when = f" {'before' if before else 'after'} {EVALUATORS['itm']}" if judged else ""
        return f"{WAYS[way]}, {f'R@{k}' if k else 'median rank'}{when}"
    few = re.fullmatch(r"fs_(\d+)_(acc1|std)", metric)
    if few:
        return f"{few[1]} of each class, {'top-1' if few[2] == 'acc1' else 'deviation'}"
    evaluator, _, rest = metric.partition("_")
    if evaluator not in EVALUATORS:
        return metric.replace("_", " ")
    return " ".join([EVALUATORS[evaluator], *(_WORDS.get(word, word) for word in rest.split("_"))])
