"""Results as JSON files that CLIP_benchmark's `clip_benchmark build` makes a table of.

One file an evaluator, as it has one a data set and task, with its names of metrics where it has them.
"""

import csv
import io
import math
import re
from typing import Any

from mmjax.evals import Confusion, Report

# A metric of the task, and what CLIP_benchmark calls it; other evaluators go by their label in the config.
_TASKS = {
    "zs_acc1": "zeroshot_classification",
    "i2t_r1": "zeroshot_retrieval",
    "lp_acc1": "linear_probe",
    "cls_acc1": "finetuned_classification",  # which it does not do: beside its others in the columns of all
}
# Recall is named for what is retrieved.
_NAMES = (
    (r"(?:zs|cls)_(acc\d+)", r"\1"),
    (r"(?:zs|cls)_mpcr", "mean_per_class_recall"),
    (r"lp_mpcr", "lp_mean_per_class_recall"),
    (r"i2t_r(\d+)", r"text_retrieval_recall@\1"),
    (r"t2i_r(\d+)", r"image_retrieval_recall@\1"),
)


def record(label: str, name: str, report: Report, *, model: str, pretrained: str) -> dict[str, Any]:
    """What one file says.

    Args:
        label: of the evaluator.
        name: of its data set.
        report: what it found.
        model, pretrained: what CLIP_benchmark calls the architecture and its weights.
    """
    tasks = [task for metric, task in _TASKS.items() if metric in report.metrics]
    return {
        "dataset": name,
        "model": model,
        "pretrained": pretrained,
        "task": tasks[0] if tasks else label,
        # JSON knows no NaN and no infinity.
        "metrics": {
            _named(metric): value if math.isfinite(value) else None
            for metric, value in report.metrics.items()
        },
        "language": "en",
    }


def confusion(found: Confusion) -> str:
    """A confusion matrix as CSV, a row for each label and answer that occur together, and how often.

    Beside the JSON file and not in it: of every further key there `clip_benchmark build` makes a column.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("class", "answer", "count"))
    for label, answer in zip(*found.counts.nonzero(), strict=True):
        writer.writerow((found.names[label], found.names[answer], int(found.counts[label, answer])))
    return file.getvalue()


def _named(metric: str) -> str:
    for pattern, theirs in _NAMES:
        if re.fullmatch(pattern, metric):
            return re.sub(pattern, theirs, metric)
    return metric
