"""Times of attention in a process of its own, whose end gives the GPU's memory back.

    python tests/benchmarks/attention_times.py jax '{"batch": 512, "heads": 12, "length": 197, "width": 64}'

`jax` times XLA's, cuDNN's and our attention, `torch` that of its two fast implementations, with whichever
interpreter has torch; `ceilings` what the card reaches. The answer is one line of JSON: about the device, and
by name and pass either seconds a call or why there are none. Without a GPU the CPU is timed, to try it out.

Letters: B batch, S positions, X = heads x head width.
"""

import dataclasses
import functools
import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

PASSES = ("forward", "forward + backward")
NAMES = {"jax": ("xla", "cudnn", "pallas_gpu"), "torch": ("torch flash", "torch cuDNN")}
_BACKENDS = {"torch flash": "FLASH_ATTENTION", "torch cuDNN": "CUDNN_ATTENTION"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    batch: int
    heads: int
    length: int
    width: int
    causal: bool = False
    rounds: int = 20
    calls: int = 10  # in one figure: starting one takes as long as a small kernel


def in_turns(makers, *, rounds, calls=1, clock=time.perf_counter):
    """For each maker of a step, that makes `calls` calls, seconds a call, or why there are none.

    One round after the other, so that what disturbs one disturbs all.
    """
    steps, found = {}, {}

    def attempt(name, run):
        try:
            return run()
        except (NotImplementedError, RuntimeError, ValueError, AssertionError) as error:
            steps.pop(name, None)
            found[name] = why(error)

    for name, make in makers.items():
        steps[name] = attempt(name, make)
        if name not in found:
            attempt(name, steps[name])
    steps = {name: step for name, step in steps.items() if name not in found}
    found |= {name: [] for name in steps}
    for i in range(rounds):
        names = list(steps)
        for name in names[i % len(names) :] + names[: i % len(names)] if names else ():
            start_s = clock()
            attempt(name, steps[name])
            if name in steps:
                found[name].append((clock() - start_s) / calls)
    return found


def why(error):
    """In a cell of a table; of ours what comes after the case."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return (line.partition(": ")[2] or line)[:80]


def jax_step(attend, inputs, *, is_training, calls):
    """A step of calls of attend(q, k, v), with the gradient where it is training."""
    import jax

    def both(q, k, v, gradient):
        output, pull = jax.vjp(attend, q, k, v)
        return output, *pull(gradient)

    function = both if is_training else lambda q, k, v, _: attend(q, k, v)
    compiled = jax.jit(function).lower(*inputs).compile()

    def step():
        for _ in range(calls):
            output = compiled(*inputs)  # the one before may go: a device works them off in order
        jax.block_until_ready(output)

    return step


def jax_inputs(shape: Shape, dtype):
    import jax

    sizes = (shape.batch, shape.length, shape.heads * shape.width)
    return [jax.random.normal(key, sizes, dtype) for key in jax.random.split(jax.random.key(0), 4)]


def of_jax(shape: Shape):
    import jax

    from mmjax.kernels.attention import attention

    inputs = jax_inputs(shape, "bfloat16")
    found = {}
    for name in PASSES:
        makers = {
            implementation: functools.partial(
                jax_step,
                functools.partial(
                    attention, num_heads=shape.heads, causal=shape.causal, implementation=implementation
                ),
                inputs,
                is_training=name != "forward",
                calls=shape.calls,
            )
            for implementation in NAMES["jax"]
        }
        found[name] = in_turns(makers, rounds=shape.rounds, calls=shape.calls)
    return dict(about=f"{jax.devices()[0].device_kind}, jax {jax.__version__}", times=found)


def torch_step(backend, shape: Shape, device, *, is_training):
    """As `jax_step`, of torch's `scaled_dot_product_attention`, from the same packed layout."""
    import torch  # noqa: TID251
    from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: TID251

    sizes = (shape.batch, shape.length, shape.heads * shape.width)
    packed = [torch.randn(sizes, dtype=torch.bfloat16, device=device) for _ in range(4)]
    *leaves, gradient = (x.requires_grad_(is_training) for x in packed)
    gradient = gradient.detach()

    def attend():
        q, k, v = (x.view(*sizes[:2], shape.heads, -1).transpose(1, 2) for x in leaves)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=shape.causal)
        return y.transpose(1, 2).reshape(sizes)

    def step():
        with sdpa_kernel(getattr(SDPBackend, backend)):
            for _ in range(shape.calls):
                output = attend()
                if is_training:
                    torch.autograd.grad(output, leaves, gradient)
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def of_torch(shape: Shape):
    import torch  # noqa: TID251

    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = {}
    for name in PASSES:
        makers = {
            key: functools.partial(torch_step, backend, shape, device, is_training=name != "forward")
            for key, backend in _BACKENDS.items()
        }
        found[name] = in_turns(makers, rounds=shape.rounds, calls=shape.calls)
    kind = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return dict(about=f"{kind}, torch {torch.__version__}", times=found)


def ceilings(shape: Shape):
    """Bytes and operations a second that this device reaches, each alone."""
    import jax
    import jax.numpy as jnp

    side = 8192 if jax.default_backend() == "gpu" else 512
    x, y = jnp.ones((8 * side**2,), jnp.bfloat16), jnp.ones((side, side), jnp.bfloat16)

    def make(function, arg):
        compiled = jax.jit(function).lower(arg).compile()
        return lambda: jax.block_until_ready(compiled(arg))

    makers = dict(
        memory=functools.partial(make, lambda x: x * 2, x), matmul=functools.partial(make, lambda y: y @ y, y)
    )
    found = in_turns(makers, rounds=shape.rounds)
    return dict(
        about=f"{jax.devices()[0].device_kind}, jax {jax.__version__}",
        bytes_per_s=2 * x.nbytes / min(found["memory"]),
        flops_per_s=2 * side**3 / min(found["matmul"]),
    )


if __name__ == "__main__":
    of = {"jax": of_jax, "torch": of_torch, "ceilings": ceilings}[sys.argv[1]]
    print(json.dumps(of(Shape(**json.loads(sys.argv[2])))))
