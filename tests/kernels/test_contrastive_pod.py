"""What the losses send and run on a TPU pod, read off what libtpu compiles for one without its chips."""

import functools
import math
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from mmjax.kernels import contrastive
from mmjax.kernels.contrastive.transport import GATHERED
from mmjax.sharding import MeshShape, batch_sharding, make_mesh, replicated

pytestmark = pytest.mark.tpu_aot

WIDTH = 128
BENCHMARK = pathlib.Path(__file__).parents[1] / "benchmarks" / "bench_contrastive_cycles.py"
BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "pred": 1}


@pytest.fixture
def mesh(tpu_chips):
    return make_mesh(MeshShape(data=-1, fsdp=4), tpu_chips("v5e:4x4"))


def program_of(mesh, loss, scalars, pairs):
    """What is compiled of a loss and all its gradients."""
    z = jax.ShapeDtypeStruct((pairs, WIDTH), jnp.float32, sharding=batch_sharding(mesh))
    scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated(mesh))
    args = (z, z, *[scalar] * scalars)
    with jax.set_mesh(mesh):
        gradient = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(args)))))
        return gradient.lower(*args).compile().as_text()


def sent(program):
    """(collective, bytes of its result on one chip) for each one in a program."""
    kinds = "all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all"
    for shapes, kind in re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", program):
        arrays = re.findall(r"(\w+)\[([\d,]*)\]", shapes)
        size = max(BYTES[dtype] * math.prod(int(n) for n in dims.split(",") if n) for dtype, dims in arrays)
        yield kind, size


@pytest.mark.parametrize(
    ("loss", "scalars", "statistics"), [(contrastive.infonce, 1, 8 + 12), (contrastive.sigmoid, 2, 4 + 4)]
)
def test_a_ring_sends_what_the_formula_says_to_neighbours_and_reduces_only_scalars(
    mesh, loss, scalars, statistics
):
    pairs, devices = 32_768, 16
    found = list(sent(program_of(mesh, loss, scalars, pairs)))
    assert {kind for kind, _ in found} == {"collective-permute", "all-reduce"}
    assert all(size == 4 for kind, size in found if kind == "all-reduce")
    hops = [size for kind, size in found if kind == "collective-permute"]
    # Each stands in a loop of a turn for each device: columns twice, gradients once; docs/exactness.md.
    assert devices * sum(hops) == pairs * (3 * 4 * WIDTH + statistics)


def test_a_gather_holds_no_more_than_its_bound_whatever_the_batch(mesh):
    found = list(sent(program_of(mesh, contrastive.infonce, 1, 16_384)))
    assert {kind for kind, _ in found} >= {"all-gather", "all-to-all"}
    assert max(size for _, size in found) == GATHERED * WIDTH * 4


def test_a_loss_without_options_runs_as_kernels(mesh):
    program = program_of(mesh, contrastive.infonce, 1, 32_768)
    assert "contrastive_softmax" in program and "contrastive_slope" in program


def test_a_loss_with_an_option_runs_as_tiles_of_xla(mesh):
    loss = functools.partial(contrastive.infonce, decoupled=True)
    assert "tpu_custom_call" not in program_of(mesh, loss, 1, 32_768)


@pytest.mark.parametrize("chip", ["v5e", "v6e"])
def test_kernels_take_fewer_cycles_than_tiles_of_xla(chip):
    pytest.importorskip("libtpu", reason="compiles with libtpu: pip install mmjax[tpu]")
    # On their own: libtpu reads where to write its schedules when it is loaded.
    command = [sys.executable, BENCHMARK, "--chip", chip, "--dtype", "bfloat16", "--by"]
    xla, kernels = (
        subprocess.run([*command, by], check=True, capture_output=True, text=True).stdout.split()[-1]
        for by in ("xla", "kernels")
    )
    # Less than a tenth would not be worth a second way.
    assert int(xla.replace(",", "")) > 1.1 * int(kernels.replace(",", ""))
