"""Zero-shot classification: the class whose prompts lie nearest to a picture.

The embedding of a class is the mean of the unit-norm embeddings of its prompts, made unit-norm again: Radford
et al. 2021, arXiv:2103.00020, section 3.1.4. Ties are ranked as `ranking` says.

Letters: N pictures, C classes, T templates, E embedding.
"""

import dataclasses
import functools
from typing import ClassVar

import numpy as np
from einops import rearrange

from mmjax.data import Source
from mmjax.data.captions import check_templates
from mmjax.data.tokenizers.cleaning import bare
from mmjax.evals import Embed, Gallery, Report, classification, ranking, scores
from mmjax.evals.classes import Classes, Labelled, check_known, labelled
from mmjax.evals.examples import check_fields, spread
from mmjax.evals.galleries import ROWS, Side, mistakes, rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZeroShot:
    """Top-1 and top-5 accuracy, and recall averaged over the classes that occur (`zs_mpcr`).

    With `detail` also precision, recall, F1, the areas under the curves, the calibration error (where
    `embed` has `probs`), the confusion matrix and the reliability diagram; they need scikit-learn.
    """

    name: str  # data set and split, as metrics name it
    source: Source  # the id of an example is its class
    classes: Source | None = None  # its names are the candidate classes; None takes the source's own
    templates: tuple[str, ...] = ("{}",)  # of prompts; {} is the class's name
    punctuation: bool = True  # False takes it out of prompts, as those that SigLIP's results were made with
    every_steps: int = 0  # 0 evaluates after the last step only
    limit: int | None = None  # examples, evenly spread over the source; None takes all
    detail: bool = False
    needs: ClassVar[tuple[str, ...]] = ("image", "text")

    def __post_init__(self):
        check_fields(name=self.name, every_steps=self.every_steps, limit=self.limit)
        check_templates(self.templates)

    @property
    def finds(self) -> tuple[str, ...]:
        return classification.names("zs", detail=self.detail, calibrated=self.detail)

    def prepare(self) -> None:
        """Raises ValueError where an id of the source is not among the classes."""
        self.source.prepare()
        self._class_source.prepare()
        check_known(self.name, self.source.names, self._classes)
        if self.detail:
            scores.require()

    def __call__(self, embed: Embed) -> Report:
        of, names = self._labelled, self._classes.names
        images = Side(embed["image"](of.pictures), of.label_N, of.pictures)
        z_CE = embed_classes(embed, names, self.templates, punctuation=self.punctuation)
        classes = Side(z_CE, np.arange(len(names)), names)
        found = ranking.rank(images.z_NE, classes.z_NE, query_id_Q=images.id_N, candidate_id_C=classes.id_N)
        top = scores.top(found.rank_Q, of.label_N, classes=len(names))
        metrics = {f"zs_{name}": value for name, value in top.items()}
        pictures = _galleries(images, classes, found)
        if self.detail:
            score_NC = ranking.scores(images.z_NE, classes.z_NE)
            metrics |= classification.metrics("zs", score_NC, of.label_N, detail=True)
            pictures += (classification.confusion(score_NC, of.label_N, names),)
        if self.detail and "probs" in embed:
            probability_NC = embed["probs"](images.z_NE, classes.z_NE)
            error, diagram = classification.calibration("zs", probability_NC, of.label_N)
            metrics, pictures = metrics | error, (*pictures, diagram)
        return Report(metrics, pictures)

    @property
    def _class_source(self) -> Source:
        return self.source if self.classes is None else self.classes

    @functools.cached_property
    def _classes(self) -> Classes:
        return Classes(self._class_source.names)

    @functools.cached_property
    def _labelled(self) -> Labelled:
        # Read once: the label of every example is needed in every process, pictures are not kept.
        return labelled(self.name, self.source, self._classes, limit=self.limit)


def embed_classes(
    embed: Embed, names: tuple[str, ...], templates: tuple[str, ...], *, punctuation: bool = True
) -> np.ndarray:
    """Float32 [C, E] of norm 1: each class as the mean of its prompts."""
    prompts = [template.replace("{}", name) for name in names for template in templates]
    prompts = prompts if punctuation else [bare(prompt) for prompt in prompts]
    prompt_CTE = rearrange(embed["text"](prompts), "(c t) e -> c t e", t=len(templates))
    mean_CE = prompt_CTE.mean(axis=1)
    # Prompts may cancel out; a class without direction then scores 0 with every picture.
    return mean_CE / np.maximum(np.linalg.norm(mean_CE, axis=1, keepdims=True), 1e-12)


def _galleries(images: Side, classes: Side, found: ranking.Ranked) -> tuple[Gallery, ...]:
    return (
        Gallery(
            "Pictures and the classes they find",
            f"{len(classes.id_N):,} classes to choose from. The pictures are spread evenly over the data, "
            "not picked.",
            rows(images, classes, spread(len(images.id_N), ROWS)),
        ),
        Gallery(
            "Worst mistakes",
            "Where a wrong class beats the right one by the widest margin.",
            rows(images, classes, mistakes(found)),
        ),
    )
