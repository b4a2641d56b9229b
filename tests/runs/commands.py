"""`mmjax.main` as a user runs it, from a test: in this process, or in one that may be killed."""

import json
import multiprocessing
import os
import pathlib
import re
import struct
import subprocess
import sys
import time

import grain  # noqa: F401  it defines flags, which `flagsaver` would forget if they came later
import jax
from absl import app, flags
from absl.testing import flagsaver
from tensorboardX.proto.event_pb2 import Event, SessionLog

import mmjax
from mmjax import checkpoint, config, main, sharding
from mmjax.checkpoint import Checkpoints
from mmjax.contrastive.step import init_state

ROOT = pathlib.Path(__file__).parents[2]
DEBUG = ROOT / "configs" / "debug.py"
SMALL = ROOT / "tests" / "runs" / "small.py"
FINETUNE = ROOT / "tests" / "runs" / "small_finetune.py"
PAINTS = ("black", "blue", "red", "yellow")  # classes of a folder of pictures

# One process imports everything, once, and is copied before JAX has started: seconds less for every command.
_COPIES = multiprocessing.get_context("forkserver")
_COPIES.set_forkserver_preload(
    ["mmjax.main", "mmjax.serve", "mmjax.pretrain", "grain", "sklearn.metrics", "tensorboardX"]
)


def here(cfg, workdir, *arguments) -> int:
    """Exit code of the command, run in this process."""
    with flagsaver.flagsaver():
        return main.main(flags.FLAGS(["mmjax", f"--config={cfg}", f"--workdir={workdir}", *arguments]))


def start(cfg, workdir, *arguments, cwd=ROOT, env=None) -> multiprocessing.process.BaseProcess:
    """The command in a process of its own, just started; what it prints is added to `<workdir>.out`."""
    arguments = ["mmjax", f"--config={cfg}", f"--workdir={workdir}", *arguments]
    output = pathlib.Path(cwd) / f"{workdir}.out"
    process = _COPIES.Process(target=_command, args=(arguments, cwd, output, env or {}), daemon=True)
    process.start()
    return process


def devices(count) -> dict[str, str]:
    """Environment of a process with so many devices in place of eight; for one, programs compile faster."""
    name = "--xla_force_host_platform_device_count="
    return {"XLA_FLAGS": re.sub(rf"{name}\d+", f"{name}{count}", os.environ["XLA_FLAGS"])}


def exit_code(process, timeout_s=300) -> int:
    process.join(timeout_s)
    if process.is_alive():
        process.kill()
        process.join()
        raise TimeoutError(f"the command did not end within {timeout_s} s")
    return process.exitcode


def _command(arguments, cwd, output, env):
    os.chdir(cwd)
    os.environ.update(env)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    app.run(main.main, argv=arguments)


def python(code, *arguments, cwd=ROOT, **env) -> subprocess.CompletedProcess:
    """A fresh interpreter that runs `code`; must succeed."""
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{pathlib.Path(__file__).parent}", **env}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def lines(workdir) -> list[dict]:
    """The lines of `metrics.jsonl`; a last one that is being written is left out."""
    path = pathlib.Path(workdir) / "metrics.jsonl"
    whole = path.read_text().rpartition("\n")[0] if path.is_file() else ""
    return [json.loads(line) for line in whole.splitlines()]


def learned(workdir) -> list[tuple[int, dict]]:
    """What every line says of training and evaluation; how fast it was is left out."""
    found = [
        (line["step"], {name: value for name, value in line.items() if re.match("train/|val/", name)})
        for line in lines(workdir)
    ]
    return sorted(found, key=lambda line: (line[0], sorted(line[1])))


def events(workdir) -> list[tuple[str, int, float]]:
    """What TensorBoard shows: (name, step, value), less what a later start says it writes again."""
    shown = []
    for path in sorted((pathlib.Path(workdir) / "events").iterdir()):
        data = path.read_bytes()
        while data:  # a record: 8 bytes of length, 4 of checksum, the event, 4 of checksum
            (length,) = struct.unpack("<Q", data[:8])
            event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
            if event.session_log.status == SessionLog.START:
                shown = [value for value in shown if value[1] < event.step]
            shown += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
    return shown


def wait_for_step(process, workdir, step):
    """Returns once `step` is in `metrics.jsonl`, or the process has ended."""
    while process.is_alive() and not any(line["step"] >= step for line in lines(workdir)):
        time.sleep(0.002)


def last_state(workdir):
    """Every array of the last checkpoint by path, as bytes."""
    cfg = config.from_json((workdir / "config.json").read_text(), packages=("mmjax", "runs"))
    mesh = sharding.make_mesh(cfg.mesh)
    shapes = jax.eval_shape(lambda: init_state(cfg, sharding.batch_devices(mesh)))
    checkpoints = Checkpoints(workdir / "checkpoints", cfg.checkpoint)
    state, _ = checkpoints.restore(sharding.with_layout(shapes, sharding.shardings(mesh, shapes)))
    checkpoints.close()
    return by_path(state)


def last_arrays(workdir):
    """What `last_state` gives, of a run of any kind."""
    folder = workdir / "checkpoints"
    step, mesh, state = checkpoint.saved_steps(folder)[-1], sharding.make_mesh(sharding.MeshShape()), {}
    for item in ("params", "rest"):
        shapes = checkpoint.saved_shapes(folder, step, item=item)
        wanted = sharding.with_layout(shapes, jax.tree.map(lambda _: sharding.replicated(mesh), shapes))
        state[item] = checkpoint.restore_params(folder, wanted, step, item=item)
    return by_path(state)


def by_path(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {sharding.path_name(path): jax.device_get(leaf).tobytes() for path, leaf in leaves}


def assert_as_evaluated(workdir):
    """A loaded classifier is the one that the run evaluated last."""
    model = mmjax.load(workdir)
    (evaluator,) = model.config.evals.values()
    found = evaluator(model.embed).metrics
    assert {f"val/val/{name}": value for name, value in found.items()}.items() <= lines(workdir)[-1].items()
    return model
