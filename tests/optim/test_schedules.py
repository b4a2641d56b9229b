"""Learning rates against their formulas."""

import math

import numpy as np
import pytest

from mmjax import optim
from mmjax.optim import Constant, Cosine, Linear, Optim, Rsqrt

PEAK, WARMUP, STEPS = 0.3, 10, 50
FORMULAS = {  # of the steps after the warm-up, of which there are `n`
    Cosine(): lambda t, n: (1 + math.cos(math.pi * t / n)) / 2,
    Cosine(end=0.1): lambda t, n: 0.1 + 0.9 * (1 + math.cos(math.pi * t / n)) / 2,
    Linear(): lambda t, n: 1 - t / n,
    Linear(end=0.25): lambda t, n: 1 - 0.75 * t / n,
    Constant(): lambda t, n: 1,
    Constant(cooldown_steps=8): lambda t, n: min(1, (n - t) / 8),
    Rsqrt(timescale=7): lambda t, n: math.sqrt(7 / (7 + t)),
    Rsqrt(timescale=7, cooldown_steps=8): lambda t, n: math.sqrt(7 / (7 + t)) * min(1, (n - t) / 8),
}


@pytest.mark.parametrize("warmup", [0, WARMUP])
@pytest.mark.parametrize("schedule", FORMULAS, ids=repr)
def test_the_rate_warms_up_linearly_and_then_keeps_its_schedule(schedule, warmup):
    rate = optim.learning_rate(Optim(lr=PEAK, warmup_steps=warmup, schedule=schedule), STEPS)
    for step in (0, 1, 5, 9, 10, 11, 30, 41, 42, 43, 49, 50):
        if step < warmup:
            factor = step / warmup
        else:
            factor = FORMULAS[schedule](step - warmup, STEPS - warmup)
        np.testing.assert_allclose(rate(step), PEAK * factor, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "schedule, warmup, message",
    [
        (Cosine(), 50, "warmup_steps=50 leaves nothing of steps=50"),
        (Rsqrt(cooldown_steps=30), 20, "warmup_steps=20 and cooldown_steps=30 leaves nothing of steps=50"),
    ],
)
def test_a_warmup_and_cooldown_as_long_as_the_run_are_refused(schedule, warmup, message):
    optim.learning_rate(Optim(warmup_steps=warmup - 1, schedule=schedule), STEPS)
    with pytest.raises(ValueError, match=message):
        optim.learning_rate(Optim(warmup_steps=warmup, schedule=schedule), STEPS)


@pytest.mark.parametrize(
    "schedule, fields",
    [
        (Cosine, dict(end=-3.0)),
        (Linear, dict(end=1.5)),
        (Constant, dict(cooldown_steps=-5)),
        (Rsqrt, dict(timescale=0)),
        (Rsqrt, dict(cooldown_steps=-1)),
    ],
)
def test_impossible_values_are_refused(schedule, fields):
    ((name, value),) = fields.items()
    with pytest.raises(ValueError, match=f"^{name}={value} "):
        schedule(**fields)
