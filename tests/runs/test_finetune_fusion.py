"""Several towers and several tasks, as a user runs them."""

import jax
import numpy as np
import pytest
from commands import ROOT, here, lines
from small_tasks import TASKS, Single

import mmjax
from mmjax.data.sources.scenes_questions import ANSWERS, TOPICS

STEPS = 2
SMALL = [
    "data.batch_size=16",
    "data.train.scenes.size=1000",
    "log_every=1",
    *(f"evals.{name}.limit=12" for name in ("all", *TOPICS)),
]


def asked(finished, workdir, *arguments, options=""):
    """Exit code of configs/finetune_vqa.py, cut down, from a debug run."""
    spec = f"{ROOT}/configs/finetune_vqa.py:init_from={finished.workdir},size=32,steps={STEPS}{options}"
    return here(spec, workdir, *SMALL, *arguments)


def evaluated(workdir, metrics, name):
    """Whether a run's last line says what an evaluator finds of the loaded model."""
    last = lines(workdir)[-1]
    return all(last[f"val/{name}/{metric}"] == value for metric, value in metrics.items())


def test_a_question_about_a_picture_is_answered_from_the_set(finished, tmp_path):
    workdir = tmp_path / "vqa"
    assert asked(finished, workdir) == 0
    model = mmjax.load(workdir)
    assert set(model.params) == {"image", "text", "fusion", "head"} and model.names == ANSWERS
    evaluator = model.config.evals["all"]
    assert evaluated(workdir, evaluator(model.embed).metrics, evaluator.name)
    examples = [evaluator.source[i] for i in range(3)]
    items = {"image": [e["image"] for e in examples], "text": [e["text"][0] for e in examples]}
    assert set(model.classify(items)) <= set(ANSWERS)
    np.testing.assert_allclose(model.predict(items).sum(axis=1), 1, rtol=1e-6)
    assert model.encode(items["text"], "text").shape[0] == 3


@pytest.mark.slow
def test_a_kept_head_goes_on_with_its_fusion(finished, tmp_path, capsys):
    """With a rate of nothing what was kept stays as it was."""
    first, again = tmp_path / "first", tmp_path / "again"
    assert asked(finished, first) == 0
    kept = [f"init_from={first}", "tasks.answer.keep_head=True", "optim.lr=1e-30"]
    assert asked(finished, again, *kept) == 0
    for part in ("fusion", "head"):
        jax.tree.map(np.testing.assert_array_equal, *(mmjax.load(run).params[part] for run in (first, again)))
    assert asked(finished, tmp_path / "other", *kept, options=",fusion=concat") == 78
    (line,) = capsys.readouterr().err.splitlines()
    assert "tasks.answer.keep_head" in line and "no such head for the same classes and fusion; begin" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, parts",
    [
        (",fusion=concat", {"image", "text", "head"}),
        (",tower=image", {"image", "head"}),
        (",tower=text", {"text", "head"}),
    ],
)
def test_the_comparisons_of_the_config_run(options, parts, finished, tmp_path):
    assert asked(finished, tmp_path / "run", options=options) == 0
    assert set(mmjax.load(tmp_path / "run").params) == parts


@pytest.mark.parametrize(
    "argument, message",
    [
        (
            "tasks.answer.labels.names=()",
            "labels.names=() is no answer set; give two or more different answers",
        ),
        ("tasks.answer.labels.names=('yes', 'no')", ", which is none of the 2 answers; mend it, or add"),
        ("fusion.asks=sound", "cross-attention is of 'sound' to one other tower, but towers="),
    ],
)
def test_what_cannot_be_answered_is_refused_before_the_first_step(
    argument, message, finished, tmp_path, capsys
):
    assert asked(finished, tmp_path / "run", argument) == 78
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()


def test_a_tower_for_what_no_example_has_is_refused(finished, tmp_path, capsys):
    spec = f"{ROOT}/tests/runs/small_tasks.py:init_from={finished.workdir},towers=image+text"
    assert here(spec, tmp_path / "run") == 78
    (line,) = capsys.readouterr().err.splitlines()
    assert "towers for image, text, but examples of the training data have no text; leave these" in line


def test_every_task_has_its_head_its_metrics_and_its_answers(finished, tmp_path):
    workdir = tmp_path / "tasks"
    assert here(f"{ROOT}/tests/runs/small_tasks.py:init_from={finished.workdir}", workdir) == 0
    for line in lines(workdir)[:4]:
        by_weight = sum(task.weight * line[f"train/{name}/loss"] for name, task in TASKS.items())
        assert line["train/loss"] == pytest.approx(by_weight, rel=1e-5)
    model = mmjax.load(workdir, packages=("runs",))
    pictures = [Single(first=1_000, size=23)[i]["image"] for i in range(3)]
    for name, task in TASKS.items():
        assert set(model.classify(pictures, task=name)) <= set(task.labels.names)
        evaluator = model.config.evals[name]
        assert evaluated(workdir, evaluator(model.embed).metrics, evaluator.name)
    with pytest.raises(ValueError, match="has the tasks color, shape, and none was named; name one"):
        model.predict(pictures)
