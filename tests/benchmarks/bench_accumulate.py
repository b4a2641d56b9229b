"""A step in micro-batches beside plain steps of a micro-batch each: seconds, and memory as XLA plans it.

    python tests/benchmarks/bench_accumulate.py --config=configs/emoji_vit.py --batch=1024 --parts 2 4 8

For every number k of parts three programs are compiled: the step of the whole batch, for its memory alone;
the same in k micro-batches; and the plain step of one micro-batch. Every round takes one step in parts and k
plain ones. Forward twice and backward once, which costs two forward, makes 4/3 of the time; k - 1 updates are
saved, so the optimizer is AdamW, whose updates are cheap, whatever the config says. On a CPU the clock is CPU
time. Pictures are noise without alpha, so that no data are needed; colour ops that want it are left out.
"""

import argparse
import dataclasses
import importlib.metadata
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import jax
import numpy as np

from mmjax import config, sharding
from mmjax.contrastive.step import compile_step, init_state
from mmjax.data import colour
from mmjax.optim import AdamW

WARM_UP = 2  # steps


def shaped(cfg, rows, parts):
    data = dataclasses.replace(cfg.data, batch_size=rows)
    ops = colour.without_alpha(cfg.colour)
    optim = dataclasses.replace(cfg.optim, rule=AdamW())
    # Health is measured in no step: it would count once in one program and k times in the other.
    never = dict(steps=10**9, log_every=10**9)
    return dataclasses.replace(cfg, data=data, colour=ops, optim=optim, accumulate=parts, **never)


def random_batch(cfg):
    rng, rows, size = np.random.default_rng(0), cfg.data.batch_size, cfg.preprocess.size
    return {
        "image": rng.integers(0, 256, (rows, size, size, 3), dtype=np.uint8),
        "text": rng.integers(2, 256, (rows, cfg.tokenizer.length), dtype=np.int32),
        "id": np.arange(rows, dtype=np.int32),
    }


def compiled(cfg, mesh):
    """The compiled step, with a state and a batch for it."""
    with jax.set_mesh(mesh):
        batch = sharding.put_batch(mesh, random_batch(cfg))
        shapes = jax.eval_shape(lambda: init_state(cfg, sharding.batch_devices(mesh)))
        layout = sharding.shardings(mesh, shapes)
        state = jax.jit(lambda: init_state(cfg, sharding.batch_devices(mesh)), out_shardings=layout)()
        return compile_step(cfg, mesh, layout, shapes, batch), state, batch


def stepper(program, state, batch):
    """A function that takes so many steps and returns their seconds."""
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter

    def steps(count):
        nonlocal state
        start_s = clock()
        for _ in range(count):
            state, metrics = program(state, batch)
        jax.block_until_ready((state, metrics))
        return clock() - start_s

    return steps


def measure(cfg, mesh, rows, parts, rounds):
    """Prints one line of the table."""
    bytes_whole = compiled(shaped(cfg, rows, 1), mesh)[0].memory_analysis().temp_size_in_bytes
    programs = [compiled(shaped(cfg, rows, parts), mesh), compiled(shaped(cfg, rows // parts, 1), mesh)]
    bytes_by_parts = programs[0][0].memory_analysis().temp_size_in_bytes
    by_parts, plain = (stepper(*program) for program in programs)
    by_parts(WARM_UP), plain(WARM_UP)
    seconds = [(by_parts(1), plain(parts)) for _ in range(rounds)]
    ratios = sorted(one / other for one, other in seconds)
    middle_s, ratio = statistics.median(one for one, _ in seconds), statistics.median(ratios)
    print(
        f"{parts:5} | {middle_s:10.2f} | {ratio:7.2f} [{ratios[0]:.2f} - {ratios[-1]:.2f}] | "
        f"{bytes_by_parts / 2**20:8.0f} | {bytes_whole / 2**20:8.0f} | {bytes_by_parts / bytes_whole:.2f}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/emoji_vit.py")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--parts", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    cfg = config.load(args.config)
    mesh = sharding.make_mesh(cfg.mesh)
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")}
    print(jax.devices()[0].device_kind, len(jax.devices()), "devices", versions)
    print(f"{args.config}: batch {args.batch}, {args.rounds} rounds; ratio: median and range")
    print("parts | s per step | ratio to k plain steps | MiB temp | of whole | share")
    for parts in args.parts:
        measure(cfg, mesh, args.batch, parts, args.rounds)


if __name__ == "__main__":
    main()
