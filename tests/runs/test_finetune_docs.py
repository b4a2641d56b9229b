"""The commands of docs/finetune.md, in their order, on towers and numbers of steps for a test."""

import json
import re
import shlex
import shutil

import numpy as np
import own_pictures
import pytest
from commands import ROOT, devices, exit_code, lines, start

import mmjax
from mmjax.evals.charts import short

SMALL = ("finetune_folder.py:", "finetune_folder.py:size=32,steps=10,")


def commands():
    text = (ROOT / "docs" / "finetune.md").read_text()
    for block in re.findall(r"<!-- needs the tutorial -->\n```bash\n(.*?)```", text, flags=re.DOTALL):
        yield from block.splitlines()


@pytest.fixture(scope="module")
def tutorial(finished, tmp_path_factory):
    """A folder in which every command has been run, but for the first: a finished run is there already."""
    root = tmp_path_factory.mktemp("tutorial")
    for name, caption, image in own_pictures.things(100):
        paint = caption.split()[1]
        if paint in ("black", "red", "blue"):
            (root / "photos" / paint).mkdir(parents=True, exist_ok=True)
            image.save(root / "photos" / paint / name)
    first, *others = commands()
    assert first.endswith("--config=configs/quickstart.py --workdir=runs/quickstart")
    shutil.copytree(finished.workdir, root / "runs" / "quickstart")
    for command in others:
        given = dict(part.split("=", 1) for part in shlex.split(command.replace(*SMALL))[3:] if "=" in part)
        flags = [part for part in ("--eval_only", "--data=photos/") if part in command]
        cfg = f"{ROOT}/{given['--config']}" if "--config" in given else ""
        process = start(cfg, given["--workdir"], *flags, cwd=root, env=devices(1))
        assert exit_code(process) == 0, (command, (root / f"{given['--workdir']}.out").read_text())
    return root


def params(root, run):
    return mmjax.load(root / "runs" / run).params


def test_every_finished_finetune_can_be_used(tutorial, monkeypatch):
    monkeypatch.chdir(tutorial)
    pictures = sorted((tutorial / "photos").rglob("*.jpg"))[:4]
    for run in ("mine", "lora", "prompts", "probe", "wise", "soup", "merged", "lora_int8", "pruned"):
        model = mmjax.load(tutorial / "runs" / run)
        assert model.predict(pictures).shape == (4, 3) and model.names == ("black", "blue", "red")


def test_merged_low_rank_changes_say_what_unmerged_ones_say(tutorial, monkeypatch):
    monkeypatch.chdir(tutorial)
    pictures = sorted((tutorial / "photos").rglob("*.jpg"))[:8]
    lora, merged = (mmjax.load(tutorial / "runs" / run) for run in ("lora", "merged"))
    assert set(lora.params) == {"lora", "head"} and set(merged.params) == {"image", "head"}
    assert any(np.any(x) for x in np.asarray(lora.params["head"]["class"]["logits"]["bias"]))
    np.testing.assert_allclose(merged.predict(pictures), lora.predict(pictures), atol=1e-6)
    np.testing.assert_allclose(merged.encode(pictures), lora.encode(pictures), atol=1e-6)


def test_the_line_ends_at_the_finetune_and_what_is_kept_is_its_middle(tutorial):
    by_percent = {line["step"]: line for line in lines(tutorial / "runs" / "wise")}
    assert sorted(by_percent) == list(range(0, 101, 10))
    (name,) = (name for name in by_percent[100] if name.endswith("_val/cls_acc1"))
    assert by_percent[100][name] == lines(tutorial / "runs" / "prompts")[-1][name]
    wise, last = params(tutorial, "wise"), params(tutorial, "prompts")
    middle, end = (x["head"]["class"]["logits"]["bias"] for x in (wise, last))
    np.testing.assert_allclose(middle, np.asarray(end) / 2, rtol=1e-6)  # it began at zero


def test_the_report_of_the_line_draws_the_target_against_corrupted_pictures(tutorial):
    page = (tutorial / "runs" / "wise" / "report.html").read_text()
    by_percent = {line["step"]: line for line in lines(tutorial / "runs" / "wise")}
    for percent in (0, 50, 100):
        found = by_percent[percent]
        (target,) = (value for name, value in found.items() if name.endswith("_val/cls_acc1"))
        (shifted,) = (value for name, value in found.items() if name.endswith("_val/cls_acc1_corrupted"))
        point = f"{percent / 100:g}: shifted cls_acc1 {short(shifted)}, target cls_acc1 {short(target)}"
        assert f"<title>{point}</title>" in page
    best = json.loads((tutorial / "runs" / "wise" / "results" / "line.json").read_text())["metrics"][
        "best_alpha"
    ]
    assert round(100 * best) in by_percent


def test_int8_weights_of_merged_changes_say_almost_what_the_finetune_says(tutorial, monkeypatch):
    monkeypatch.chdir(tutorial)
    pictures = sorted((tutorial / "photos").rglob("*.jpg"))[:8]
    lora, small = (mmjax.load(tutorial / "runs" / run) for run in ("lora", "lora_int8"))
    assert small.params["head"]["class"]["logits"]["kernel"]["int8"].dtype == np.int8
    assert 0 < np.abs(small.predict(pictures) - lora.predict(pictures)).max() < 0.02
    (line,), last = (lines(tutorial / "runs" / run) for run in ("lora_int8", "lora"))
    before = {name: value for name, value in line.items() if name.endswith("cls_acc1_float32")}
    assert before == {name: last[-1][name.removesuffix("_float32")] for name in before} and before


def test_half_of_the_weights_of_a_pruned_kernel_are_zero(tutorial):
    kernel_LDF = np.asarray(params(tutorial, "pruned")["image"]["encoder"]["blocks"]["mlp"]["up"]["kernel"])
    np.testing.assert_array_equal(np.mean(kernel_LDF == 0, axis=(1, 2)), 0.5)


def test_a_soup_is_the_mean_of_its_parts(tutorial):
    soup, last, wise = (params(tutorial, run)["image"]["positions"] for run in ("soup", "prompts", "wise"))
    np.testing.assert_allclose(soup, (np.float64(last) + wise) / 2, rtol=1e-5, atol=1e-7)
