"""Configs, arguments and overrides that are refused, and in which words."""

import pytest

from mmjax import config
from mmjax.config import ConfigError


@pytest.mark.parametrize(
    "override, message",
    [
        ("stesp=1", r"^config \(Run\) has no 'stesp'; did you mean steps\?"),
        ("optmi.lr=1", r"^config \(Run\) has no 'optmi'; did you mean optim\?"),
        ("optim.warmup=1", r"^optim \(Optim\) has no 'warmup'; did you mean warmup_steps\?"),
        ("optim.x=1", r"^optim \(Optim\) has no 'x'; choose from lr, warmup_steps, clip, betas, schedule"),
        ("optim.betas.2=1", r"^optim.betas \(tuple\) has no '2'; choose from 0, 1"),
        ("objective.scael=1", r"^objective \(InfoNCE\) has no 'scael'; did you mean scale\?"),
        ("towers.imgae.width=1", r"^towers \(dict\) has no 'imgae'; did you mean image\?"),
        ("towers.image.widht=1", r"^towers.image \(Tower\) has no 'widht'; did you mean width\?"),
        ("towers.image.stem.pacth=1", r"^towers.image.stem \(Stem\) has no 'pacth'; did you mean patch\?"),
        ("colour.7.prob=1", r"^colour \(tuple\) has no '7'; choose from 0, 1"),
        ("colour.0.porb=1", r"^colour.0 \(Jitter\) has no 'porb'; did you mean prob\?"),
        ("evals.stlye.every_steps=1", r"^evals \(dict\) has no 'stlye'; did you mean style\?"),
        ("evals.style.every=1", r"^evals.style \(Retrieval\) has no 'every'; did you mean every_steps\?"),
        ("weights.b=1", r"^weights \(dict\) has no 'b'; choose from a"),
        ("steps.x=1", r"^steps=100 has no fields to set"),
        ("ema.lr=1", r"^ema=None has no fields to set; change it in the config file"),
        ("steps", r"^override 'steps' sets nothing; write it as field.subfield=value"),
    ],
)
def test_an_unknown_path_is_refused_with_the_nearest_name(plain, override, message):
    with pytest.raises(ConfigError, match=message):
        config.load(plain, [override])


@pytest.mark.parametrize(
    "override, message",
    [
        ("steps=1.5", r"^steps: wanted int, got '1.5'"),
        ("steps=1e3", r"^steps: wanted int, got '1e3'"),
        ("steps=true", r"^steps: wanted int, got 'true'"),
        ("steps=none", r"^steps: wanted int, got 'none'"),
        ("note=none", r"^note: 'none' could be a string; write None or, in quotes, \"'none'\""),
        ("anything=true", r"^anything: 'true' could be a string; write True or, in quotes, \"'true'\""),
        ("bf16=1", r"^bf16: wanted bool, got '1'"),
        ("bf16=yes", r"^bf16: wanted bool, got 'yes'"),
        ("sizes=3", r"^sizes: wanted tuple\[int, ...\], got '3'"),
        ("sizes=[3]", r"^sizes: wanted tuple\[int, ...\], got '\[3\]'"),
        ("optim.lr=fast", r"^optim.lr: wanted float, got 'fast'"),
        ("optim.clip=x", r"^optim.clip: wanted float \| None, got 'x'"),
        ("optim.betas=0.9", r"^optim.betas: wanted tuple\[float, float\], got '0.9'"),
        ("optim.betas=1,2,3", r"^optim.betas: wanted tuple\[float, float\], got '1,2,3'"),
        ("optim.betas.1=x", r"^optim.betas.1: wanted float, got 'x'"),
        ("optim.schedule=linear", r"^optim.schedule: wanted 'cosine' \| 'constant', got 'linear'"),
        ("towers.image.width=wide", r"^towers.image.width: wanted int, got 'wide'"),
        ("colour.0.prob=x", r"^colour.0.prob: wanted float, got 'x'"),
        ("weights.a=x", r"^weights.a: wanted float, got 'x'"),
        ("optim=x", r"^optim: 'x' is no Optim; set what is in it, such as optim.lr=..."),
        ("evals={'a': 1}", r"^evals: wanted dict\[str, Evaluator\], got \"{'a': 1}\""),
        ("colour=1,", r"^colour: wanted tuple\[Callable, ...\], got '1,'"),
        ("optim=none", r"^optim: wanted Optim, got 'none'"),
        ("evals.style=none", r"^evals.style: wanted Evaluator, got 'none'"),
    ],
)
def test_a_wrong_type_is_refused_naming_path_wanted_type_and_text(plain, override, message):
    with pytest.raises(ConfigError, match=message):
        config.load(plain, [override])


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["optim.lr=0"], r"^optim: lr=0.0 must be positive"),
        (["optim.warmup_steps=500"], r"^Run: optim.warmup_steps=500 exceeds steps=100"),
    ],
)
def test_what_a_class_refuses_is_reported_with_its_path(plain, overrides, message):
    with pytest.raises(ConfigError, match=message):
        config.load(plain, overrides)


@pytest.mark.parametrize("overrides", [["optim=none", "optim.lr=1"], ["optim.lr=1", "optim=none"]])
def test_a_whole_and_a_part_of_it_are_not_both_set(plain, overrides):
    with pytest.raises(ConfigError, match="and another set a whole and a part of it; drop one"):
        config.load(plain, overrides)


@pytest.mark.parametrize("name", ["parent", "name"])
def test_what_linen_adds_to_a_module_cannot_be_set(plain, name):
    with pytest.raises(ConfigError, match=rf"^towers.image \(Tower\) has no '{name}'"):
        config.load(plain, [f"towers.image.{name}=x"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (":debgu", r"run.py: get_config takes no 'debgu'; did you mean debug\?"),
        (":width=wide", r"run.py:width: wanted int, got 'wide'"),
        (":width", r"run.py:width: wanted int, got True"),
        (":debug=3", r"run.py:debug: wanted bool, got '3'"),
    ],
)
def test_wrong_arguments_of_a_config_file_are_refused(write, arguments, message):
    file = write("def get_config(debug: bool = False, width=8): return Run()")
    with pytest.raises(ConfigError, match=message):
        config.load(file + arguments)


@pytest.mark.parametrize(
    "body, message",
    [
        ("x = 1\nundefined", r"run.py:3: NameError: name 'undefined' is not defined"),
        ("import not_there_at_all", r"run.py:2: ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("def get_config(:", r"run.py:2: invalid syntax"),
        ("x = 1", r"run.py has no get_config; write one that returns the config"),
        ("def get_config(): return {}", r"run.py: get_config must return a dataclass, got {}"),
        ("def get_config(): return Run", r"run.py: get_config must return a dataclass, got <class"),
        ("def get_config(size): return Run()", r"run.py: TypeError: get_config\(\) missing 1 required"),
        (
            "def get_config():\n  return Run(stesp=1)",
            r"run.py:3: TypeError: .*unexpected keyword argument 'stesp'",
        ),
        ("def get_config():\n  return Run(optim=Optim(lr=-1))", r"run.py:3: lr=-1 must be positive"),
    ],
)
def test_a_file_that_fails_is_reported_with_its_line(write, body, message):
    with pytest.raises(ConfigError, match=message):
        config.load(write(body))


def test_a_failing_file_that_a_config_imports_is_reported_with_its_line(write):
    write("1 / 0", name="broken_base.py")
    with pytest.raises(ConfigError, match=r"broken_base.py:2: ZeroDivisionError"):
        config.load(write("from broken_base import x"))


def test_a_missing_file_is_reported_with_the_nearest_name(write, tmp_path):
    write("", name="quickstart.py")
    with pytest.raises(
        ConfigError, match=r"there is no file .*quikstart.py; did you mean .*/quickstart.py\?"
    ):
        config.load(str(tmp_path / "quikstart.py"))


def test_a_file_that_is_not_python_is_refused(write):
    with pytest.raises(ConfigError, match="config.json is no Python file; a config's name ends in .py"):
        config.load(write("", name="config.json"))


@pytest.mark.parametrize(
    "built, message",
    [
        ("steps=100.0", r"run.py: steps: wanted int, got 100.0"),
        ("bf16=1", r"run.py: bf16: wanted bool, got 1"),
        ("sizes=[32]", r"run.py: sizes: wanted tuple\[int, ...\], got \[32\]"),
        ("sizes=(32, 'x')", r"run.py: sizes.1: wanted int, got 'x'"),
        ("optim=Optim(clip='1')", r"run.py: optim.clip: wanted float \| None, got '1'"),
        (
            "optim=Optim(schedule='linear')",
            r"run.py: optim.schedule: wanted 'cosine' \| 'constant', got 'lin",
        ),
        ("objective=Optim()", r"run.py: objective: wanted Module, got Optim"),
        ("objective=InfoNCE(scale='x')", r"run.py: objective.scale: wanted float, got 'x'"),
        ("towers={'image': 3}", r"run.py: towers.image: wanted Module, got 3"),
        (
            "towers={'image': Tower(stem=Stem(patch='4'))}",
            r"run.py: towers.image.stem.patch: wanted int, got '4'",
        ),
        ("colour=(Jitter(prob='x'),)", r"run.py: colour.0.prob: wanted float, got 'x'"),
        ("colour=('jitter',)", r"run.py: colour.0: wanted Callable, got 'jitter'"),
        ("evals={'style': len}", r"run.py: evals.style: wanted Evaluator, got <built-in"),
        (
            "evals={'style': Retrieval(every_steps=1.0)}",
            r"run.py: evals.style.every_steps: wanted int, got 1.0",
        ),
        ("anything=(Optim(clip='x'),)", r"run.py: anything.0.clip: wanted float \| None, got 'x'"),
        ("ema=Retrieval()", r"run.py: ema: wanted Optim \| None, got Retrieval"),
        ("towers={'image': Tower(name='eye')}", r"run.py: towers.image: got a module with name='eye'"),
    ],
)
def test_a_wrong_type_in_the_file_itself_is_refused(write, built, message):
    with pytest.raises(ConfigError, match=message):
        config.load(write(f"def get_config(): return Run({built})"))


@pytest.mark.parametrize(
    "built, message",
    [
        ("optim=Optim(lr='3e-4')", r"run.py:3: lr: wanted float, got '3e-4'"),
        ("steps=True", r"run.py:3: steps: wanted int, got True"),
        ("optim=None", r"run.py:3: optim: wanted Optim, got None"),
    ],
)
def test_a_wrong_type_that_the_checks_of_a_class_stumble_over_is_still_named(write, built, message):
    with pytest.raises(ConfigError, match=message):
        config.load(write(f"def get_config():\n  return Run({built})"))
