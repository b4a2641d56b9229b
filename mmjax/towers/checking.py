"""Checks of the numbers that towers are made of.

A Linen module makes them when it is called: a run takes its shapes from such a call before the first step.
"""

import math


def at_least(least: int, **fields: int | None):
    """Raises ValueError unless each is `least` or more; None is as it should be."""
    for name, value in fields.items():
        if value is not None and value < least:
            raise ValueError(f"{name}={value} must be {least} or more")


def positive(**fields: float):
    """Raises ValueError unless each is above 0 and finite."""
    for name, value in fields.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value} must be positive")


def share(**fields: float):
    """Raises ValueError unless each lies in [0, 1)."""
    for name, value in fields.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name}={value} is a share; use a value in [0, 1)")
