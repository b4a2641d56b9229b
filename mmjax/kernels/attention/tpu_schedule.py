"""How long a TPU takes for a kernel, read off the program that libtpu compiles for it where there is no TPU.

A TPU executes a bundle of instructions a cycle, in the order in which the compiler put them. The bundles of
a kernel without loops are the cycles of one grid step, but for waiting for memory, which nobody knows before.
"""

import os
import pathlib
import re

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Smallest slices of the devices that the table is for.
SLICES = {"TPU v5 lite": "v5e:2x2", "TPU v6 lite": "v6e:2x2"}

_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # a second process that compiles would be refused
}
_NAME = re.compile(r"\d+-(.+?)(?:\.\d+)?-\d+-schedule-analysis_final_bundles\.txt")


def prepare(folder: pathlib.Path):
    """Lets libtpu write its schedules to `folder`; to be called before libtpu is loaded."""
    jax.config.update("jax_platforms", "cpu")
    os.environ.update(_ENVIRONMENT)
    os.environ["LIBTPU_INIT_ARGS"] = (
        f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true --xla_jf_emit_annotations=true"
    )


def cycles(folder: pathlib.Path, device: str, function, shapes) -> dict[str, int]:
    """Cycles of a grid step of each kernel, by name, of a function compiled for one chip."""
    for file in folder.iterdir():
        file.unlink()
    chips = topologies.get_topology_desc(platform="tpu", topology_name=SLICES[device]).devices
    mesh = Mesh(np.array(chips[:1]), ("chip",))
    placed = NamedSharding(mesh, PartitionSpec())
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed), shapes)
    with jax.set_mesh(mesh):
        jax.jit(function).lower(*shapes).compile()
    found = {}
    for file in folder.iterdir():
        if match := _NAME.fullmatch(file.name):
            bundles = re.search(r"total scheduled bundles:\s+(\d+)", file.read_text())
            found[match[1]] = int(bundles[1])
    return found
