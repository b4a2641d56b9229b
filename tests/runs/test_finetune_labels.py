"""Labels as a user has them, from a table of their own to answers: one class, several, and of texts."""

import csv
import re

import numpy as np
import own_pictures
import pytest
import small_several
from commands import PAINTS, ROOT, assert_as_evaluated, here, lines

import mmjax
from mmjax.data.sources.held_out import held_out

VAL_SHARE = 0.2  # of `--data`


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """(folder, what each of its pictures shows: name, paint and shape)."""
    folder = tmp_path_factory.mktemp("own") / "photos"
    captions = own_pictures.write_pictures(folder, 160)
    return folder, [(name, *caption.split()[1:3]) for name, caption in captions]


def table(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def painted(pictures):
    """Rows (picture, paint), of which none that validates is yellow."""
    _, shown = pictures
    rows = [(name, paint) for name, paint, _ in shown if paint in PAINTS]
    return [row for row in rows if row[1] != "yellow" or not held_out(row[0], VAL_SHARE)]


def folder_config(finished):
    return f"{ROOT}/configs/finetune_folder.py:init_from={finished.workdir},size=32,steps=10"


def test_a_table_of_labels_is_trained_on_and_a_class_that_does_not_validate_is_named(
    pictures, painted, finished, tmp_path, capsys
):
    folder, _ = pictures
    data = table(folder / "labels.csv", ("file", "label"), painted)
    assert here(folder_config(finished), tmp_path / "run", f"--data={data}") == 0
    said = "photos_val: 1 of 4 classes have no example, and means over classes say nothing of them: yellow"
    assert said in capsys.readouterr().out
    model = mmjax.load(tmp_path / "run")
    assert model.names == PAINTS
    assert set(model.classify([folder / name for name, _ in painted[:5]])) <= set(PAINTS)


def refusal(capsys, *arguments):
    assert here(*arguments) == 78
    return next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))


def test_what_is_wrong_with_a_table_of_labels_is_one_line_before_the_first_step(
    pictures, painted, finished, tmp_path, capsys
):
    folder, _ = pictures
    cfg, workdir = folder_config(finished), tmp_path / "run"
    lost = table(folder / "lost.csv", ("file", "label"), [*painted, ("gone.jpg", "red")])
    message = refusal(capsys, cfg, workdir, f"--data={lost}")
    assert f"the table in {folder} names 1 pictures that are not there, such as gone.jpg; mend" in message
    alone = [row for row in painted if row[1] == "red" or not held_out(row[0], VAL_SHARE)]
    message = refusal(capsys, cfg, workdir, f"--data={table(folder / 'alone.csv', ('file', 'label'), alone)}")
    assert "photos_val has examples of 1 of 4 classes, wanted 2 or more; add examples of others" in message
    fewer = table(folder / "fewer.csv", ("file", "label"), painted)
    probe = f"{ROOT}/configs/finetune_probe.py:init_from={finished.workdir}"
    message = refusal(capsys, probe, workdir, f"--data={fewer}")
    assert "1 of 4 classes have no example in val: yellow; add examples, or make the split larger" in message
    assert not workdir.exists()


def test_several_classes_are_predicted_above_their_thresholds(pictures, finished, tmp_path):
    folder, shown = pictures
    known = small_several.LABELS.names
    tags = {name: [word for word in words if word in known] for name, *words in shown}
    data, workdir = tmp_path / "tagged", tmp_path / "run"
    data.mkdir()
    rows = [(folder / name, ",".join(found) or "none") for name, found in tags.items()]
    table(data / "tags.csv", ("file", "tags"), rows)
    spec = f"{ROOT}/tests/runs/small_several.py:init_from={finished.workdir},data={data}"
    assert here(spec, workdir) == 0
    model = assert_as_evaluated(workdir)
    val = model.config.evals["val"].source
    probs_NC = model.predict([val[i]["image"] for i in range(len(val))])
    above_NC = probs_NC >= np.array(small_several.LABELS.thresholds)
    answers = model.classify([val[i]["image"] for i in range(len(val))])
    assert answers == [tuple(np.array(known)[row_C]) for row_C in above_NC]
    truth = [set(val.texts(i)["text"][0].split(",")) - {"none"} for i in range(len(val))]
    exact = np.mean([set(found) == wanted for found, wanted in zip(answers, truth, strict=True)])
    assert lines(workdir)[-1]["val/val/cls_exact"] == pytest.approx(exact)
    # No softmax: of a picture that is of two classes both may be certain.
    assert np.ptp(probs_NC.sum(axis=1)) > 1e-3 and 0 < above_NC.mean() < 1


def test_pictures_texts_and_sounds_are_fused_and_the_one_that_tells_is_heard(tmp_path):
    spec = f"{ROOT}/tests/runs/small_sound.py"
    first, workdir = tmp_path / "first", tmp_path / "run"
    assert here(spec, first) == 0
    assert here(f"{spec}:init_from={first}", workdir) == 0
    model = mmjax.load(workdir, packages=("runs",))
    assert set(model.params) == {"image", "text", "sound", "fusion", "head"}
    (evaluator,) = model.config.evals.values()
    last = lines(workdir)[-1]
    found = evaluator(model.embed).metrics
    assert {f"val/val/{name}": value for name, value in found.items()}.items() <= last.items()
    assert found["cls_acc1"] > 0.8  # chance is a third
    examples = [evaluator.source[i] for i in range(6)]
    items = {name: [each[name] for each in examples] for name in ("image", "sound")}
    items["text"] = [each["text"][0] for each in examples]
    answers = model.classify(items)
    turned = items | {"sound": items["sound"][1:] + items["sound"][:1]}
    assert model.classify(turned) == answers[1:] + answers[:1]
    with pytest.raises(ValueError, match="give lists of one length for image and sound and text"):
        model.predict({name: items[name] for name in ("image", "text")})


@pytest.mark.parametrize("towers", ["image+text", "text"])
def test_the_statements_of_the_docs_are_classified(towers, pictures, finished, tmp_path, monkeypatch):
    """Of each picture what it shows, and what the one before it shows."""
    folder, shown = pictures
    text = (ROOT / "docs" / "finetune.md").read_text()
    (code,) = re.findall(r"```python\n# statements.py\n(.*?)```", text, flags=re.DOTALL)
    (command,) = re.findall(r"python -m mmjax.main --config=(statements.py\S*) --workdir=\S+", text)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "statements.py").write_text(code)
    (tmp_path / "photos").mkdir()
    said = [f"a {paint} {shape}" for _, paint, shape in shown]
    rows = [
        (folder / name, statement, "true" if statement == said[i] else "false")
        for i, (name, *_) in enumerate(shown)
        for statement in (said[i], said[i - 1])
    ]
    table(tmp_path / "photos" / "statements.csv", ("file", "text", "label"), rows)
    cfg, init_from = command.split("init_from=")
    assert init_from == "runs/quickstart"
    spec = f"{tmp_path / cfg}init_from={finished.workdir},towers={towers},size=32"
    smaller = ["fusion.width=16", "fusion.depth=1"] if "+" in towers else []
    assert here(spec, tmp_path / "run", "steps=2", "optim.warmup_steps=1", *smaller) == 0
    model = mmjax.load(tmp_path / "run")
    assert model.names == ("false", "true")
    items = {"image": [rows[0][0], rows[1][0]], "text": [rows[0][1], rows[1][1]]}
    probs_NC = model.predict({name: items[name] for name in towers.split("+")})
    np.testing.assert_allclose(probs_NC.sum(axis=1), 1, rtol=1e-6)
    assert "val/statements/cls_acc1" in lines(tmp_path / "run")[-1]
