"""The Hopper kernels as NVIDIA's assembler leaves them: compiled for an H100 without one.

pip install jax-cuda13-plugin==V jax-cuda13-pjrt==V nvidia-cuda-nvcc    # V: the version of jax
python -m pytest -m gpu_aot tests/kernels/attention/test_gpu_aot.py
"""

import functools
import importlib.util
import pathlib
import re
import sysconfig
from typing import NamedTuple

import jax
import jax.numpy as jnp
import podstep
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from mmjax import sharding
from mmjax.kernels.attention import SAVED, attention, pallas_gpu, pallas_gpu_splits
from mmjax.kernels.attention.case import Arrays, Case
from mmjax.sharding import MeshShape

pytestmark = pytest.mark.gpu_aot

# XLA's GpuTargetConfigProto of an H100 SXM, from its data sheet and CUDA's table of compute capabilities.
H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
runtime_version { major: 13 }
dnn_version_info { major: 9 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: 85899345920
  memory_bandwidth: 3350000000000
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
"""
TARGETS = {"auto": "__cudnn$fmha", "pallas_gpu": "mosaic_gpu"}  # what a program calls
OPTIN = 232_448  # bytes of shared memory that a thread block may have
REGISTERS = 65_536  # of a multiprocessor

# (S, D, masks): text and image towers of 224 pixels; a length of no round number; every mask.
SHAPES = [
    (50, 64, {}),
    (64, 72, {}),
    (64, 88, {}),
    (77, 64, dict(causal=True, lengths=True)),
    (77, 64, dict(causal=True)),
    (77, 80, dict(causal=True)),
    (128, 104, {}),
    (128, 128, {}),
    (128, 128, dict(causal=True)),
    (128, 128, dict(lengths=True, causal=True, segments=True)),
    (192, 64, dict(segments=True)),
    (192, 64, dict(lengths=True, causal=True, segments=True)),
    (192, 112, dict(segments=True)),
    (192, 104, {}),
    (196, 80, {}),
    (196, 88, {}),
    (196, 96, {}),
    (197, 64, {}),
    (197, 64, dict(causal=True)),
    (200, 64, dict(kv_len=197)),
    (200, 64, dict(kv_len=197, causal=True)),
    (256, 64, {}),
    (256, 64, dict(causal=True)),
    (256, 64, dict(lengths=True)),
    (256, 64, dict(lengths=True, causal=True, segments=True)),
    (256, 72, {}),
    (256, 96, dict(lengths=True, causal=True, segments=True)),
]


class Kernel(NamedTuple):
    registers: int
    spilled_bytes: int
    shared_bytes: int
    products: int


@pytest.fixture
def chips(monkeypatch):
    """A function: as many H100 to compile for."""
    if jax.__version_info__ < pallas_gpu.SINCE:
        pytest.skip("the kernels are written for JAX from 0.11.2 on")
    tools = pathlib.Path(sysconfig.get_paths()["purelib"], "nvidia", "cu13")
    if not importlib.util.find_spec("jax_cuda13_plugin") or not (tools / "bin" / "ptxas").exists():
        pytest.skip("compiles with jax-cuda13-plugin, jax-cuda13-pjrt and nvidia-cuda-nvcc")
    monkeypatch.setenv("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    monkeypatch.setenv("MOSAIC_GPU_CUDA_ROOT", str(tools))
    monkeypatch.setenv("PATH", str(tools / "bin"), prepend=":")

    def of(count):
        topology = f"1x1x{count}"
        return topologies.get_topology_desc(platform="cuda", target_config=H100, topology=topology).devices

    return of


@pytest.fixture
def compiled(monkeypatch, tmp_path, chips):
    """A function that compiles one for shapes and dtypes, and returns its only kernel."""
    monkeypatch.setenv("MOSAIC_GPU_DUMP_TO", str(tmp_path))
    for kind in ("PTX", "PTXAS", "RESOURCES"):
        monkeypatch.setenv(f"MOSAIC_GPU_DUMP_{kind}", "1")
    mesh = sharding.make_mesh(MeshShape(), chips(1))
    where = NamedSharding(mesh, PartitionSpec())

    def compile_(function, *args):
        with jax.set_mesh(mesh):
            args = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), args)
            jax.jit(function).lower(*args).compile()
        (report,) = tmp_path.glob("*.ptxas")
        return kernel(report)

    return compile_


def kernel(report):
    assembled, launched, ptx = (
        report.with_suffix(suffix).read_text() for suffix in (".ptxas", ".resources.txt", ".ptx")
    )
    return Kernel(
        registers=int(re.search(r"Used (\d+) registers", assembled)[1]),
        spilled_bytes=int(re.search(r"(\d+) bytes spill stores", assembled)[1]),
        shared_bytes=int(re.search(r"smem_scratch_bytes=(\d+)", launched)[1]),
        products=ptx.count("wgmma.mma_async"),
    )


def half_of(compiled, half, length, width, masks):
    """The kernel of one half, and its warpgroups."""
    sizes = dict(batch=4, queries=length, keys=length, heads=2, width=width, scale=width**-0.5)
    case = Case(dtype=jnp.dtype("bfloat16"), **sizes, **masks)
    assert pallas_gpu.refusal(case) is None
    x = jax.ShapeDtypeStruct((4, length, 2 * width), case.dtype)
    lengths = jax.ShapeDtypeStruct((4,), jnp.int32) if case.lengths else None
    segments = jax.ShapeDtypeStruct((4, length), jnp.int32) if case.segments else None
    arguments = (Arrays(x, x, x, lengths, segments),)
    if half == "backward":
        arguments += (x, jax.ShapeDtypeStruct((4, 2, -(-length // 64) * 64), jnp.float32), x)
    function = getattr(pallas_gpu, half)
    found = compiled(lambda *args: function(case, *args, interpret=False), *arguments)
    return found, getattr(pallas_gpu_splits.choose(case, "NVIDIA H100 80GB HBM3"), half)


@pytest.mark.parametrize("length, width, masks", SHAPES, ids=str)
@pytest.mark.parametrize("half", ["forward", "backward"])
def test_nothing_spills_and_products_are_those_of_the_tensor_cores(compiled, half, length, width, masks):
    found, warpgroups = half_of(compiled, half, length, width, masks)
    assert found.spilled_bytes == 0
    assert found.shared_bytes <= OPTIN
    assert found.registers * 128 * warpgroups <= REGISTERS
    # Products of 64 rows and 16 of the summed dimension; the panels of a head share those of its scores.
    assert found.products >= (2 if half == "forward" else 5) * width // 16


@pytest.mark.parametrize("implementation, target", TARGETS.items())
def test_on_a_mesh_nothing_is_moved_or_sent_around_the_calls(chips, implementation, target):
    """Of an odd length, forward and backward."""
    mesh = sharding.make_mesh(MeshShape(data=2, tensor=2), chips(4))
    where = NamedSharding(mesh, PartitionSpec("data", None, "tensor"))
    x = jax.ShapeDtypeStruct((4, 77, 4 * 64), jnp.bfloat16, sharding=where)

    def run(q, k, v, gradient):
        output, pull = jax.vjp(
            lambda *qkv: attention(*qkv, num_heads=4, implementation=implementation), q, k, v
        )
        return output, pull(gradient)

    with jax.set_mesh(mesh):
        text = jax.jit(run).lower(x, x, x, x).compile().as_text()
    assert podstep.kernels(text, target) == 2
    # A bitcast moves nothing; an array of heads apart is as large as one of them packed.
    moved = re.findall(r"= bf16\S* (copy|transpose|all-\w+|reduce-scatter|collective-permute|fusion)\(", text)
    assert moved == []


def layers(x_BSX, *, implementation, policy):
    """Three of them, scanned; rematerialised by a policy of `jax.checkpoint`."""

    def layer(x_BSX, _):
        return x_BSX + attention(*[x_BSX] * 3, num_heads=2, implementation=implementation), None

    layer = jax.checkpoint(layer, policy=policy, prevent_cse=False)
    return jax.lax.scan(layer, x_BSX, length=3)[0]


@pytest.mark.parametrize("implementation, target", TARGETS.items())
def test_kernels_compile_scanned_rematerialised_and_mapped(chips, implementation, target):
    """In a loop over layers one forward and one backward, and a second forward where nothing is saved."""
    mesh = sharding.make_mesh(MeshShape(), chips(1))
    x = jax.ShapeDtypeStruct((3, 4, 77, 128), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec()))

    def count(function):
        with jax.set_mesh(mesh):
            by_x = jax.grad(lambda x: function(x).astype(jnp.float32).sum())
            return podstep.kernels(jax.jit(by_x).lower(x).compile().as_text(), target)

    saved = jax.checkpoint_policies.save_only_these_names(SAVED)
    for policy, expected in ((saved, 2), (None, 3)):
        run = functools.partial(layers, implementation=implementation, policy=policy)
        assert count(lambda x, run=run: run(x[0])) == count(jax.vmap(run)) == expected


@pytest.mark.parametrize("implementation, target", TARGETS.items())
def test_in_a_step_on_sixteen_gpus_kernels_add_no_collective(chips, implementation, target):
    """Of towers whose layers are scanned, in two micro-batches: embedded first, then forward and backward."""
    how = dict(scan=True, accumulate=2)
    plain, text = (podstep.program(chips(16), attention=name, **how) for name in ("xla", implementation))
    assert [podstep.kernels(x, target) for x in (plain, text)] == [0, 3 * podstep.TOWERS]
    assert not podstep.collectives(text) - podstep.collectives(plain)
