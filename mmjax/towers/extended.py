"""A tower with learned parts put into it from outside: adapters, prompts, a border of pixels.

The tower itself need not know of them. An **extra** is a frozen dataclass that flax calls in place of every
method of every module inside the tower (`flax.linen.intercept_methods`): it may change what goes in or comes
out, and makes its parameters in the module at hand, so that a scan over layers stacks them and a layout finds
them by path as any other. All modules where it does have to be `nn.compact`.

Letters: D width.
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable
from typing import Any, Literal, Protocol

import jax
from flax import linen as nn

from mmjax.sharding import path_name
from mmjax.towers import checking
from mmjax.towers.dense import Dense


class Extra(Protocol):
    @property
    def paths(self) -> str:
        """A regular expression that names its parameters, and none of any tower's own."""

    def __call__(
        self, call: Callable, args: tuple, kwargs: dict[str, Any], context: nn.module.InterceptorContext
    ):
        """`call(*args, **kwargs)`, changed or not; `context.module` and `.method_name` say what is called."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extended:
    """Has of a Linen module what the users of a tower need, `init` and `apply`.

    Parameters of the tower keep their paths.
    """

    tower: nn.Module
    extras: tuple[Extra, ...]

    @property
    def dtype(self) -> str:
        return self.tower.dtype

    @property
    def pad(self) -> int | None:
        """The id of padding, of a text tower that tells it from text."""
        return getattr(self.tower, "pad", None)

    def init(self, *args, **kwargs):
        """Raises ValueError for an extra that finds no place in the tower."""
        with self._put_in():
            variables = self.tower.init(*args, **kwargs)
        paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])]
        for extra in self.extras:
            if not any(re.search(extra.paths, f"/{path}") for path in paths):
                raise ValueError(
                    f"{extra} finds no place in {type(self.tower).__name__}: it has {', '.join(paths)}"
                )
        return variables

    def apply(self, *args, **kwargs):
        with self._put_in():
            return self.tower.apply(*args, **kwargs)

    @contextlib.contextmanager
    def _put_in(self):
        with contextlib.ExitStack() as stack:
            for extra in self.extras:
                stack.enter_context(nn.intercept_methods(extra))
            yield


def extended(tower, extras: tuple[Extra, ...]) -> Extended:
    """The tower with these extras as well as those that it has; what it has already is not added again.

    Raises:
        ValueError: it has an extra of the same kind that is another.
    """
    if not isinstance(tower, Extended):
        return Extended(tower=tower, extras=extras)
    new = tuple(extra for extra in extras if extra not in tower.extras)
    kinds = {type(extra) for extra in tower.extras}
    if again := [extra for extra in new if type(extra) in kinds]:
        raise ValueError(
            f"the tower has {tower.extras} already; {again[0]} would take their place: give the same"
        )
    return dataclasses.replace(tower, extras=tower.extras + new)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapters:
    """A bottleneck of two dense layers on the last axis, added to what parts of the tower give, 0 at first.

    `behind` a part it sees what that gives (Houlsby et al. 2019, arXiv:1902.00751, section 2.1), `beside` it
    what that is given, which is normalised (He et al. 2022, arXiv:2110.04366, section 4.6). Of convolutions
    it is a 1 x 1 convolution (Rebuffi et al. 2017, arXiv:1705.08045).
    """

    width: int = 16
    place: Literal["beside", "behind"] = "beside"
    # Regular expression: the parts, by names such as encoder/blocks/mlp. These are attention and MLPs of a
    # transformer, the MLP of a bag of pieces, and the second convolution of residual blocks.
    parts: str = r"(^|/)(attention|mlp)$|(^|/|_)conv_1$"

    def __post_init__(self):
        checking.at_least(1, width=self.width)

    @property
    def paths(self) -> str:
        return "/adapter/"

    def __call__(self, call, args, kwargs, context):
        y = call(*args, **kwargs)
        path = context.module.path
        if (
            context.method_name != "__call__"
            or "adapter" in path
            or not re.search(self.parts, "/".join(path))
        ):
            return y
        adapter = Bottleneck(width=self.width, out=y.shape[-1], dtype=str(y.dtype), name="adapter")
        return y + adapter(args[0] if self.place == "beside" else y)


class Bottleneck(nn.Module):
    """An adapter's two layers."""

    width: int
    out: int
    dtype: str

    @nn.compact
    def __call__(self, x):
        x = nn.gelu(Dense(self.width, dtype=self.dtype, name="reduce")(x))
        return nn.Dense(self.out, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="expand")(x)
