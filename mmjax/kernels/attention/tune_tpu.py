"""Makes the table of blocks for TPUs, on any machine that has libtpu: compiles every candidate for every
shape, and takes the one of fewest cycles.

    python -m mmjax.kernels.attention.tune_tpu table            # adds what is missing, minutes a shape
    python -m mmjax.kernels.attention.tune_tpu table --again    # all anew: of other kernels, another libtpu
    python -m mmjax.kernels.attention.tune_tpu cycles "TPU v5 lite" 208x12x64 577x12x64:causal

A shape is positions x heads x head width, and after a colon the masks, `norm` and `rope` that it has.
`cycles` prints one line of JSON for each kernel, with the blocks that it has by table or rule.
"""

import argparse
import dataclasses
import datetime
import functools
import importlib.metadata
import itertools
import json
import logging
import pathlib
import tempfile
from typing import get_args

import jax
import jax.numpy as jnp

from mmjax.kernels.attention import pallas_tpu, tpu_blocks, tpu_schedule
from mmjax.kernels.attention.case import Arrays, Case
from mmjax.kernels.attention.tpu_blocks import Plan

log = logging.getLogger("mmjax")

# Towers of OpenAI CLIP, SigLIP and open_clip: B/32, B/16, L/14, H/14 and So400m at several sizes, texts.
SHAPES = (
    "50x12x64",
    "77x12x64:causal",
    "64x12x64",
    "196x12x64",
    "197x12x64",
    "256x12x64",
    "256x16x72",
    "257x16x64",
    "257x16x80",
    "256x6x128",
    "576x12x64",
    "577x16x64",
    "729x16x72",
)
_BATCH = 8


def case_of(shape: str, dtype="bfloat16") -> Case:
    sizes, _, options = shape.partition(":")
    positions, heads, width = map(int, sizes.split("x"))
    return Case(
        batch=_BATCH,
        queries=positions,
        keys=positions,
        heads=heads,
        width=width,
        dtype=jnp.dtype(dtype),
        scale=width**-0.5,
        **{name: True for name in options.split("+") if name},
    )


def candidates(case: Case, kernel: tpu_blocks.Kernel) -> list[Plan]:
    """The rule's plan, and plans near it. Fewer heads than the rule's took more cycles wherever they were
    tried, but in the forward pass of long rows."""
    first = tpu_blocks.rule(case, kernel)
    size, most = tpu_blocks.positions(case), first.most
    if kernel == "forward":
        heads = {most, max(1, most // 2)} if size > 256 else {most}
        found = [Plan(most=n, queries=size, ahead=ahead) for n in heads for ahead in (2, 2 * n)]
    else:
        parts = {first.queries, 128, 256} if size > 256 else {first.queries}
        found = [Plan(most=most, queries=queries, ahead=ahead) for queries in parts for ahead in (1, 2)]
    return sorted(set(found), key=dataclasses.astuple)


def cycles(folder: pathlib.Path, device: str, case: Case, kernel: tpu_blocks.Kernel, blocks) -> float:
    """Of one head of one example."""
    x = jax.ShapeDtypeStruct((case.batch, case.keys, case.heads * case.width), case.dtype)
    arrays = Arrays(
        *(x, x, x),
        lengths_B=jax.ShapeDtypeStruct((case.batch,), jnp.int32) if case.lengths else None,
        segments_BS=jax.ShapeDtypeStruct(x.shape[:2], jnp.int32) if case.segments else None,
        gains_2K=jax.ShapeDtypeStruct((2, case.width), jnp.float32) if case.norm else None,
        angles_BSP=jax.ShapeDtypeStruct((1, case.keys, case.width // 2), jnp.float32) if case.rope else None,
    )
    gradient = () if kernel == "forward" else (x,)
    run = functools.partial(pallas_tpu.call, kernel, case, blocks)
    found = tpu_schedule.cycles(folder, device, run, (arrays, *gradient))
    steps = 1 if blocks.step is None else -(-case.keys // blocks.step)
    return steps * found[f"attention_{kernel}"] / blocks.heads


def best(folder, device, case, kernel):
    """The row of the table: the plan of fewest cycles; of plans that come to the same blocks the first."""
    plans = {}
    for plan in candidates(case, kernel):
        plans.setdefault(tpu_blocks.fit(case, plan), plan)
    counts = {}
    for blocks, plan in plans.items():
        counts[plan] = cycles(folder, device, case, kernel, blocks)
        log.info("%s %s %s: %s, %.0f cycles a head", device, case, kernel, blocks, counts[plan])
    plan = min(counts, key=counts.get)
    return dict(
        **dict(zip(tpu_blocks.KEY, tpu_blocks.key_of(case, kernel, device), strict=True)),
        plan=dataclasses.asdict(plan),
        cycles_per_head=round(counts[plan]),
        made=made(),
    )


def made() -> str:
    """When and on what."""
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("jax", "libtpu"))
    return ", ".join([datetime.date.today().isoformat(), *versions])


def fill(folder: pathlib.Path, shapes, devices, again=False):
    """Adds rows to the table, or with `again` replaces them, one at a time, so that it may be interrupted."""
    rows = {tuple(row[name] for name in tpu_blocks.KEY): row for row in tpu_blocks.rows()}
    for shape, device, kernel in itertools.product(shapes, devices, get_args(tpu_blocks.Kernel)):
        case = case_of(shape)
        key = tpu_blocks.key_of(case, kernel, device)
        if again or key not in rows:
            rows[key] = best(folder, device, case, kernel)
            write(rows.values())


def write(rows):
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    tpu_blocks.TABLE.write_text(f'{{"rows": [\n{lines}\n]}}\n')


def main():
    parser = argparse.ArgumentParser(description="Blocks of attention for TPUs.")
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table")
    table.add_argument("shapes", nargs="*", default=SHAPES)
    table.add_argument("--devices", nargs="+", default=list(tpu_schedule.SLICES))
    table.add_argument("--again", action="store_true", help="make the rows that are there anew, too")
    count = commands.add_parser("cycles")
    count.add_argument("device", choices=tpu_schedule.SLICES)
    count.add_argument("shapes", nargs="+")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        tpu_schedule.prepare(folder)
        if args.command == "table":
            return fill(folder, args.shapes, args.devices, args.again)
        for shape in args.shapes:
            for kernel in ("forward", "backward"):
                case = case_of(shape)
                blocks = tpu_blocks.blocks(case, kernel, args.device)
                count = cycles(folder, args.device, case, kernel, blocks)
                row = dict(shape=shape, kernel=kernel, cycles_per_head=round(count))
                print(json.dumps(row | dataclasses.asdict(blocks)), flush=True)


if __name__ == "__main__":
    main()
