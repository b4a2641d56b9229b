"""A train step with attention's kernels on a TPU pod, as libtpu compiles it without the pod's chips."""

import podstep
import pytest
from podstep import DEPTH, TOWERS

pytestmark = pytest.mark.tpu_aot

TARGET = "tpu_custom_call"


def test_on_a_mesh_kernels_add_no_collective(tpu_chips):
    plain, text = (podstep.program(tpu_chips("v5e:4x4"), attention=name) for name in ("xla", "auto"))
    # Forward and backward: the forward kernel's output is saved, so that it runs once.
    assert [podstep.kernels(x, TARGET) for x in (plain, text)] == [0, 2 * DEPTH * TOWERS]
    assert not podstep.collectives(text) - podstep.collectives(plain)


def test_without_anything_saved_the_forward_kernel_runs_again(tpu_chips):
    text = podstep.program(tpu_chips("v5e:4x4"), attention="auto", remat="full")
    assert podstep.kernels(text, TARGET) == 3 * DEPTH * TOWERS
