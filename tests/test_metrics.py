"""What a run writes as it goes."""

import json
import logging
import math
import time

import pytest

from mmjax import metrics


@pytest.fixture
def log():
    return metrics.log


@pytest.fixture
def writer(tmp_path):
    writers = []

    def open_writer(**fields):
        writers.append(metrics.Writer(tmp_path, **fields))
        return writers[-1]

    yield open_writer
    for each in writers:
        each.close()


def test_every_write_is_one_line_of_json_on_disk(tmp_path, writer):
    run = writer()
    run.write(1, {"train/loss": 2.5, "perf/mfu": 0.25})
    run.write(2, {"train/loss": 2.0})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "train/loss": 2.5, "perf/mfu": 0.25},
        {"step": 2, "train/loss": 2.0},
    ]
    assert metrics.read(tmp_path / "metrics.jsonl") == [json.loads(line) for line in lines]


def test_numbers_that_json_lacks_become_null(tmp_path, writer):
    writer().write(1, {"train/loss": math.nan, "train/scale": math.inf, "train/lr": 0.5})
    assert metrics.read(tmp_path / "metrics.jsonl") == [
        {"step": 1, "train/loss": None, "train/scale": None, "train/lr": 0.5}
    ]


def test_metrics_go_to_tensorboard_too(tmp_path, writer):
    run = writer()
    run.write(1, {"train/loss": 2.5})
    run.close()
    (events,) = (tmp_path / "events").iterdir()
    assert b"train/loss" in events.read_bytes()


def test_a_resumed_run_drops_exactly_the_lines_that_it_writes_again(tmp_path, writer):
    run = writer()
    for step in (1, 2, 3):
        run.write(step, {"train/loss": float(step)})
        run.write(step, {"val/test/i2t_r1": float(step)})
    run.close()
    resumed = writer(resumed_at=2)
    resumed.write(2, {"val/test/i2t_r1": 7.0})
    resumed.write(3, {"train/loss": 8.0})
    assert metrics.read(tmp_path / "metrics.jsonl") == [
        {"step": 1, "train/loss": 1.0},
        {"step": 1, "val/test/i2t_r1": 1.0},
        {"step": 2, "train/loss": 2.0},
        {"step": 2, "val/test/i2t_r1": 7.0},
        {"step": 3, "train/loss": 8.0},
    ]


def test_a_run_that_begins_again_begins_an_empty_file(tmp_path, writer):
    writer().write(1, {"train/loss": 1.0})
    writer()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_line_cut_short_is_left_out_and_not_written_behind(tmp_path, writer):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "train/loss": 1.0}\n{"step": 2, "train/lo')
    assert metrics.read(path) == [{"step": 1, "train/loss": 1.0}]
    writer(resumed_at=1).write(2, {"train/loss": 2.0})
    assert [line["step"] for line in metrics.read(path)] == [1, 2]


def test_there_are_no_lines_where_there_is_no_file(tmp_path):
    assert metrics.read(tmp_path / "metrics.jsonl") == []


def test_the_log_goes_to_the_terminal_and_with_times_to_the_file(tmp_path, capsys, log):
    for _ in range(2):  # a second start takes the place of the first
        metrics.start_log(tmp_path / "log.txt")
    log.info("step %d", 3)
    assert capsys.readouterr().out == "step 3\n"
    (line,) = (tmp_path / "log.txt").read_text().splitlines()
    assert line[:2] == "20" and line.endswith(" INFO step 3")


def test_a_phase_says_that_it_goes_on(tmp_path, capsys, log):
    metrics.start_log(None)
    with metrics.phase("counting", every_s=0.01):
        deadline_s = time.monotonic() + 20
        out = ""
        while "still counting" not in out and time.monotonic() < deadline_s:
            time.sleep(0.01)
            out += capsys.readouterr().out
    out += capsys.readouterr().out
    first, *_, last = out.splitlines()
    assert first == "counting ..." and "\n  still counting (0 s)\n" in out
    assert last.startswith("counting: ") and last.endswith(" s")


def test_a_phase_that_fails_ends_its_beat_and_does_not_claim_to_be_done(caplog, log):
    log.propagate = True
    with caplog.at_level(logging.INFO, "mmjax"), pytest.raises(RuntimeError):
        with metrics.phase("counting", every_s=0.01):
            raise RuntimeError
    said = len(caplog.records)
    time.sleep(0.05)
    assert len(caplog.records) == said and not caplog.records[-1].message.startswith("counting: ")
