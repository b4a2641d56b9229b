import pytest

from mmjax.kernels.contrastive import tiles, transport


@pytest.fixture
def many_small_tiles(monkeypatch):
    """Of 8 x 8 logits at most, and gathered in parts of 3 rows a device: a few dozen pairs need many."""
    monkeypatch.setattr(tiles, "_LEAST", 64)
    monkeypatch.setattr(tiles, "_MOST", 64)
    monkeypatch.setattr(transport, "GATHERED", 24)
