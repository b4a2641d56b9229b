"""Attention: what `auto` costs on a CPU beside JAX's own, and every implementation on a GPU.

    python tests/benchmarks/bench_attention.py cpu
    python tests/benchmarks/bench_attention.py numbers
    python tests/benchmarks/bench_attention.py sweep
    python tests/benchmarks/bench_attention.py gpu --torch-python=/path/to/python

`gpu` times all published lengths and head widths at 6,144 heads in bfloat16, and texts of 77 with a causal
mask: ours beside XLA's, cuDNN's, and torch's flash and cuDNN attention, forward and with the backward pass.
Fractions are of what this card's memory and products reach when measured alone, the ratio is of speeds. What
does not fit or is not served says so. `numbers` compares ours and cuDNN's with float64 before, of enough
examples for every multiprocessor and with padding full of NaN: what is wrong need not be timed. `sweep` times
the kernels for Hopper with every number of warpgroups that they may have, and writes the fastest to their
table.

`gpu` and `numbers` run on a CPU, too, to see that they do: `--heads=12 --lengths 17 --widths 64 --rounds=2`.

Letters: B batch, S positions, X = heads x head width.
"""

import argparse
import datetime
import functools
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "kernels" / "attention")]

import attending  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from attending import LENGTHS, MASKS, RESULTS, WIDTHS, Example  # noqa: E402
from attention_times import NAMES, PASSES, Shape, in_turns, jax_inputs, jax_step, why  # noqa: E402

from mmjax.kernels.attention import attention, pallas_gpu, pallas_gpu_splits  # noqa: E402
from mmjax.kernels.attention.case import Arrays, Case  # noqa: E402

# The last line of a failure is then its reason.
ENV = {**os.environ, "JAX_TRACEBACK_FILTERING": "off"}
HEADS = 12
TEXT = 77
LIMIT_S = 1200  # of one shape; compiling takes nearly all of it


def plain(q_BSX, k_BSX, v_BSX):
    """JAX's attention as towers would call it themselves."""
    q, k, v = (x.reshape(*x.shape[:2], HEADS, -1) for x in (q_BSX, k_BSX, v_BSX))
    return jax.nn.dot_product_attention(q, k, v).reshape(q_BSX.shape)


def spread(values, unit="") -> str:
    return f"{statistics.median(values):.3g}{unit} [{min(values):.3g}-{max(values):.3g}]"


def on_cpu(args):
    """Ratio of `auto` to plain attention, by CPU time, which other work on the machine disturbs little."""
    print(
        f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {HEADS} heads, ratio of CPU seconds to plain"
    )
    auto = functools.partial(attention, num_heads=HEADS)
    for dtype in ("float32", "bfloat16"):
        for length, width in ((17, 64), (50, 64), (197, 64)):
            inputs = jax_inputs(Shape(batch=8, heads=HEADS, length=length, width=width), dtype)
            for name in PASSES:
                make = functools.partial(jax_step, inputs=inputs, is_training=name != "forward", calls=1)
                makers = {"plain": functools.partial(make, plain), "auto": functools.partial(make, auto)}
                found = in_turns(makers, rounds=args.rounds, clock=time.process_time)
                ratio = [a / p for a, p in zip(found["auto"], found["plain"], strict=True)]
                print(f"  {dtype} [8, {length}, {HEADS} x {width}] {name:18s} {spread(ratio)}", flush=True)


def asked(family, python, shape: Shape) -> dict:
    """The answer of `attention_times.py`; where it has none, why."""
    script = str(pathlib.Path(__file__).with_name("attention_times.py"))
    command = [python, script, family, json.dumps(vars(shape))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=ENV)
    except subprocess.TimeoutExpired:
        why = f"nothing in {LIMIT_S} s"
    else:
        if not done.returncode:
            return json.loads(done.stdout.splitlines()[-1])
        why = (done.stderr.strip().splitlines() or ["failed"])[-1][:80]
    return dict(about=why, times={name: dict.fromkeys(NAMES.get(family, ()), why) for name in PASSES})


def rows(shape: Shape, times, ceiling):
    """Of a table: a pass, an implementation, its microseconds, shares of both ceilings, ratio to cuDNN."""
    heads = shape.batch * shape.heads
    pairs = shape.length * (shape.length + 1) / 2 if shape.causal else shape.length**2
    # Forward reads three arrays and writes one; backward reads five and writes three.
    for name, tensors, products in zip(PASSES, (4, 12), (2, 7), strict=True):
        least_s = (
            tensors * heads * shape.length * shape.width * 2 / ceiling["bytes_per_s"],
            products * 2 * heads * pairs * shape.width / ceiling["flops_per_s"],
        )
        base = times[name]["cudnn"]
        for key in itertools.chain(*NAMES.values()):
            found = times[name][key]
            if isinstance(found, str):
                yield name, key, found, "", "", ""
                continue
            median_s = statistics.median(found)
            ratio = "" if isinstance(base, str) else f"{statistics.median(base) / median_s:.2f}"
            shares = (f"{least / median_s:.0%}" for least in least_s)
            yield name, key, spread([s * 1e6 for s in found]), *shares, ratio


def on_gpu(args):
    pythons = {"jax": sys.executable, "torch": args.torch_python}
    rest = dict(batch=args.heads // HEADS, heads=HEADS, rounds=args.rounds)
    ceiling = asked("ceilings", sys.executable, Shape(length=1, width=1, **rest))
    if "bytes_per_s" not in ceiling:
        raise SystemExit(f"no ceilings: {ceiling['about']}")
    small = Shape(length=17, width=64, **rest | dict(batch=1, rounds=1))
    print(f"{ceiling['about']}; {asked('torch', args.torch_python, small)['about']}.")
    print(
        f"bfloat16, B x heads = {args.heads}. Measured alone: {ceiling['bytes_per_s'] / 1e9:,.0f} GB/s and",
        end=" ",
    )
    print(f"{ceiling['flops_per_s'] / 1e12:,.1f} TFLOP/s. {datetime.date.today()}\n")
    print(
        "| S | D | pass | implementation | us: median [range] | of memory | of products | speed of cuDNN's |"
    )
    print("|---:|---:|---|---|---:|---:|---:|---:|", flush=True)
    shapes = [(length, width, False) for length in args.lengths for width in args.widths]
    shapes += [(TEXT, width, True) for width in args.widths]
    for length, width, causal in shapes:
        shape = Shape(length=length, width=width, causal=causal, **rest)
        found = [asked(family, python, shape)["times"] for family, python in pythons.items()]
        times = {name: {**found[0][name], **found[1][name]} for name in PASSES}
        size = f"{length}, causal" if causal else str(length)
        for cells in rows(shape, times, ceiling):
            print("|", " | ".join([size, str(width), *cells]), "|", flush=True)


def numbers(args):
    """A table in Markdown: how far off results are, as a multiple of what JAX's own attention is off."""
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, bfloat16, B x heads = {args.heads}.\n")
    print(f"| S | D | masks | implementation | {' | '.join(RESULTS)} | |")
    print("|---:|---:|---|---|" + "---:|" * len(RESULTS) + "---|", flush=True)
    masks = itertools.cycle([(), *((mask,) for mask in MASKS), MASKS])
    for length, width in itertools.product(args.lengths, args.widths):
        on = next(masks)
        sizes = dict(length=length, width=width, batch=max(2, args.heads // HEADS), heads=HEADS)
        example = Example(dtype="bfloat16", **sizes, **dict.fromkeys(on, True))
        for name in ("cudnn", "pallas_gpu"):
            print(f"| {length} | {width} | {' '.join(on)} | {name} |", judged(name, example), "|", flush=True)
        attending.forget(example)


def judged(name, example):
    """Cells of a row of `numbers`; or why there are none."""
    try:
        wrong = attending.beyond(name, example)
        again = jax.device_get(attending.compiled(name, example)(*example.poisoned))
    except (NotImplementedError, RuntimeError, ValueError, AssertionError) as error:
        return f"{why(error)} |" + " |" * len(RESULTS)
    errors, standard = (attending.errors(x, example) for x in (name, attending.PLAIN))
    found = attending.found(name, example)
    faults = [f"{result} is wrong" for result in wrong]
    if any(found[result][~example.real].any() for result in RESULTS):
        faults.append("padding is not zero")
    if any(found[result].tobytes() != again[result].tobytes() for result in RESULTS):
        faults.append("two runs differ")
    ratios = (f"{errors[result][0] / standard[result][0]:.2f}" for result in RESULTS)
    return " | ".join([*ratios, ", ".join(faults) or "right"])


def sweep(args):
    """A table in Markdown: microseconds a call of each kernel by warpgroups; the fastest are stored."""
    kind = jax.devices()[0].device_kind
    print(f"{kind}, jax {jax.__version__}, B x heads = {args.heads}, bfloat16.\n")
    print("| S | D | masks | kernel | warpgroups | us: median [range] |")
    print("|---:|---:|---|---|---:|---:|", flush=True)
    for length, width, masks in itertools.product(args.lengths, args.widths, args.masks):
        sizes = dict(batch=args.heads // HEADS, queries=length, keys=length, heads=HEADS, width=width)
        on = {mask: True for mask in masks.split("+") if mask}
        case = Case(**sizes, **on, dtype=jnp.dtype("bfloat16"), scale=width**-0.5)
        if pallas_gpu.refusal(case) is not None:
            continue
        times = {name: split_times(case, name, args) for name in ("forward", "backward")}
        medians = {
            name: {
                count: statistics.median(found) for count, found in of.items() if not isinstance(found, str)
            }
            for name, of in times.items()
        }
        for name, of in times.items():
            for count, found in of.items():
                cell = found if isinstance(found, str) else spread([s * 1e6 for s in found])
                print(f"| {length} | {width} | {masks} | {name} | {count} | {cell} |", flush=True)
        if all(medians.values()):
            best = {name: min(of, key=of.get) for name, of in medians.items()}
            key = dict(zip(pallas_gpu_splits.KEY, pallas_gpu_splits.key_of(case, kind, masks), strict=True))
            us = {f"{name} {n}": round(s * 1e6, 1) for name, of in medians.items() for n, s in of.items()}
            made = f"{datetime.date.today()}, jax {jax.__version__}, B x heads = {args.heads}"
            pallas_gpu_splits.store([key | best | dict(us=us, made=made)])


def split_times(case: Case, half, args):
    """By warpgroups of the forward or the backward kernel: seconds a call, or why there are none."""
    shape = Shape(batch=case.batch, heads=case.heads, length=case.keys, width=case.width)
    q, k, v, gradient = jax_inputs(shape, case.dtype)
    given, chosen = Arrays(q, k, v), pallas_gpu_splits.rule(case)
    if case.lengths:
        given = given._replace(lengths_B=jnp.full((case.batch,), case.keys, jnp.int32))
    if case.segments:
        given = given._replace(segments_BS=jnp.zeros((case.batch, case.keys), jnp.int32))

    def make(count):
        split = chosen._replace(**{half: count})
        run = functools.partial(getattr(pallas_gpu, half), case, interpret=False, split=split)
        inputs = (given,) if half == "forward" else (given, *kept(), gradient)
        compiled = jax.jit(run).lower(*inputs).compile()

        def step():
            for _ in range(shape.calls):
                output = compiled(*inputs)
            jax.block_until_ready(output)

        return step

    @functools.cache
    def kept():
        forward = functools.partial(pallas_gpu.forward, case, interpret=False, split=chosen)
        return jax.jit(forward)(given)

    counts = pallas_gpu_splits.splits(case)[half == "backward"]
    makers = {count: functools.partial(make, count) for count in counts}
    return in_turns(makers, rounds=args.rounds, calls=shape.calls)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("where", choices=["cpu", "gpu", "numbers", "sweep"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--heads", type=int, default=6144, help="of all examples together, on a GPU")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--masks", nargs="+", default=["", "causal"], help="of sweep: causal+lengths, say")
    parser.add_argument("--torch-python", default=sys.executable)
    args = parser.parse_args()
    {"cpu": on_cpu, "gpu": on_gpu, "numbers": numbers, "sweep": sweep}[args.where](args)


if __name__ == "__main__":
    main()
