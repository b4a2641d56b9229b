"""What the health metrics add to a train step, as a share of it.

    python tests/benchmarks/bench_health.py --config=configs/quickstart.py

The same step is compiled twice, to measure health in every step and in none; the two are taken in turns. The
difference is paid once in `log_every` steps. On a CPU the clock is CPU time.
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


def random_batch(cfg):
    rng, rows, size = np.random.default_rng(0), cfg.data.batch_size, cfg.preprocess.size
    channels = np.shape(cfg.data.train[0]["image"])[-1]
    return {
        "image": rng.integers(0, 256, (rows, size, size, channels), dtype=np.uint8),
        "text": rng.integers(2, 256, (rows, cfg.tokenizer.length), dtype=np.int32),
        "id": np.arange(rows, dtype=np.int32),
    }


def stepper(cfg, mesh):
    """A function that takes a step and returns its seconds."""
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    with jax.set_mesh(mesh):
        batch = sharding.put_batch(mesh, random_batch(cfg))
        shapes = jax.eval_shape(lambda: init_state(cfg, sharding.batch_devices(mesh)))
        layout = sharding.shardings(mesh, shapes)
        state = jax.jit(lambda: init_state(cfg, sharding.batch_devices(mesh)), out_shardings=layout)()
        compiled = compile_step(cfg, mesh, layout, shapes, batch)

    def step():
        nonlocal state
        start_s = clock()
        state, metrics = compiled(state, batch)
        jax.block_until_ready((state, metrics))
        return clock() - start_s

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    cfg = config.load(args.config)
    mesh = sharding.make_mesh(cfg.mesh)
    never = dataclasses.replace(cfg, steps=10**9, log_every=10**9)
    always = dataclasses.replace(never, log_every=1)
    without, with_health = stepper(never, mesh), stepper(always, mesh)
    for step in (without, with_health):
        step(), step()
    rounds = [(without(), with_health()) for _ in range(args.rounds)]
    plain_s, extra = statistics.median(a for a, _ in rounds), [b / a - 1 for a, b in rounds]
    low, middle, high = (100 * q for q in np.quantile(extra, (0.1, 0.5, 0.9)))
    versions = {
        package: importlib.metadata.version(package) for package in ("jax", "jaxlib", "flax", "optax")
    }
    print(jax.devices()[0].device_kind, len(jax.devices()), "devices", versions)
    print(f"{args.config}: batch {cfg.data.batch_size}, step {1e3 * plain_s:.1f} ms without health")
    print(f"measured in every step: {middle:+.1f} % [{low:+.1f} - {high:+.1f}] of a step")
    print(f"once in log_every={cfg.log_every} steps: {middle / cfg.log_every:+.2f} %")


if __name__ == "__main__":
    main()
