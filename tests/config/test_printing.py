"""What is shown of a config and of two that differ."""

import dataclasses
import pathlib
import shlex
import subprocess
import sys

import pytest
from toyrun import RICH, Jitter, Optim, Run, Sigmoid, Tower

from mmjax import config

ROOT = pathlib.Path(__file__).parents[2]


def changed(**changes):
    return dataclasses.replace(Run(), **changes)


@pytest.mark.parametrize(
    "other, lines",
    [
        (Run(), []),
        (changed(optim=Optim(lr=0.002, clip=None)), ["optim.lr: 0.001 -> 0.002", "optim.clip: 1.0 -> None"]),
        (changed(optim=Optim(clip=1)), []),
        (changed(objective=Sigmoid(bias=1.0)), ["objective: InfoNCE -> Sigmoid"]),
        (changed(towers={"image": Tower(width=16)}), ["towers.image.width: 8 -> 16"]),
        (
            changed(towers={"text": Tower()}),
            ["towers.image: Tower -> absent", "towers.text: absent -> Tower"],
        ),
        (changed(sizes=(1, 2)), ["sizes: (32,) -> (1, 2)"]),
        (changed(colour=()), ["colour: (Jitter, Invert) -> ()"]),
        (changed(colour=(Jitter(prob=0.1),)), ["colour.0.prob: 0.5 -> 0.1", "colour.1: Invert -> absent"]),
        (changed(ema=Optim()), ["ema: None -> Optim"]),
        (changed(evals={}), ["evals: {style} -> {}"]),
        (changed(note="a b"), ["note: None -> a b"]),
        (changed(note="None"), ["note: None -> 'None'"]),
        (Optim(), ["config: Run -> Optim"]),
    ],
)
def test_differences_are_one_line_each(other, lines):
    assert config.differences(Run(), other) == lines


def test_two_classes_of_one_name_are_told_apart():
    fork = type("Optim", (Optim,), {"__module__": "fork"})
    assert config.differences(Optim(), fork()) == ["config: toyrun.Optim -> fork.Optim"]


def test_show_reads_as_sections():
    assert config.show(Run()).splitlines() == [
        "# Run",
        "steps=100",
        "bf16=True",
        "note=None",
        "sizes='(32,)'",
        "# optim: Optim",
        "  optim.lr=0.001",
        "  optim.warmup_steps=10",
        "  optim.clip=1.0",
        "  optim.betas='(0.9, 0.95)'",
        "  optim.schedule=cosine",
        "# objective: InfoNCE",
        "  objective.scale=10.0",
        "  # towers.image: Tower",
        "    towers.image.width=8",
        "    towers.image.pool=cls",
        "    towers.image.remat=none",
        "    # towers.image.stem: Stem",
        "      towers.image.stem.patch=4",
        "    towers.image.rates=None",
        "  # colour.0: Jitter",
        "    colour.0.prob=0.5",
        "  # colour.1: Invert",
        "  # evals.style: Retrieval",
        "    evals.style.every_steps=0",
        "    evals.style.name=test",
        "  weights.a=1.0",
        "anything=None",
        "ema=None",
    ]


def test_what_show_prints_are_overrides_that_lead_back_to_the_config(write):
    file = write("def get_config(): return RICH")
    other = [
        "steps=7",
        "bf16=false",
        "note=true",
        "sizes=(1, -2)",
        "optim.warmup_steps=3",
        "optim.schedule=cosine",
        "towers.text.rates.x=#a 'b' \"c\"",
        "anything=(1, ('x', None))",
    ]
    cfg = config.load(file, other)
    bare = config.load(file, ["evals={}", "colour=()", "weights={}"])
    for shown in (cfg, bare, RICH):
        assert config.load(file, shlex.split(config.show(shown), comments=True)) == shown


def test_importing_the_config_package_imports_no_jax():
    code = "import sys, mmjax.config; assert not {'jax', 'flax', 'numpy', 'absl'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
