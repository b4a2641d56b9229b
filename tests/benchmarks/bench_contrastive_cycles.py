"""Cycles that a TPU takes for 4,096 x 4,096 logits, by the compiler's schedule: XLA's tiles and the kernels.

    python tests/benchmarks/bench_contrastive_cycles.py --chip v5e --width 512 --dtype float32 --by xla

Needs libtpu, but no TPU. Of what XLA makes itself these are its own estimates, times the turns of the loops;
of a kernel the length of its schedule, times the places of its grid, and the estimates of what is around it.
Neither knows of waiting for memory, and neither was run on a TPU: it is their ratio that says something.
"""

import argparse
import os
import pathlib
import re
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.kernels.contrastive import pallas_tpu, tiles
from mmjax.kernels.contrastive.rules import Side, Sigmoid, Softmax, SoftmaxStatistics

PAIRS = 4096
RULES = {"infonce": Softmax(), "sigmoid": Sigmoid()}
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def arguments(rule, width, dtype, chip):
    """By direction: shapes of what `tiles.forward` and `tiles.backward` take after the rule."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=f"{chip}:2x2").devices
    where = NamedSharding(Mesh(np.array(devices[:1]), ("one",)), PartitionSpec())

    def shape(*sizes, dtype="float32"):
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=where)

    z, vector = shape(PAIRS, width, dtype=dtype), shape(PAIRS)
    index = shape(PAIRS, dtype="int32")
    row, column = Side(z, vector, vector, index), Side(z, index=index)
    found = SoftmaxStatistics(vector, vector) if isinstance(rule, Softmax) else vector
    of_columns = found if rule.columns else None
    gradient = shape(PAIRS, width)
    return {
        "forward": (row, column, [found], [of_columns]),
        "backward": (
            *(row, column, ([found], [found]), ([of_columns], [of_columns])),
            *(Side(gradient, vector, vector), Side(gradient)),
        ),
    }


def estimated(program: str, turns) -> int:
    """Cycles by XLA's estimates of all but kernels.

    Args:
        turns: of the outermost loops, of those inside them ...
    """
    bodies, entry = {}, None
    for line in program.splitlines():
        start = re.match(r"(ENTRY )?%([\w.\-]+) .*\{$", line)
        if start:
            lines = bodies[start[2]] = []
            entry = start[2] if start[1] else entry
        elif line.startswith("  "):
            lines.append(line)

    def cycles(name, depth):
        total = 0
        for line in bodies[name]:
            loop = re.search(r" while\(.*body=%([\w.\-]+)", line)
            estimate = re.search(r'"estimated_cycles":"(\d+)"', line)
            if loop:
                total += turns[depth] * cycles(loop[1], depth + 1)
            elif estimate and "tpu_custom_call" not in line:
                total += int(estimate[1])
        return total

    return cycles(entry, 0)


def scheduled(folder: pathlib.Path) -> int:
    """Length of the schedule of the one kernel that libtpu wrote about: cycles of a place of its grid."""
    (file,) = folder.glob("*contrastive_*schedule-analysis_final_bundles.txt")
    return int(re.search(r"total scheduled bundles:\s+(\d+)", file.read_text())[1])


def by_xla(direction, rule, args) -> int:
    high, wide = tiles.tile_sizes(PAIRS, PAIRS, args[0].z.shape[1])
    compiled = jax.jit(lambda *args: getattr(tiles, direction)(rule, (), *args)).lower(*args).compile()
    return estimated(compiled.as_text(), (PAIRS // wide, PAIRS // high))


def by_kernels(direction, rule, args, folder) -> int:
    compiled = jax.jit(lambda *args: getattr(pallas_tpu, direction)(rule, (), *args)).lower(*args).compile()
    places = PAIRS**2 // (pallas_tpu._HIGH * pallas_tpu._WIDE)
    around = estimated(compiled.as_text(), (PAIRS // pallas_tpu._held(args[1]),))
    cycles = places * scheduled(folder) + around
    for file in folder.iterdir():
        file.unlink()
    return cycles


def both_ways(args):
    """Cycles forward and backward, by what `args.by` says."""
    rule = RULES[args.loss]
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(ENVIRONMENT)
        if args.by == "kernels":
            # Read when libtpu is loaded, with the first topology. XLA's tiles would fill gigabytes with it.
            dump = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true --xla_jf_emit_annotations=true"
            os.environ["LIBTPU_INIT_ARGS"] = dump
        for direction, shapes in arguments(rule, args.width, jnp.dtype(args.dtype), args.chip).items():
            if args.by == "kernels":
                yield by_kernels(direction, rule, shapes, pathlib.Path(folder))
            else:
                yield by_xla(direction, rule, shapes)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chip", choices=["v5e", "v6e"], default="v5e")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--loss", choices=RULES, default="infonce")
    parser.add_argument("--by", choices=["xla", "kernels"], required=True)
    args = parser.parse_args()
    forward, backward = both_ways(args)
    print(f"{args.chip}, {args.loss}, width {args.width}, {args.dtype}, by {args.by}, jax {jax.__version__}")
    print(f"forward {forward:,} backward {backward:,} both {forward + backward:,}")


if __name__ == "__main__":
    main()
