"""What a task may be."""

import pytest

from mmjax.finetune import Task


@pytest.mark.parametrize("fields", [dict(smoothing=1.0), dict(smoothing=-0.1), dict(weight=0.0)], ids=str)
def test_impossible_values_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        Task(**fields)
