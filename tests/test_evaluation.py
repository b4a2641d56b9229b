"""When evaluators run, and where what they find goes."""

import csv
import dataclasses
import json
import logging
from typing import ClassVar

import debugrun
import numpy as np
import pytest

from mmjax import evaluation, metrics
from mmjax.data.sources.scenes import Scenes
from mmjax.evals import Confusion, Report
from mmjax.evals.linear_probe import LinearProbe
from mmjax.evals.robustness import Robustness
from mmjax.evals.zero_shot import ZeroShot
from mmjax.evaluation import Evaluation, check_best, check_needs, licences


@dataclasses.dataclass(frozen=True, kw_only=True)
class Count:
    """Finds how many texts it embedded."""

    name: str
    metric: str = "texts"
    every_steps: int = 0
    texts: int = 1
    source: Scenes = Scenes(split="val", px=32)
    needs: ClassVar[tuple[str, ...]] = ("text",)

    def prepare(self):
        self.source.prepare()

    def __call__(self, embed):
        return Report({self.metric: float(len(embed["text"](["text"] * self.texts)))})


EMBED = {"text": lambda texts: texts}


@pytest.fixture
def writer(tmp_path):
    writer = metrics.Writer(tmp_path)
    yield writer
    writer.close()


def test_evaluators_are_due_at_multiples_of_their_steps_and_at_the_end(writer):
    evaluators = {
        "often": Count(name="a", every_steps=2),
        "seldom": Count(name="b", every_steps=3),
        "end": Count(name="c"),
    }
    run = Evaluation(evaluators, 7, writer)
    assert [set(run.due(step)) for step in range(8)] == [
        {"often", "seldom"},
        set(),
        {"often"},
        {"seldom"},
        {"often"},
        set(),
        {"often", "seldom"},
        {"often", "seldom", "end"},
    ]


def test_what_is_found_is_written_by_name_in_one_line_and_the_last_report_kept(tmp_path, writer):
    evaluators = {"often": Count(name="a", every_steps=2, texts=3), "end": Count(name="b.c-d", texts=5)}
    run = Evaluation(evaluators, 4, writer)
    for step in (1, 2, 3):
        run.run(step, EMBED)
    assert set(run.reports) == {"often"}
    run.run(4, EMBED)
    assert metrics.read(tmp_path / "metrics.jsonl") == [
        {"step": 2, "val/a/texts": 3.0},
        {"step": 4, "val/a/texts": 3.0, "val/b.c-d/texts": 5.0},
    ]
    assert run.reports["end"] == ("b.c-d", Report({"texts": 5.0}))


def test_two_evaluators_may_share_a_name_but_not_a_metric(writer):
    pair = {"one": Count(name="a"), "two": Count(name="a", metric="others")}
    Evaluation(pair, 1, writer).run(1, EMBED)
    pair["two"] = Count(name="a")
    with pytest.raises(ValueError, match="two evaluators write val/a/texts; give evals.two another name"):
        Evaluation(pair, 1, writer).run(1, EMBED)


def test_a_best_metric_that_its_evaluator_does_not_find_is_refused_with_the_nearest(writer):
    evaluators = {"one": Count(name="a", every_steps=2), "other": Count(name="b", every_steps=1)}
    run = Evaluation(evaluators, 9, writer, best="val/a/text")
    run.run(1, EMBED)
    with pytest.raises(ValueError, match="checkpoint.best='val/a/text' .* use one of val/a/texts, and"):
        run.run(2, EMBED)
    Evaluation(evaluators, 9, writer, best="val/a/texts").run(2, EMBED)


def test_a_best_metric_is_refused_before_training_where_its_evaluators_say_what_they_find():
    classes = dict(name="a", source=Scenes(split="val", px=32), every_steps=2)
    told = "checkpoint.best='val/a/zs_acc' is a metric that nobody writes; use one of .*val/a/zs_acc1"
    with pytest.raises(ValueError, match=told):
        check_best("val/a/zs_acc", {"one": ZeroShot(**classes)})
    check_best("val/a/zs_acc1", {"one": ZeroShot(**classes)})
    # Another one of this name does not say it.
    check_best("val/a/zs_acc", {"one": ZeroShot(**classes), "two": Count(name="a", every_steps=2)})
    with pytest.raises(ValueError, match="is no metric of an evaluator with every_steps"):
        check_best("val/a/texts", {"end": Count(name="a")})


def test_a_best_metric_may_be_of_the_later_of_two_evaluators_of_one_name(writer):
    evaluators = {
        "one": Count(name="a", every_steps=1),
        "two": Count(name="a", metric="others", every_steps=2),
    }
    run = Evaluation(evaluators, 9, writer, best="val/a/others")
    assert "val/a/others" not in run.run(1, EMBED)
    assert "val/a/others" in run.run(2, EMBED)


def test_a_finished_run_has_its_report_and_a_table_of_results(tmp_path, writer, caplog, monkeypatch):
    monkeypatch.setattr(metrics.log, "propagate", True)
    (tmp_path / "env.json").write_text(json.dumps({"jax": "1.2.3"}))
    run = Evaluation({"end": Count(name="scenes_x", texts=5)}, 1, writer)
    run.run(1, EMBED)
    with caplog.at_level(logging.INFO, "mmjax"):
        evaluation.finish(tmp_path, debugrun.config(), run, ["drawings by nobody"])
    assert "scenes_x" in caplog.text and "5.0000" in caplog.text and str(tmp_path) in caplog.text
    page = (tmp_path / "report.html").read_text()
    assert not list((tmp_path / "results").glob("*.csv"))
    assert "scenes_x" in page and "1.2.3" in page and "drawings by nobody" in page


def test_the_counts_of_a_confusion_matrix_lie_beside_the_results(tmp_path, writer):
    (tmp_path / "env.json").write_text("{}")
    run = Evaluation({}, 1, writer)
    matrix = Confusion("Matrix", "", ("a cat, or two", "dog"), np.array([[3, 0], [1, 2]]))
    run.reports["the end"] = ("pets", Report({"cls_acc1": 5 / 6}, (matrix,)))
    evaluation.finish(tmp_path, debugrun.config(), run, [])
    with (tmp_path / "results" / "the_end_confusion.csv").open() as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows == [
        ("a cat, or two", "a cat, or two", "3"),
        ("dog", "a cat, or two", "1"),
        ("dog", "dog", "2"),
    ]


def test_a_function_that_no_model_has_is_named_with_those_that_it_has():
    evals = {"fine": Count(name="a"), "count": Count(name="b")}
    check_needs(evals, EMBED)
    with pytest.raises(
        ValueError, match=r"evals.fine \(Count\) needs 'text', of a model that has image, probs;"
    ):
        check_needs(evals, {"probs": None, "image": None})


@dataclasses.dataclass(frozen=True)
class Licensed:
    licence: str


def test_evaluators_that_say_what_they_find_are_refused_before_they_run_where_two_write_the_same():
    source = Scenes(split="val", px=32)
    pair = {"one": ZeroShot(name="a", source=source), "two": ZeroShot(name="b", source=source)}
    check_needs(pair, ("image", "text"))
    pair["two"] = ZeroShot(name="a", source=source, templates=("a photo of {}",))
    with pytest.raises(ValueError, match="two evaluators write val/a/zs_acc1; give evals.two another name"):
        check_needs(pair, ("image", "text"))


def test_licences_are_those_of_all_data_that_is_named_each_once():
    probe = LinearProbe(name="x", source=Licensed("c"), train=Licensed("a"), val=Licensed("b"))
    found = licences(Licensed("a"), Robustness(evaluator=probe, metrics=("lp_acc1",)), Licensed(""))
    assert found == ["a", "c", "b"]
