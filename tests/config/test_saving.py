"""JSON leads back to the same config, and builds nothing that was not asked for."""

import dataclasses
import json
import sys

import jax.numpy as jnp
import pytest
from flax import linen as nn
from toyrun import RICH, Run

from mmjax import config
from mmjax.config import ConfigError


@pytest.mark.parametrize("cfg", [Run(), RICH], ids=["defaults", "rich"])
def test_json_leads_back_to_the_same_config(cfg):
    text = config.to_json(cfg)
    again = config.from_json(text, packages=("toyrun",))
    assert again == cfg
    assert config.to_json(again) == text


def test_json_names_classes_and_hides_what_linen_adds():
    saved = json.loads(config.to_json(Run()))
    assert saved["optim"]["class"] == "toyrun.Optim"
    assert saved["towers"]["image"] == {
        "class": "toyrun.Tower",
        "width": 8,
        "pool": "cls",
        "remat": "none",
        "stem": {"class": "toyrun.Stem", "patch": 4},
        "rates": None,
    }


@pytest.mark.parametrize("key", ["type", "class", "items"])
def test_any_key_of_a_dict_survives_json(key):
    cfg = Run(anything={"outer": {key: ({key: 1},)}})
    assert config.from_json(config.to_json(cfg), packages=("toyrun",)) == cfg


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), [1], {1: 2}, len, jnp.float32, 1j], ids=lambda v: str(v)[:12]
)
def test_what_is_not_data_is_not_saved(value):
    with pytest.raises(ConfigError, match=r"^anything.0: wanted data .*finite float.*, got"):
        config.to_json(Run(anything=(value,)))


def test_a_class_without_a_name_to_import_it_by_is_not_saved():
    @dataclasses.dataclass(frozen=True)
    class Local: ...

    with pytest.raises(ConfigError, match=r"^anything: move .*Local to the top level of its module"):
        config.to_json(Run(anything=Local()))


def saved(**changes):
    return json.dumps(json.loads(config.to_json(Run())) | changes)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", r"config.json is damaged: .* line 1 .*; restore it"),
        ("[]", r"config.json names no class"),
        (saved(stesp=1), r"^config \(Run\) has no 'stesp'; did you mean steps\?"),
        (saved(optim={"class": "toyrun.Optim", "rate": 1}), r"^optim \(Optim\) has no 'rate'"),
        (
            saved(objective={"class": "toyrun.Sigmoid", "name": "x"}),
            r"^objective \(Sigmoid\) has no 'name'",
        ),
        (saved(steps="1"), r"^steps: wanted int, got '1'"),
        (saved(optim={"class": "toyrun.Optim", "lr": 0}), r"^optim: lr=0.0 must be positive"),
        (
            saved(optim={"class": "toyrun.Optin"}),
            r"^optim: toyrun defines no dataclass 'Optin'",
        ),
        (
            saved(optim={"class": "toyrun.saved"}),
            r"^optim: toyrun defines no dataclass 'saved'",
        ),
        (
            saved(optim={"class": "toyrun.ConfigError"}),
            r"toyrun defines no dataclass 'ConfigError'",
        ),
        (
            saved(optim={"class": "toyrun.nothing.Optim"}),
            r"^optim: cannot import toyrun.nothing",
        ),
        (saved(optim={"class": 3}), r"^optim: 3 is not of toyrun"),
        (saved(optim={"class": "dict", "items": 3}), r"^optim: dict is not of toyrun"),
        (
            saved(optim={"class": "toyrun.RICH"}),
            r"^optim: toyrun defines no dataclass 'RICH'",
        ),
    ],
)
def test_json_that_does_not_fit_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        config.from_json(text, packages=("toyrun",))


def test_a_field_without_default_missing_from_json_is_named():
    text = json.dumps({"class": "toyrun.Run", "objective": {"class": "flax.linen.linear.Dense"}})
    with pytest.raises(ConfigError, match=r"^objective: .*missing 1 required .*'features'"):
        config.from_json(text, packages=("toyrun", "flax"))


def test_a_strangers_json_imports_nothing_outside_the_packages(tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    text = saved(optim={"class": "stranger.Optim", "lr": 1.0})
    message = r"^optim: stranger.Optim is not of toyrun; .* pass packages=\('toyrun', 'stranger'\)"
    with pytest.raises(ConfigError, match=message):
        config.from_json(text, packages=("toyrun",))
    with pytest.raises(ConfigError, match=r"^config: toyrun.Run is not of mmjax"):
        config.from_json(config.to_json(Run()))


def test_the_packages_of_a_config_are_those_of_all_its_classes():
    assert config.packages(Run()) == ("mmjax", "toyrun")
    cfg = Run(anything=({"a": nn.Dense(features=1)},))
    assert config.packages(cfg) == ("flax", "mmjax", "toyrun")
    assert config.from_json(config.to_json(cfg), config.packages(cfg)) == cfg


def test_a_class_that_a_package_only_imports_is_not_built(monkeypatch):
    text = json.dumps({"class": "mmjax.config.loading.pathlib.Path"})
    with pytest.raises(ConfigError, match="cannot import mmjax.config.loading.pathlib"):
        config.from_json(text)
    text = json.dumps({"class": "toyrun.Alias"})
    monkeypatch.setattr(sys.modules["toyrun"], "Alias", nn.Dense, raising=False)
    with pytest.raises(ConfigError, match="toyrun defines no dataclass 'Alias'"):
        config.from_json(text, packages=("toyrun",))
