"""Evaluators alone, on a finished run."""

import json
import re
import shutil

import pytest
from commands import DEBUG, here, lines

from mmjax.serve.evaluate import split

OTHERS = """
import dataclasses
from configs import debug
from mmjax.data.sources.scenes import Scenes
from mmjax.evals.embedding_health import EmbeddingHealth
from mmjax.evals.relevance import Relevance
from mmjax.evals.retrieval import Retrieval


def get_config():
    source = Scenes(split="val", px=debug.SIZE)
    return dataclasses.replace(
        debug.get_config(),
        steps=3,  # nothing but evals counts
        evals={
            "pairs": Retrieval(name="scenes_val", source=source, limit=20),
            "health": EmbeddingHealth(name="scenes_val", source=source, limit=20),
            "maps": Relevance(name="scenes_val", source=source, limit=20),
        },
    )
"""


CLASSIFIED = """
from configs import debug
from mmjax.data.sources.scenes import Scenes
from mmjax.evals.classified import Classified
from mmjax.evaluation import Evaluate


def get_config():
    return Evaluate(evals={"colours": Classified(name="scenes", source=Scenes(split="val", px=debug.SIZE))})
"""


@pytest.fixture(scope="module")
def run(finished, tmp_path_factory):
    """A finished run's directory, to write into."""
    return shutil.copytree(finished.workdir, tmp_path_factory.mktemp("judged") / "finished")


def alone(workdir, *arguments):
    """Exit code of the command without --config."""
    return here("", workdir, "--eval_only", *arguments)


def test_the_runs_own_evaluators_find_again_what_they_found(run, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in run.iterdir() if path.is_file()}
    assert alone(run) == 0
    folder = run / "eval_20"
    (found,) = lines(folder)
    of_run = next(line for line in lines(run) if "val/scenes_test/i2t_r1" in line)
    assert found == {
        name: value for name, value in of_run.items() if not name.startswith(("train/", "perf/"))
    }
    assert {path: path.stat().st_mtime_ns for path in before} == before
    page = (folder / "report.html").read_text()
    assert "eval_20" in page and "Loss" in page and "picture → caption" in page


def test_evaluators_of_another_config_judge_the_checkpoint_of_a_step(run, tmp_path):
    (tmp_path / "others.py").write_text(OTHERS)
    assert here(tmp_path / "others.py", f"{run}@10", "--eval_only", "evals.health.limit=10") == 0
    folder = run / "eval_10"
    (found,) = lines(folder)
    assert found["step"] == 10 and "val/scenes_val/i2t_r1" in found
    assert found["val/scenes_val/rank_image"] <= 10
    results = {path.stem: json.loads(path.read_text()) for path in (folder / "results").iterdir()}
    assert set(results) == {"pairs", "health", "maps"}
    # The same pictures and captions: what is hidden of them changes the cosine a little.
    assert all(-1 < found[f"val/scenes_val/rel_{name}"] < 1 for name in ("cosine", "without_most"))
    page = (folder / "report.html").read_text()
    assert "Where captions are found" in page and 'class="pic' in page
    assert results["pairs"]["task"] == "zeroshot_retrieval"
    assert results["pairs"]["metrics"]["text_retrieval_recall@5"] == found["val/scenes_val/i2t_r5"]
    assert results["health"]["pretrained"] == "step_10" and results["health"]["model"] == "finished"


def test_a_training_run_writes_its_results_too(run):
    (path,) = (run / "results").iterdir()
    assert json.loads(path.read_text())["dataset"] == "scenes_test"


@pytest.mark.parametrize(
    ("path", "arguments", "message"),
    [
        ("{}@7", [], "no weights of step 7"),
        ("{}@best", [], "no weights in .*best"),
        ("nowhere", [], "no run in nowhere"),
        ("{}", ["optim.lr=1"], "optim.lr=1 changes nothing of an evaluation"),
        ("{}", ["evals={}"], "no evaluators in the config"),
        ("{}", ["--data=photos"], "--data=photos puts data into a config; give --config"),
        ("", [], "--eval_only needs --workdir"),
    ],
)
def test_a_mistake_is_named_before_anything_is_evaluated(run, capsys, path, arguments, message):
    assert alone(path.format(run), *arguments) == 78
    assert re.search(message, capsys.readouterr().err)


def test_an_evaluator_of_what_the_model_cannot_do_is_refused_at_once(run, tmp_path, capsys):
    (tmp_path / "classified.py").write_text(CLASSIFIED)
    assert here(tmp_path / "classified.py", run, "--eval_only") == 78
    (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message == (
        "error: evals.colours (Classified) needs 'classes/class', of a model that has image, probs, "
        "relevance, seen, text; leave this evaluator out, or take another model"
    )


def test_a_config_file_that_is_wrong_is_named(run, capsys):
    assert here(DEBUG, run, "--eval_only", "evals.tset.limit=3") == 78
    assert "tset" in capsys.readouterr().err


def test_a_directory_with_an_at_sign_is_a_workdir(tmp_path):
    (tmp_path / "run@3").mkdir()
    assert split(str(tmp_path / "run@3")) == (tmp_path / "run@3", None)
    assert split(str(tmp_path / "run@4")) == (tmp_path / "run", 4)
    assert split(str(tmp_path / "run@best")) == (tmp_path / "run", "best")
