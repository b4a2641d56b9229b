"""What a config of any modalities refuses, before the first step."""

import dataclasses

import jax
import pytest
import threefold
import tinyclip
from threefold import TWO, VIEWS, taught

from mmjax.contrastive.step import init_state
from mmjax.data.fields import Field
from mmjax.objectives.distilled import DistilledInfoNCE
from mmjax.objectives.infonce import InfoNCE
from mmjax.objectives.pairs import Pair, Views
from mmjax.objectives.queue import Queue

ONE = {"image": threefold.Colours()}
SOUND = threefold.Tones()
TEXT_FIRST = (Pair(first="text", second="image"), Pair(first="text", second="sound"))


def changed(**fields):
    cfg = threefold.config()
    data = {name: fields.pop(name) for name in ("may_lack", "hard_texts", "fields") if name in fields}
    return dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, **data), **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(towers={}), r"towers=\[\]: give two or more, such as 'image' and 'text'"),
        (dict(towers=ONE), r"towers=\['image'\]: give two or more"),
        (
            dict(towers=TWO | {"video": SOUND}),
            r"towers has \['video'\], but data.fields has",
        ),
        (dict(tokenizer=None), "towers has 'text', for which tokenizer is needed"),
        (dict(preprocess=None), "towers has 'image', for which preprocess is needed"),
        (
            dict(
                fields={"objective": Field(), "sound": Field()}, towers=TWO | {"objective": threefold.Tones()}
            ),
            "towers has 'objective', the name of the objective's parameters",
        ),
        (
            dict(towers={"image": threefold.Colours(), "sound": threefold.Tones()}, hard_texts=1),
            "needs a tower",
        ),
        (
            dict(fields={"label": Field(), "sound": Field()}, may_lack=("label",)),
            r"data.may_lack has \['label'\], which is no modality",
        ),
    ],
)
def test_towers_that_the_data_does_not_serve_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        changed(**fields)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (changed(objective=InfoNCE()), r"\['sound'\] is in no pair of objective.views; add one, or leave"),
        (
            changed(towers=TWO, may_lack=()),
            r"objective.views compares \['sound'\], but there are towers for \[",
        ),
        (
            threefold.config(hard_texts=1, objective=InfoNCE(views=Views(pairs=TEXT_FIRST))),
            "data.hard_texts, but objective.views has no pair whose second modality is 'text'",
        ),
        (taught(DistilledInfoNCE(), "teacher/image"), r"the batch lacks \['teacher/text'\], the teacher's"),
        (
            changed(objective=InfoNCE(views=VIEWS, queue=Queue(size=48))),
            "queue.size=48 does not hold whole batches; use a multiple of the batch of 32",
        ),
        (
            changed(objective=InfoNCE(views=VIEWS, duplicates="masked", duplicates_by="label")),
            "duplicates='masked' needs 'label' in the batch",
        ),
        (
            changed(towers=TWO | {"sound": tinyclip.Linear(is_normed=True)}),
            "the sound tower normalises by statistics of the batch, in which what is missing would count",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_before_a_directory_is_made(tmp_path, cfg, message):
    with pytest.raises(ValueError, match=message) as error:
        cfg.run(tmp_path / "run")
    assert "\n" not in str(error.value).partition("\n----")[0]
    assert not (tmp_path / "run").exists()


def test_a_tower_of_another_width_is_refused():
    cfg = changed(towers=TWO | {"sound": threefold.Tones(embed=4)})
    with pytest.raises(ValueError, match="differ: image has embed=8, text has embed=8, sound has embed=4"):
        jax.eval_shape(lambda: init_state(cfg, 8))


def test_other_data_is_refused_for_further_modalities(tmp_path):
    with pytest.raises(ValueError, match="--data gives pictures and texts alone, but the config has other"):
        threefold.config().with_data(str(tmp_path))
