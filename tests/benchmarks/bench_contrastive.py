"""Memory and time of the contrastive losses, forward and backward, beside what other codebases do.

    python tests/benchmarks/bench_contrastive.py memory
    python tests/benchmarks/bench_contrastive.py time --pairs 4096 16384 --width 512
    python tests/benchmarks/bench_contrastive.py time --pairs 32768 131072 524288 --width 768 \\
        --dtype bfloat16 --torch

`memory` compiles for eight CPU devices and runs nothing. `time` takes one device, all implementations by
turns, and gives the ratio to the dense loss within each turn; `--torch` adds open_clip's losses on the same
device, `--nested 64 128` the loss at these widths, too, in one pass and in one for each. What does not fit is
said to be so.

Letters: B batch, E embedding.
"""

import argparse
import functools
import statistics
import time

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from mmjax.kernels import contrastive
from mmjax.sharding import MeshShape, batch_sharding, make_mesh

SCALE, BIAS = 14.0, -10.0


def dense_infonce(x_BE, y_BE, scale, bias):
    """As axlearn and clip-jax have it: the matrix, split by rows where the mesh says so."""
    del bias
    logits_BB = scale * jnp.dot(x_BE, y_BE.T, precision="highest", preferred_element_type=jnp.float32)
    ways = [jnp.diagonal(jax.nn.log_softmax(logits_BB, axis=axis)) for axis in (0, 1)]
    return -jnp.mean(ways[0] + ways[1]) / 2


def dense_sigmoid(x_BE, y_BE, scale, bias):
    """As big_vision has it."""
    logits_BB = scale * jnp.dot(x_BE, y_BE.T, precision="highest", preferred_element_type=jnp.float32) + bias
    sign_BB = 2 * jnp.eye(len(x_BE)) - 1
    return -jnp.sum(jax.nn.log_sigmoid(sign_BB * logits_BB)) / len(x_BE)


def ring_sigmoid(x_BE, y_BE, scale, bias, *, mesh):
    """As clip-jax has it: blocks travel around a ring, and autodiff keeps what it needs of each."""
    devices = mesh.shape["data"]

    def local(x, y, scale, bias):
        loss = 0.0
        for hop in range(devices):
            logits = scale * jnp.dot(x, y.T, precision="highest", preferred_element_type=jnp.float32) + bias
            sign = 2 * jnp.eye(len(x)) - 1 if hop == 0 else -1
            loss -= jnp.sum(jax.nn.log_sigmoid(sign * logits))
            y = lax.ppermute(y, "data", [(i, (i + 1) % devices) for i in range(devices)])
        return lax.psum(loss, "data") / (len(x) * devices)

    split, whole = PartitionSpec("data"), PartitionSpec()
    return jax.shard_map(
        local, mesh=mesh, in_specs=(split, split, whole, whole), out_specs=whole, check_vma=True
    )(x_BE, y_BE, scale, bias)


def ours(name, implementation, widths=()):
    options = dict(implementation=implementation, widths=widths)
    if name == "infonce":
        return lambda x, y, s, b: contrastive.infonce(x, y, s, **options)
    return lambda x, y, s, b: contrastive.sigmoid(x, y, s, b, **options)


def one_by_one(name, widths):
    """Nested widths without sharing anything: what `widths` of our losses do in one pass."""

    def loss(x, y, s, b):
        cut = [[z[:, :w] / jnp.linalg.norm(z[:, :w], axis=1, keepdims=True) for z in (x, y)] for w in widths]
        return sum(ours(name, "ring")(*pair, s, b) for pair in [*cut, (x, y)]) / (len(widths) + 1)

    return loss


def with_gradients(loss):
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))


def memory(args):
    """A table of MiB a device that XLA sets aside beside embeddings and gradients."""
    jax.config.update("jax_num_cpu_devices", 8)
    mesh = make_mesh(MeshShape())
    columns = {
        "dense infonce": dense_infonce,
        "dense sigmoid": dense_sigmoid,
        "ring sigmoid, autodiff": functools.partial(ring_sigmoid, mesh=mesh),
        "infonce, ring": ours("infonce", "ring"),
        "infonce, gather": ours("infonce", "gather"),
        "sigmoid, ring": ours("sigmoid", "ring"),
    }
    print(f"temporary MiB a device, eight CPU devices, width {args.width}, float32, jax {jax.__version__}")
    print("| pairs |", " | ".join(columns), "|")
    print("|---:|", " | ".join("---:" for _ in columns), "|")
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    for pairs in args.pairs:
        z = jax.ShapeDtypeStruct((pairs, args.width), jnp.float32, sharding=batch_sharding(mesh))
        cells = []
        for loss in columns.values():
            with jax.set_mesh(mesh):
                compiled = with_gradients(loss).lower(z, z, scalar, scalar).compile()
            cells.append(f"{compiled.memory_analysis().temp_size_in_bytes / 2**20:,.1f}")
        print(f"| {pairs:,} |", " | ".join(cells), "|", flush=True)


def torch_steps(name, pairs, width, dtype):
    """open_clip's loss of the same name, its chunked form where it has one."""
    import open_clip  # noqa: TID251
    import torch  # noqa: TID251

    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, y = (
        torch.nn.functional.normalize(torch.randn(pairs, width, device=device), dim=1)
        .to(getattr(torch, dtype))
        .requires_grad_()
        for _ in range(2)
    )
    scale, bias = (torch.tensor(v, device=device, requires_grad=True) for v in (SCALE, BIAS))
    loss = open_clip.ClipLoss() if name == "infonce" else open_clip.SigLipLoss()

    def step():
        for leaf in (x, y, scale, bias):
            leaf.grad = None
        (loss(x, y, scale) if name == "infonce" else loss(x, y, scale, bias)).backward()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def steps_of(name, pairs, args):
    """By name: a function that takes one step and returns when it is done, or why there is none."""
    keys = jax.random.split(jax.random.key(0))
    draw = [jax.random.normal(key, (pairs, args.width)) for key in keys]
    x, y = [(z / jnp.linalg.norm(z, axis=1, keepdims=True)).astype(args.dtype) for z in draw]
    losses = {
        "dense": dense_infonce if name == "infonce" else dense_sigmoid,
        "ours, dense": ours(name, "dense"),
        "ours, tiles": ours(name, "ring"),
    }
    if args.nested:
        losses["nested, one pass"] = ours(name, "ring", tuple(args.nested))
        losses["nested, apart"] = one_by_one(name, args.nested)

    def run(compiled):
        jax.block_until_ready(compiled(x, y, SCALE, BIAS))

    steps = {}
    for label, loss in losses.items():
        start_s = time.perf_counter()
        compiled = with_gradients(loss).lower(x, y, SCALE, BIAS).compile()
        temporary = compiled.memory_analysis().temp_size_in_bytes / 2**20
        print(f"  {label}: compiled in {time.perf_counter() - start_s:.1f} s, {temporary:,.0f} MiB temporary")
        if temporary <= args.most_mib:
            steps[label] = functools.partial(run, compiled)
    if args.torch:
        steps["open_clip"] = torch_steps(name, pairs, args.width, args.dtype)
    return steps


def timed(step):
    start = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def time_them(args):
    """Seconds a step by turns; on a busy machine the CPU's seconds say more than the clock's."""
    print(jax.devices()[0].device_kind, f"jax {jax.__version__}, width {args.width}, {args.dtype}")
    for pairs in args.pairs:
        for name in args.losses:
            print(f"{name}, {pairs:,} pairs")
            seconds = {}
            for label, step in steps_of(name, pairs, args).items():
                try:
                    step()
                except RuntimeError as error:  # out of memory, of either library
                    print(f"  {label}: {str(error).splitlines()[0]}")
                else:
                    seconds[label] = (step, [])
            for _ in range(args.rounds):
                for step, found in seconds.values():
                    found.append(timed(step))
            for label, (_, found) in seconds.items():
                report(label, found, seconds.get("dense", (None, None))[1])


def report(label, found, dense):
    wall, cpu = zip(*found, strict=True)
    line = f"  {label:12s} {statistics.median(wall):8.4f} s [{min(wall):.4f}-{max(wall):.4f}]"
    line += f", {statistics.median(cpu):8.3f} CPU s"
    if dense:
        ratios = [
            [a / b for a, b in zip(one, other, strict=True)] for one, other in zip(found, dense, strict=True)
        ]
        wall, cpu = (statistics.median(r) for r in zip(*ratios, strict=True))
        line += f"; of dense: {wall:.2f} by the clock, {cpu:.2f} by CPU"
    print(line, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["memory", "time"])
    parser.add_argument("--pairs", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--losses", nargs="+", default=["infonce", "sigmoid"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--most-mib", type=float, default=float("inf"), help="leave out what needs more")
    parser.add_argument("--nested", type=int, nargs="+", default=[], help="widths of prefixes, ascending")
    parser.add_argument("--torch", action="store_true", help="also open_clip's losses")
    args = parser.parse_args()
    memory(args) if args.what == "memory" else time_them(args)


if __name__ == "__main__":
    main()
