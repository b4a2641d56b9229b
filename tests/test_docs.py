"""What the documents show works."""

import importlib
import pathlib
import re
import sys

import mmjax
from mmjax import config, metrics

ROOT = pathlib.Path(__file__).parents[1]


def test_the_files_of_adding_md_make_a_run(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "adding.md").read_text()
    blocks = re.findall(r"```python\n# (mine/\w+\.py)\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 5
    for name, code in blocks:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    try:
        cfg = config.load(str(tmp_path / "mine" / "config.py"), ["mesh.data=8"])
        cfg.run(tmp_path / "run")
        last = metrics.read(tmp_path / "run" / "metrics.jsonl")[-1]
        model = mmjax.load(tmp_path / "run", packages=("mine",))
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
            del sys.modules[name]
    # Three plain colours and their names: anything but certainty would be a fault of the run.
    assert last["val/cards/zs_acc1"] == 1.0
    assert last["val/cards/gap"] > 0
    assert model.encode_text(["a red card"]).shape == (1, 8)


def test_every_link_between_documents_leads_somewhere():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#]+)\)", prose):
            if "://" not in target:
                assert (page.parent / target).is_file(), f"{page.name} links to {target}"


def test_every_config_of_the_readme_is_there():
    named = set(re.findall(r"`configs/(\w+\.py)`", (ROOT / "README.md").read_text()))
    there = {path.name for path in (ROOT / "configs").glob("*.py")} - {"__init__.py"}
    assert named == there
