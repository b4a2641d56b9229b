"""Zero-shot classification: the class whose prompts lie nearest to a picture.

The embedding of a class is the mean of the unit-norm embeddings of its prompts, made unit-norm again: Radford
et al. 2021, arXiv:2103.00020, section 3.1.4. Classes of one name are one class: no text tells them apart.
Classes are in order of their ids; ties are ranked as `ranking` says.

Letters: N pictures, C classes, T templates, E embedding.
"""

import dataclasses
import functools

import numpy as np
from einops import rearrange

from mmjax.data import Source
from mmjax.data.captions import check_templates
from mmjax.data.tokenizers.cleaning import bare
from mmjax.evals import Embed, Gallery, Report, ranking
from mmjax.evals.examples import Pictures, check_fields, readable, spread
from mmjax.evals.galleries import ROWS, Side, mistakes, rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZeroShot:
    """Top-1 and top-5 accuracy, and recall averaged over the classes that occur (`zs_mpcr`)."""

    name: str  # data set and split, as metrics name it
    source: Source  # the id of an example is its class
    classes: Source | None = None  # its names are the candidate classes; None takes the source's own
    templates: tuple[str, ...] = ("{}",)  # of prompts; {} is the class's name
    punctuation: bool = True  # False takes it out of prompts, as those that SigLIP's results were made with
    every_steps: int = 0  # 0 evaluates after the last step only
    limit: int | None = None  # examples, evenly spread over the source; None takes all

    def __post_init__(self):
        check_fields(name=self.name, every_steps=self.every_steps, limit=self.limit)
        check_templates(self.templates)

    def prepare(self) -> None:
        """Raises ValueError where an id of the source is not among the classes."""
        self.source.prepare()
        self._class_source.prepare()
        self._check_known(self.source.names)

    def __call__(self, embed: Embed) -> Report:
        pictures, label_N = self._labelled_pictures
        names = tuple(self._class_of_name)
        images = Side(embed["image"](pictures), label_N, pictures)
        z_CE = embed_classes(embed, names, self.templates, punctuation=self.punctuation)
        classes = Side(z_CE, np.arange(len(names)), names)
        found = ranking.rank(images.z_NE, classes.z_NE, query_id_Q=images.id_N, candidate_id_C=classes.id_N)
        return Report(_metrics(found.rank_Q, label_N, len(names)), _galleries(images, classes, found))

    @property
    def _class_source(self) -> Source:
        return self.source if self.classes is None else self.classes

    @functools.cached_property
    def _class_of_name(self) -> dict[str, int]:
        names = self._class_source.names
        return {name: i for i, name in enumerate(dict.fromkeys(names[id] for id in sorted(names)))}

    @functools.cached_property
    def _labelled_pictures(self) -> tuple[Pictures, np.ndarray]:
        # Read once: the label of every example is needed in every process, pictures are not kept.
        found = readable(self.name, self.source, spread(len(self.source), self.limit))
        indices, ids = zip(*((index, example["id"]) for index, example in found), strict=True)
        self._check_known(ids)
        names = self._class_source.names
        return Pictures(self.source, np.array(indices)), np.array(
            [self._class_of_name[names[id]] for id in ids]
        )

    def _check_known(self, ids) -> None:
        names = self._class_source.names
        unknown = sorted(set(ids) - set(names))
        if unknown or not names:
            given = f"{len(unknown)} ids, the first is {unknown[0]}" if unknown else "every id"
            raise ValueError(
                f"{self.name}: {given}, not among the {len(names)} classes; give `classes` a source that "
                "names every id of `source`"
            )


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


def _metrics(rank_N: np.ndarray, label_N: np.ndarray, classes: int) -> dict[str, float]:
    count_C = np.bincount(label_N, minlength=classes)
    right_C = np.bincount(label_N, weights=rank_N == 1, minlength=classes)
    occurs_C = count_C > 0
    return {
        "zs_acc1": ranking.recall(rank_N, 1),
        "zs_acc5": ranking.recall(rank_N, 5),
        "zs_mpcr": float(np.mean(right_C[occurs_C] / count_C[occurs_C])),
        "zs_acc1_chance": 1 / classes,
    }


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
