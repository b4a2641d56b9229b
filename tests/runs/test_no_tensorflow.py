"""Where TensorFlow fails as soon as anything imports it, and PyTorch is not there, everything runs."""

from commands import ROOT, learned, python

CODE = """
import sys

tests, blocked, workdir = sys.argv[1:]
sys.path[:] = [blocked, *sys.path, tests + "/data/sources"]

class NoTorch:  # tensorboardX takes it along where it is there
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoTorch())

import dataclasses, pathlib, shutil
import small, test_emoji
import mmjax
from mmjax import runtime
from mmjax.checkpoint import Checkpointing
from mmjax.data.sources.emoji import Emoji
from mmjax.evals.zero_shot import ZeroShot

workdir = pathlib.Path(workdir)
drawings = test_emoji.collection(workdir.with_name("data") / "downloads")
held_out, trained = (
    Emoji(split=split, px=32, data_dir=str(workdir.with_name("data")), collection=drawings)
    for split in ("val_style", "train")
)
cfg = small.get_config()
emoji = ZeroShot(name="emoji_val_style", source=held_out, classes=trained)
cfg = dataclasses.replace(cfg, checkpoint=Checkpointing(every_steps=12), evals={**cfg.evals, "emoji": emoji})
runtime.start()
cfg.run(workdir)
(workdir / "report.html").unlink()
shutil.rmtree(workdir / "checkpoints" / "24")
cfg.run(workdir)
assert (workdir / "report.html").is_file()
assert mmjax.load(workdir).encode_text(["a star"]).shape == (1, 16)
assert not {"tensorflow", "torch"} & set(sys.modules)
"""


def test_a_run_trains_evaluates_reports_and_resumes_without_tensorflow(uninterrupted, tmp_path):
    package = tmp_path / "blocked" / "tensorflow" / "__init__.py"
    package.parent.mkdir(parents=True)
    # No ImportError, which a library might take for its absence.
    package.write_text("raise RuntimeError('something imports tensorflow')")
    done = python(CODE, ROOT / "tests", tmp_path / "blocked", tmp_path / "run")
    assert "restoring step 12" in done.stdout and "emoji: built" in done.stdout
    trained = [
        [line for line in learned(run) if "train/loss" in line[1]]
        for run in (tmp_path / "run", uninterrupted)
    ]
    assert trained[0] == trained[1]
    (evaluated,) = [found for _, found in learned(tmp_path / "run") if "val/emoji_val_style/zs_acc1" in found]
    assert "val/scenes_test/i2t_r1" in evaluated
