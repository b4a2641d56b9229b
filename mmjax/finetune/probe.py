"""The linear probe as a finetune: a head fitted to its optimum on embeddings that are computed once.

Logistic regression by L-BFGS on the unit-norm embeddings of a tower that stays as it is, its regulariser
chosen on a validation split (`mmjax.evals.linear_probe`). The workdir is a finished finetune like any other:
`mmjax.load` reads it, evaluators run on it alone, and another finetune may begin with it.

Letters: N examples, E embedding, C classes.
"""

import contextlib
import dataclasses
import io
import json
import logging
import pathlib
from typing import Any

import jax
import numpy as np

from mmjax import config, metrics, own_data, sharding, workdir
from mmjax.data import Source
from mmjax.data.geometry import Resize
from mmjax.data.labels import OneClass, check_chosen_on
from mmjax.data.pipeline import Data
from mmjax.evals import Evaluator, Report
from mmjax.evals.examples import Pictures, readable
from mmjax.evals.linear_probe import STRENGTHS, Learned, check_l2, choose, fitted
from mmjax.evaluation import Evaluation, check_needs, finish, licences
from mmjax.finetune import base, heads
from mmjax.finetune.backbone import Backbone
from mmjax.finetune.base import Base
from mmjax.finetune.classifier import Classifier
from mmjax.finetune.classify import Classify, first_model
from mmjax.finetune.mixing import check_free, export, merged, opened
from mmjax.finetune.tasks import Task
from mmjax.finetune.tune import Part

log = logging.getLogger("mmjax")

_TASK = "class"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
    """A linear classifier on the embeddings of a checkpoint's tower."""

    init_from: str  # the workdir of a run, or workdir@step, or workdir@best
    modality: str = "image"  # or "text"
    train: Source
    val: Source  # on which the strength of the regulariser is chosen
    refit: bool = True  # on both splits, once it is; False leaves `val` unseen by the classifier
    labels: OneClass = OneClass()
    l2: tuple[float, ...] = STRENGTHS
    evals: dict[str, Evaluator] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        check_l2(self.l2)
        if self.modality not in ("image", "text"):
            raise ValueError(f"modality={self.modality!r}: a probe is of 'image' or 'text'")

    def run(self, directory: pathlib.Path):
        """What `mmjax.main` calls.

        Raises:
            ValueError: the checkpoint has no such tower, the data no such classes, or the directory belongs
                to another run.
        """
        check_free(directory)
        check_needs(self.evals, [self.modality, f"classes/{_TASK}"])
        start = base.find(self.init_from, config.packages(self))
        start.tower(self.modality)
        metrics.start_log(None)
        with metrics.phase("preparing the data"):
            for part in (self.train, self.val, *self.evals.values()):
                part.prepare()
        model = first_model(self._finetune(start))
        task = model.config.tasks[_TASK]
        task.class_weights(self.train)  # refuses a class without an example
        check_chosen_on(task.labels, self.val, "val")
        self._claim(directory, start)
        metrics.start_log(directory / "log.txt" if jax.process_index() == 0 else None)
        found = self._fit(model, directory)
        export(model, found[0], directory, {"l2": found[1].metrics["probe_l2"]})
        self._judge(directory, found[1])

    def with_data(self, data: str) -> "Probe":
        """This config on a folder of classes, or `tfds:NAME`: what `mmjax.main --data` calls."""
        return own_data.with_probe(self, data)

    def changes(self, after: "Probe") -> str:
        """One line for people: what `with_data` changed, beside the data."""
        return f"evaluators are {', '.join(after.evals)}"

    def _finetune(self, start: Base) -> Classify:
        """The finetune that the workdir is of: a head alone, in no steps."""
        geometry = ()
        if self.modality == "image":
            geometry = (Resize(size=start.config.preprocess.size),)
        return Classify(
            init_from=self.init_from,
            towers={self.modality: Backbone(tune=Part())},
            tasks={_TASK: Task(head=heads.Linear(normalise=True), labels=self.labels)},
            data=Data(train=self.train, batch_size=jax.device_count(), geometry=geometry),
            steps=1,
            evals=self.evals,
        )

    def _claim(self, directory: pathlib.Path, start: Base):
        """Says whose embeddings the directory keeps, or checks it."""
        path, mine = directory / "probe.json", dataclasses.replace(self, init_from=start.name)
        if path.is_file():
            before = config.from_json(path.read_text(), config.packages(self))
            lines = [
                line for line in config.differences(before, mine) if not line.startswith(("evals", "l2"))
            ]
            if lines:
                raise ValueError(
                    f"{directory} has embeddings of another probe ({'; '.join(lines)}); use another --workdir"
                )
        elif jax.process_index() == 0:
            workdir.write(path, config.to_json(mine))

    def _fit(self, model: Classifier, directory: pathlib.Path) -> tuple[Any, Report]:
        """All parameters with the fitted head, and how the regulariser was chosen."""
        splits = {"train": self.train, "val": self.val}
        train, val = (self._embedded(model, directory, name, source) for name, source in splits.items())
        count = len(model.names)
        with metrics.phase("fitting"):
            l2, sweep = choose("probe", train, val, classes=count, l2=self.l2)
            linear = fitted((train, val) if self.refit else (train,), classes=count, l2=l2)
        params = merged(model)
        replicated = sharding.replicated(model.mesh)
        logits = {"kernel": linear.weight_DC, "bias": linear.bias_C}
        logits = {name: jax.device_put(x.astype(np.float32), replicated) for name, x in logits.items()}
        params = params | {"head": {_TASK: {"logits": logits}}}
        return params, Report(
            {"probe_l2": l2, "probe_val_acc1": float(sweep.y["validation"].max())}, (sweep,)
        )

    def _embedded(self, model: Classifier, directory: pathlib.Path, name: str, source: Source) -> Learned:
        """Embeddings and labels of a split: from the directory, where they have been computed before."""
        path = directory / "embeddings" / f"{name}.npz"
        if path.is_file():
            with np.load(path) as kept:
                return Learned(kept["z_NE"], kept["label_N"])
        read, indices, texts, labels = model.labels[_TASK].reader(source), [], [], []
        for index, example in readable(name, source, np.arange(len(source))):
            indices.append(index)
            labels.append(int(read(example).argmax()))
            texts.append(example["text"][0] if self.modality == "text" else "")
        items = texts if self.modality == "text" else Pictures(source, np.array(indices))
        with metrics.phase(f"embedding {len(items):,} examples of {name}"):
            found = Learned(model.encode(items), np.array(labels))
        if jax.process_index() == 0:
            content = io.BytesIO()
            np.savez(content, **found._asdict())
            workdir.write(path, content.getvalue())
        return found

    def _judge(self, directory: pathlib.Path, chosen: Report):
        """Evaluates what the directory holds, and reports it."""
        model = opened(str(directory))
        if jax.process_index() == 0:
            workdir.write(directory / "env.json", json.dumps(workdir.environment(), indent=2))
        with contextlib.closing(metrics.Writer(directory)) as writer:
            evaluation = Evaluation(self.evals, model.config.steps, writer)
            evaluation.run(model.config.steps, model.embed)
        evaluation.step = model.config.steps
        evaluation.reports["probe"] = "val", chosen
        finish(directory, self, evaluation, licences(self, *self.evals.values()))
