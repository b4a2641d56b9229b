import pytest
from jax.experimental import topologies

from mmjax.kernels.contrastive import tiles, transport

TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # a second process that compiles would be refused
}


@pytest.fixture
def tpu_chips(monkeypatch):
    """A function: the devices of a TPU topology, `v5e:4x4` say, to compile for without having them."""
    pytest.importorskip("libtpu", reason="compiles with libtpu: pip install mmjax[tpu]")
    for name, value in TPU.items():
        monkeypatch.setenv(name, value)
    return lambda name: topologies.get_topology_desc(platform="tpu", topology_name=name).devices


@pytest.fixture
def many_small_tiles(monkeypatch):
    """Of 8 x 8 logits at most, and gathered in parts of 3 rows a device: a few dozen pairs need many."""
    monkeypatch.setattr(tiles, "_LEAST", 64)
    monkeypatch.setattr(tiles, "_MOST", 64)
    monkeypatch.setattr(transport, "GATHERED", 24)
