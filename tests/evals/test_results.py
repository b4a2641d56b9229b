"""Results as CLIP_benchmark writes them: its own code reads them, and its functions find the same numbers."""

import csv
import importlib
import json
import sys
import types
import unittest.mock

import numpy as np
import pytest

from mmjax.evals import Confusion, Report
from mmjax.evals.results import confusion, record
from mmjax.evals.retrieval import Retrieval

RETRIEVAL = {"i2t_r1": 0.5, "i2t_r10": 0.75, "t2i_r1": 0.25, "i2t_medr": 2.0, "i2t_r1_chance": 0.1}
ZERO_SHOT = {"zs_acc1": 0.5, "zs_acc5": 0.75, "zs_mpcr": 0.25, "zs_ece": float("nan")}


def test_metrics_have_the_names_of_clip_benchmark_where_it_has_them():
    found = record("x", "cats", Report(RETRIEVAL), model="run", pretrained="step_3")
    assert found["task"] == "zeroshot_retrieval"
    assert found["metrics"] == {
        "text_retrieval_recall@1": 0.5,
        "text_retrieval_recall@10": 0.75,
        "image_retrieval_recall@1": 0.25,
        "i2t_medr": 2.0,
        "i2t_r1_chance": 0.1,
    }
    found = record("x", "cats", Report(ZERO_SHOT), model="run", pretrained="step_3")
    assert found["task"] == "zeroshot_classification"
    assert found["metrics"] == {"acc1": 0.5, "acc5": 0.75, "mean_per_class_recall": 0.25, "zs_ece": None}
    found = record("x", "cats", Report({"lp_acc1": 0.5, "lp_mpcr": 0.25}), model="run", pretrained="step_3")
    assert found["task"] == "linear_probe"
    assert found["metrics"] == {"lp_acc1": 0.5, "lp_mean_per_class_recall": 0.25}
    of_finetune = {"cls_acc1": 0.5, "cls_acc5": 0.75, "cls_mpcr": 0.25, "cls_ece": 0.1}
    found = record("test", "cats", Report(of_finetune), model="run", pretrained="step_3")
    assert found["task"] == "finetuned_classification"
    assert found["metrics"] == {"acc1": 0.5, "acc5": 0.75, "mean_per_class_recall": 0.25, "cls_ece": 0.1}
    assert record("mine", "cats", Report({"a": 1.0}), model="run", pretrained="step_3")["task"] == "mine"


def theirs(module):
    """A module of CLIP_benchmark; what it imports and has no part in this is not needed."""
    return pytest.importorskip(f"clip_benchmark.{module}", reason="pip install 'mmjax[oracle]'")


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_the_table_builder_of_clip_benchmark_reads_the_files(tmp_path, monkeypatch):
    theirs("metrics.zeroshot_retrieval")
    # Its command imports the readers of forty data sets and the metrics of captions, none of which runs.
    for name in ("datasets.builder", "metrics.captioning", "model_collection", "models"):
        monkeypatch.setitem(sys.modules, f"clip_benchmark.{name}", unittest.mock.MagicMock())
    cli = importlib.import_module("clip_benchmark.cli")
    for label, metrics in (("one", RETRIEVAL), ("two", ZERO_SHOT)):
        found = record(label, "cats", Report(metrics), model="run", pretrained="step_3")
        (tmp_path / f"{label}.json").write_text(json.dumps(found))
    matrix = Confusion("Matrix", "", ("cat", "dog"), np.eye(2, dtype=int))
    (tmp_path / "one_confusion.csv").write_text(confusion(matrix))  # which is none of its business
    table = tmp_path / "table.csv"
    # As docs/evaluation.md has it, through its own parser.
    monkeypatch.setattr(sys, "argv", ["clip_benchmark", "build", str(tmp_path), f"--output={table}"])
    cli.main()
    with table.open() as file:
        rows = {row["task"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"zeroshot_retrieval", "zeroshot_classification"}
    assert rows["zeroshot_retrieval"]["text_retrieval_recall@10"] == "0.75"
    assert rows["zeroshot_classification"]["mean_per_class_recall"] == "0.25"
    assert {row["model_fullname"] for row in rows.values()} == {"run step_3"}


class Captioned:
    """Picture i has captions 2 i and 2 i + 1."""

    names = {}
    licence = ""

    def prepare(self):
        pass

    def __len__(self):
        return 40

    def __getitem__(self, index):
        image = np.full((2, 2, 3), index, np.uint8)
        return {"image": image, "text": (str(2 * index), str(2 * index + 1)), "id": index}


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_retrieval_finds_what_clip_benchmark_finds_on_random_embeddings():
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    image_NE = random.normal(size=(40, 8)).astype(np.float32)
    text_ME = (np.repeat(image_NE, 2, axis=0) + 2 * random.normal(size=(80, 8))).astype(np.float32)
    image_NE, text_ME = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (image_NE, text_ME))
    model = types.SimpleNamespace(
        encode_image=lambda rows: torch.tensor(image_NE)[rows],
        encode_text=lambda rows: torch.tensor(text_ME)[rows],
    )
    batches = [
        (torch.arange(start, start + 10), [[2 * i, 2 * i + 1] for i in range(start, start + 10)])
        for start in range(0, 40, 10)
    ]
    expected = theirs("metrics.zeroshot_retrieval").evaluate(
        model, batches, torch.tensor, "cpu", amp=False, recall_k_list=[1, 5, 10]
    )
    embed = {
        "image": lambda pictures: image_NE[[p[0, 0, 0] for p in pictures[0 : len(pictures)]]],
        "text": lambda texts: text_ME[[int(text) for text in texts]],
    }
    report = Retrieval(name="x", source=Captioned(), captions="all")(embed)
    found = record("x", "x", report, model="m", pretrained="p")["metrics"]
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6)
    assert len(expected) == 6 and 0 < min(expected.values()) < max(expected.values()) < 1
