"""Configs that load, and what overrides and arguments make of them."""

import pathlib

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from toyrun import Run

from mmjax import config


def test_a_config_file_anywhere_on_disk_is_loaded(plain):
    assert config.load(plain) == Run()


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ("", (False, 8, "a", 0.5, None)),
        (":debug", (True, 8, "a", 0.5, None)),
        (":debug=false,width=16", (False, 16, "a", 0.5, None)),
        (":name=8,rate=1", (False, 8, "8", 1.0, None)),
        (":limit=3", (False, 8, "a", 0.5, 3)),
    ],
)
def test_arguments_are_typed_by_annotations_or_defaults(write, arguments, expected):
    signature = "debug=False, width=8, name: str = 'a', rate: float = 0.5, limit: int | None = None"
    file = write(f"def get_config({signature}): return Run(anything=(debug, width, name, rate, limit))")
    given = config.load(file + arguments).anything
    assert given == expected and list(map(type, given)) == list(map(type, expected))


def at(node, path):
    for step in path.split("."):
        if isinstance(node, (tuple, dict)):
            node = node[int(step) if isinstance(node, tuple) else step]
        else:
            node = getattr(node, step)
    return node


@pytest.mark.parametrize(
    "override, value",
    [
        ("steps=1_000", 1000),
        ("bf16=true", True),
        ("bf16=false", False),
        ("bf16=True", True),
        ("note=None", None),
        ("note='none'", "none"),
        ("note=true", "true"),
        ("note=12", "12"),
        ("note=a=b, c", "a=b, c"),
        ("note=", ""),
        ("sizes=(1, 2, 3)", (1, 2, 3)),
        ("sizes=4,", (4,)),
        ("sizes=()", ()),
        ("optim.lr=3e-4", 3e-4),
        ("optim.lr=1", 1.0),
        ("optim.clip=none", None),
        ("optim.clip=2", 2.0),
        ("optim.betas=0,0.5", (0.0, 0.5)),
        ("optim.betas.1=0.5", 0.5),
        ("optim.schedule=constant", "constant"),
        ("towers.image.remat=full", "full"),
        ("towers.image.remat=none", "none"),
        ("objective.scale=20", 20.0),
        ("towers.image.width=16", 16),
        ("towers.image.stem.patch=8", 8),
        ("towers.image.pool=mean", "mean"),
        ("towers.image.rates=(0.1, 'a')", (0.1, "a")),
        ("colour.0.prob=0.2", 0.2),
        ("evals.style.every_steps=100", 100),
        ("evals.style.name=new", "new"),
        ("evals={}", {}),
        ("colour=()", ()),
        ("weights.a=2", 2.0),
        ("weights={'b': 2}", {"b": 2.0}),
        ("anything=3", 3),
        ("anything=word", "word"),
    ],
)
def test_an_override_takes_the_type_of_its_field_and_changes_nothing_else(plain, override, value):
    cfg = config.load(plain, [override])
    path = override.partition("=")[0]
    assert repr(at(cfg, path)) == repr(value)  # 1 is not 1.0 here
    changed = [line.partition(":")[0] for line in config.differences(Run(), cfg)]
    whole = path.removesuffix(".1")  # a tuple of numbers differs as a whole
    assert all(line.startswith(whole) for line in changed)


def test_overrides_of_one_class_are_checked_together_in_any_order(plain):
    for overrides in (["steps=500", "optim.warmup_steps=200"], ["optim.warmup_steps=200", "steps=500"]):
        assert config.load(plain, overrides).optim.warmup_steps == 200


def test_of_two_overrides_for_one_path_the_later_counts(plain):
    assert config.load(plain, ["steps=20", "steps=30"]).steps == 30


def test_a_config_builds_upon_another_in_the_current_directory(write, tmp_path, monkeypatch):
    write("def get_config(): return Run(steps=7000)", name="recipes/first.py")
    (tmp_path / "recipes/second.py").write_text(
        "import dataclasses\nfrom recipes.first import get_config as first\n"
        "def get_config(): return dataclasses.replace(first(), bf16=False)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert config.load("recipes/second.py") == Run(steps=7000, bf16=False)


def test_a_config_uses_classes_of_a_file_beside_it_and_of_its_own(write):
    header = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    body = "@dataclass(frozen=True)\nclass {}:\n    depth: int = 1\n    inner: object = None\n"
    pathlib.Path(write("", name="my_parts.py")).write_text(header + body.format("Part"))
    file = pathlib.Path(write("", name="alone.py"))
    file.write_text(header + "import my_parts\n" + body.format("Whole"))
    with file.open("a") as f:
        f.write("def get_config(): return Whole(inner=my_parts.Part())\n")
    cfg = config.load(str(file), ["inner.depth=2"])
    assert cfg.inner.depth == 2
    packages = [file.parent.name, "my_parts"]
    assert config.from_json(config.to_json(cfg), packages=packages) == cfg


def test_a_module_changed_by_overrides_still_initialises(plain):
    cfg = config.load(plain, ["towers.image.width=16", "towers.image.stem.patch=2"])
    params = cfg.towers["image"].init(jax.random.key(0), jnp.zeros((1, 3)))["params"]
    assert params["Dense_0"]["kernel"].shape == (3, 16)


def test_a_third_party_module_is_config_but_for_its_default_functions(write):
    file = write("def get_config(): return Run(objective=nn.Dense(features=3))")
    cfg = config.load(file, ["objective.features=5", "objective.dtype=bfloat16"])
    assert cfg.objective == nn.Dense(features=5, dtype="bfloat16")
    assert "kernel_init" not in config.show(cfg) + config.to_json(cfg)
    assert config.from_json(config.to_json(cfg), packages=("toyrun", "flax")) == cfg
