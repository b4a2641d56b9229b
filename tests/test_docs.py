"""What the documents show works."""

import importlib
import os
import pathlib
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

import numpy as np
import pytest

import mmjax
from mmjax import config, evals, metrics

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def forget(package):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The folder of the package `mine`, still empty, on the path."""
    (tmp_path / "mine").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    # A config file of this name that another test loaded is a module, too.
    forget("mine")
    importlib.invalidate_caches()
    yield tmp_path / "mine"
    forget("mine")


def shell():
    """(page, what it needs, line) of every command of the documents."""
    for page in PAGES:
        found = re.findall(
            r"(?:<!-- (needs [^>]*) -->\n)?```bash\n(.*?)```", page.read_text(), flags=re.DOTALL
        )
        yield from ((page.name, needs, line) for needs, block in found for line in block.splitlines())


def run(command, cwd):
    """Runs a command of the documents with this interpreter and this package, on one device."""
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    one_device = re.sub(r"(device_count)=\d+", r"\1=1", os.environ["XLA_FLAGS"])
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "XLA_FLAGS": one_device}
    command = command.replace("PYTHONPATH=.", f"PYTHONPATH=.:{ROOT}")
    done = subprocess.run(command, shell=True, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def files_of_adding():
    """The files that the document shows, by name."""
    text = (ROOT / "docs" / "adding.md").read_text()
    return dict(re.findall(r"```python\n# mine/(\w+\.py)\n(.*?)```", text, flags=re.DOTALL))


def test_the_files_of_adding_md_make_a_run(tmp_path, mine):
    files = files_of_adding()
    assert len(files) == 6
    for name, code in files.items():
        (mine / name).write_text(code)
    (command,) = (line for page, needs, line in shell() if needs == "needs the files above")
    run(command, cwd=tmp_path)
    last = metrics.read(tmp_path / "runs" / "mine" / "metrics.jsonl")[-1]
    model = mmjax.load(tmp_path / "runs" / "mine", packages=("mine",))
    # Three plain colours and their names: anything but certainty would be a fault of the run.
    assert last["val/cards/zs_acc1"] == 1.0
    assert last["val/cards/gap"] > 0
    assert model.encode_text(["a red card"]).shape == (1, 8)
    (command,) = (line for page, needs, line in shell() if needs == "needs the files above, too")
    run(command, cwd=tmp_path)
    last = metrics.read(tmp_path / "runs" / "sounds" / "metrics.jsonl")[-1]
    model = mmjax.load(tmp_path / "runs" / "sounds", packages=("mine",))
    # Three tones and three names.
    assert last["train/sound_text/loss"] < 0.2
    assert model.embed["sound"](np.zeros((3, 64), np.float32)).shape == (3, 8)


# Towers that compile fast, where the part is not one.
ONE_PART = """
import dataclasses
from configs import debug
from mmjax.towers.conv import ConvNet
from mmjax.towers.text import BagOfPieces
from mine import {file}

def get_config():
    image = ConvNet(widths=(8,), depth=0, hidden=16, embed=16)
    towers = {{"image": image, "text": BagOfPieces(vocab=debug.VOCAB, width=16, embed=16)}}
    cfg = dataclasses.replace(debug.get_config(), towers=towers, evals={{}})
    return dataclasses.replace(cfg, {line})
"""


@pytest.mark.parametrize(
    "file, line, shown",
    [
        ("tower", "towers=cfg.towers | {'image': tower.MeanColour(embed=16)}", "train/loss"),
        ("objective", "objective=objective.Triplet()", "train/positive"),
        ("source", "data=dataclasses.replace(cfg.data, train=source.Cards(px=debug.SIZE))", "train/loss"),
        ("evaluator", "evals={'gap': evaluator.Gap(name='scenes', source=cfg.data.train)}", "val/scenes/gap"),
    ],
    ids=["tower", "objective", "source", "evaluator"],
)
def test_a_part_takes_one_file_and_one_line_in_a_config(tmp_path, mine, file, line, shown):
    (mine / f"{file}.py").write_text(files_of_adding()[f"{file}.py"])
    (tmp_path / "forked.py").write_text(ONE_PART.format(file=file, line=line))
    small = ["steps=2", "optim.warmup_steps=1", "data.train.size=64"]
    cfg = config.load(str(tmp_path / "forked.py"), small)
    # The part is in what is run, and nothing else of this package.
    assert re.findall(r'"(mine\.\w+)\.\w+"', config.to_json(cfg)) == [f"mine.{file}"]
    cfg.run(tmp_path / "run")
    found = metrics.read(tmp_path / "run" / "metrics.jsonl")
    assert found[-1]["step"] == 2 and all(np.isfinite(each["train/loss"]) for each in found[:2])
    assert shown in {name for each in found for name in each}


def test_the_documents_build_into_a_site_without_a_warning(tmp_path):
    shutil.copytree(ROOT / "docs", tmp_path, dirs_exist_ok=True)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", "zensical.toml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "No issues found" in done.stderr, done.stdout + done.stderr
    pages = {path.with_suffix(".html").name for path in (ROOT / "docs").glob("*.md")}
    assert pages <= {path.name for path in (tmp_path / "site").iterdir()}


def test_every_page_is_in_the_navigation():
    with (ROOT / "docs" / "zensical.toml").open("rb") as file:
        navigation = str(tomllib.load(file)["project"]["nav"])
    for path in (ROOT / "docs").glob("*.md"):
        assert f"'{path.name}'" in navigation


def test_every_link_of_the_readme_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert "://" in target or (ROOT / target).is_file(), target


def blocks():
    """Python of the documents that says of nothing that it needs it, but for the files of adding.md."""
    for page in PAGES:
        for i, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)):
            if not code.startswith(("# needs: ", "# mine/")):
                yield pytest.param(code, id=f"{page.name}-{i}")


@pytest.mark.parametrize("code", list(blocks()))
def test_python_of_the_documents_runs(code):
    exec(compile(code, "a document", "exec"), {})


def commands(*, run_here):
    """Commands that say of nothing that they need it, or the other ones that name a config."""
    for page, needs, line in shell():
        if not needs if run_here else needs and "--config=configs/" in line:
            yield pytest.param(line, id=f"{page}: {line}")


@pytest.mark.parametrize("command", list(commands(run_here=True)))
def test_commands_of_the_documents_run(command, tmp_path):
    run(command.replace("--workdir=", f"--workdir={tmp_path}/"), cwd=ROOT)


@pytest.mark.parametrize("command", list(commands(run_here=False)))
def test_commands_that_need_more_name_a_config_and_fields_that_exist(command):
    arguments = shlex.split(command)[2:]
    flags = dict(a.removeprefix("--").split("=", 1) for a in arguments if a.startswith("--") and "=" in a)
    overrides = [a for a in arguments if not a.startswith("--") and "=" in a]
    assert config.load(flags["config"], overrides)


def test_every_evaluator_is_in_the_table_of_them():
    table = set(re.findall(r"^\| `(\w+\.\w+)`", (ROOT / "docs" / "evaluation.md").read_text(), re.MULTILINE))
    modules = [
        importlib.import_module(f"mmjax.evals.{each.name}") for each in pkgutil.iter_modules(evals.__path__)
    ]
    there = {
        f"{module.__name__.rpartition('.')[2]}.{name}"
        for module in modules
        for name, kind in vars(module).items()
        if isinstance(kind, type) and kind.__module__ == module.__name__ and hasattr(kind, "prepare")
    }
    assert table == there


def test_every_config_of_the_readme_is_there():
    named = set(re.findall(r"`configs/(\w+\.py)`", (ROOT / "README.md").read_text()))
    there = {path.name for path in (ROOT / "configs").glob("*.py")} - {"__init__.py"}
    assert named == there
