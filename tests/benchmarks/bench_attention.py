"""Attention: what `auto` costs on a CPU beside JAX's own, and every implementation on a GPU.

    python tests/benchmarks/bench_attention.py cpu
    python tests/benchmarks/bench_attention.py gpu > table.md
    python tests/benchmarks/bench_attention.py sweep

`gpu` times all published lengths and head widths at 6,144 heads in bfloat16, ours beside XLA's, cuDNN's and,
where torch is installed, its flash and cuDNN attention, forward and with the backward pass. Fractions are of
what this card's memory and products reach when measured alone. What does not fit or is not served says so.
`sweep` times the kernels for Hopper with every number of warpgroups that they may have.

Letters: B batch, S positions, X = heads x head width.
"""

import argparse
import functools
import importlib.util
import itertools
import os
import pathlib
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "kernels" / "attention")]
# torch wants a part of the same memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from attending import LENGTHS, WIDTHS  # noqa: E402

from mmjax.kernels.attention import attention, pallas_gpu  # noqa: E402
from mmjax.kernels.attention.case import Arrays, Case  # noqa: E402

HEADS = 12
CALLS = 10  # of a GPU's in one figure: starting one takes as long as a small kernel


def plain(q_BSX, k_BSX, v_BSX):
    """JAX's attention as towers would call it themselves."""
    q, k, v = (x.reshape(*x.shape[:2], HEADS, -1) for x in (q_BSX, k_BSX, v_BSX))
    return jax.nn.dot_product_attention(q, k, v).reshape(q_BSX.shape)


def ours(implementation):
    return functools.partial(attention, num_heads=HEADS, implementation=implementation)


def with_gradients(attend):
    def run(q, k, v, gradient):
        output, pull = jax.vjp(attend, q, k, v)
        return output, *pull(gradient)

    return run


def arrays(batch, length, width, dtype):
    shape = (batch, length, HEADS * width)
    return [jax.random.normal(key, shape, dtype) for key in jax.random.split(jax.random.key(0), 4)]


def jax_step(attend, args, *, is_training, calls):
    """A function that makes `calls` calls and returns when they are done."""
    function = with_gradients(attend) if is_training else lambda q, k, v, _: attend(q, k, v)
    compiled = jax.jit(function).lower(*args).compile()
    return lambda: jax.block_until_ready([compiled(*args) for _ in range(calls)])


def torch_step(backend, shape, *, is_training, calls):
    """The same of torch's `scaled_dot_product_attention`, from the same packed layout."""
    import torch  # noqa: TID251
    from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: TID251

    packed = [torch.randn(shape, dtype=torch.bfloat16, device="cuda") for _ in range(4)]
    *leaves, gradient = (x.requires_grad_(is_training) for x in packed)
    gradient = gradient.detach()

    def attend():
        q, k, v = (x.view(*shape[:2], HEADS, -1).transpose(1, 2) for x in leaves)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return y.transpose(1, 2).reshape(shape)

    def step():
        with sdpa_kernel(SDPBackend[backend]):
            for _ in range(calls):
                output = attend()
                if is_training:
                    torch.autograd.grad(output, leaves, gradient)
        torch.cuda.synchronize()

    return step


def in_turns(steps, *, rounds, calls, clock=time.perf_counter):
    """Seconds a call of each, one round after the other, so that what disturbs one disturbs all."""
    found = {name: [] for name in steps}
    for step in steps.values():
        step()
    for i in range(rounds):
        names = list(steps)[i % len(steps) :] + list(steps)[: i % len(steps)]
        for name in names:
            start_s = clock()
            steps[name]()
            found[name].append((clock() - start_s) / calls)
    return found


def spread(values, unit="") -> str:
    return f"{statistics.median(values):.3g}{unit} [{min(values):.3g}-{max(values):.3g}]"


def on_cpu(args):
    """Ratio of `auto` to plain attention, by CPU time, which other work on the machine disturbs little."""
    print(
        f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {HEADS} heads, ratio of CPU seconds to plain"
    )
    for dtype in ("float32", "bfloat16"):
        for length, width in ((17, 64), (50, 64), (197, 64)):
            inputs = arrays(8, length, width, dtype)
            for is_training in (False, True):
                make = functools.partial(jax_step, args=inputs, is_training=is_training, calls=1)
                steps = {"plain": make(plain), "auto": make(ours("auto"))}
                found = in_turns(steps, rounds=args.rounds, calls=1, clock=time.process_time)
                ratio = [a / p for a, p in zip(found["auto"], found["plain"], strict=True)]
                what = "forward + backward" if is_training else "forward"
                print(f"  {dtype} [8, {length}, {HEADS} x {width}] {what:18s} {spread(ratio)}", flush=True)


def ceilings(rounds):
    """Bytes and operations a second that this card reaches, each alone."""
    x = jnp.ones((2**29,), jnp.bfloat16)
    y = jnp.ones((8192, 8192), jnp.bfloat16)
    steps = {}
    for name, function, arg in (("memory", lambda x: x * 2, x), ("matmul", lambda y: y @ y, y)):
        compiled = jax.jit(function).lower(arg).compile()
        steps[name] = functools.partial(lambda c, a: jax.block_until_ready(c(a)), compiled, arg)
    found = in_turns(steps, rounds=rounds, calls=1)
    return 2 * x.nbytes / min(found["memory"]), 2 * 8192**3 / min(found["matmul"])


def gpu_steps(batch, length, width, *, is_training):
    """By name: a function that makes CALLS calls, or why there is none."""
    inputs = arrays(batch, length, width, jnp.bfloat16)
    makers = {
        name: functools.partial(jax_step, ours(name), inputs, is_training=is_training, calls=CALLS)
        for name in ("xla", "cudnn", "pallas_gpu")
    }
    if importlib.util.find_spec("torch"):
        for name, backend in (("torch flash", "FLASH_ATTENTION"), ("torch cuDNN", "CUDNN_ATTENTION")):
            shape = inputs[0].shape
            makers[name] = functools.partial(torch_step, backend, shape, is_training=is_training, calls=CALLS)
    for name, make in makers.items():
        try:
            step = make()
            step()
        except (NotImplementedError, RuntimeError, ValueError) as error:  # not served, or out of memory
            yield name, str(error).splitlines()[0][:60]
        else:
            yield name, step


def on_gpu(args):
    """A table in Markdown: microseconds a call, and the share of the ceilings that this is."""
    bytes_per_s, flops_per_s = ceilings(args.rounds)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, B x heads = {args.heads}, bfloat16.")
    print(f"Measured alone: {bytes_per_s / 1e9:,.0f} GB/s, {flops_per_s / 1e12:,.0f} TFLOP/s.\n")
    print("| S | D | pass | implementation | us: median [range] | of memory | of products |")
    print("|---:|---:|---|---|---:|---:|---:|", flush=True)
    batch = args.heads // HEADS
    for length in args.lengths:
        for width in args.widths:
            size = batch * HEADS * length * width * 2
            # Forward reads three arrays and writes one; backward reads five and writes three.
            for name, tensors, products in (("forward", 4, 2), ("forward + backward", 12, 7)):
                steps = dict(gpu_steps(batch, length, width, is_training=tensors > 4))
                runs = {key: step for key, step in steps.items() if callable(step)}
                found = in_turns(runs, rounds=args.rounds, calls=CALLS)
                flops = products * 2 * batch * HEADS * length**2 * width
                for key, step in steps.items():
                    cells = [step, "", ""]
                    if key in found:
                        median_s = statistics.median(found[key])
                        shares = tensors * size / bytes_per_s / median_s, flops / flops_per_s / median_s
                        cells = [spread([s * 1e6 for s in found[key]]), *(f"{share:.0%}" for share in shares)]
                    print("|", " | ".join([str(length), str(width), name, key, *cells]), "|", flush=True)


def sweep(args):
    """A table in Markdown: microseconds a call of each kernel by warpgroups, the rule's choice marked."""
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, B x heads = {args.heads}, bfloat16.\n")
    print("| S | D | kernel | warpgroups | us: median [range] |")
    print("|---:|---:|---|---:|---:|", flush=True)
    for length, width in itertools.product(args.lengths, args.widths):
        sizes = dict(batch=args.heads // HEADS, queries=length, keys=length, heads=HEADS, width=width)
        case = Case(**sizes, dtype=jnp.dtype("bfloat16"), scale=width**-0.5)
        if pallas_gpu.refusal(case) is not None:
            continue
        q, k, v, gradient = arrays(case.batch, length, width, case.dtype)
        given, chosen = Arrays(q, k, v), pallas_gpu.choose(case)
        run = functools.partial(pallas_gpu.forward, case, interpret=False, split=chosen)
        output, kept = jax.jit(run)(given)
        inputs = {"forward": (given,), "backward": (given, output, kept, gradient)}
        for (name, args_of), counts in zip(inputs.items(), pallas_gpu.splits(case), strict=True):
            steps = {}
            for count in counts:
                split = chosen._replace(**{name: count})
                run = functools.partial(getattr(pallas_gpu, name), case, interpret=False, split=split)
                compiled = jax.jit(run).lower(*args_of).compile()
                steps[count] = functools.partial(
                    lambda c, a: jax.block_until_ready([c(*a) for _ in range(CALLS)]), compiled, args_of
                )
            for count, times in in_turns(steps, rounds=args.rounds, calls=CALLS).items():
                mark = " (chosen)" if count == getattr(chosen, name) else ""
                print(f"| {length} | {width} | {name} | {count}{mark} | {spread([s * 1e6 for s in times])} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("where", choices=["cpu", "gpu", "sweep"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--heads", type=int, default=6144, help="of all examples together, on a GPU")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    args = parser.parse_args()
    {"cpu": on_cpu, "gpu": on_gpu, "sweep": sweep}[args.where](args)


if __name__ == "__main__":
    main()
