"""The checkpoint that a finetune starts from: what `init_from` names, and reading parts of it."""

import dataclasses
import pathlib
import re
from typing import Any

from flax import linen as nn

from mmjax import checkpoint, config
from mmjax.data import tokenizers
from mmjax.data.tokenizers import Tokenizer

_BEST = "best"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
    """One step of a finished, or running, workdir."""

    workdir: pathlib.Path
    step: int
    best: bool  # of the folder of the best step
    config: Any  # of the run that wrote it

    @property
    def item(self) -> str:
        """The weights that the run itself was evaluated with."""
        return "ema" if self.config.optim.ema else "params"

    @property
    def folder(self) -> pathlib.Path:
        return self.workdir / (_BEST if self.best else "checkpoints")

    @property
    def name(self) -> str:
        """What `init_from` would be to mean this step and no other."""
        return f"{self.workdir}@{_BEST if self.best else self.step}"

    def shapes(self) -> dict[str, Any]:
        """All parameters of the step; none of them is read."""
        return checkpoint.saved_shapes(self.folder, self.step, item=self.item)

    def restore(self, shapes):
        """The parameters that `shapes` has, on its mesh, whatever mesh wrote them; nothing else is read."""
        return checkpoint.restore_params(self.folder, shapes, self.step, item=self.item)

    def tower(self, modality: str) -> nn.Module:
        """Raises ValueError where the run has none for it."""
        if modality not in self.config.towers:
            raise ValueError(
                f"{self.workdir} has no tower for {modality!r}, only for "
                f"{', '.join(sorted(self.config.towers))}; ask for one of these, or give another init_from"
            )
        return self.config.towers[modality]

    def tokenizer(self) -> Tokenizer:
        return tokenizers.load(self.workdir, self.config.tokenizer)


def find(init_from: str, packages: tuple[str, ...] = ()) -> Base:
    """What `<workdir>`, `<workdir>@<step>` or `<workdir>@best` names: without a step, the last one.

    Args:
        packages: top-level packages beside mmjax whose classes its `config.json` may build.

    Raises:
        ValueError: there is no such run or step; lists the steps.
    """
    name, _, step = (
        init_from.rpartition("@") if re.search(r"@(\d+|best)$", init_from) else (init_from, "", "")
    )
    workdir = pathlib.Path(name).expanduser().absolute()
    path = workdir / "config.json"
    if not init_from or not path.is_file():
        raise ValueError(
            f"init_from={init_from!r}: {path} is not there; give the workdir of a run, or workdir@step"
        )
    best = step == _BEST
    steps = checkpoint.saved_steps(workdir / (_BEST if best else "checkpoints"))
    if not steps or (step.isdigit() and int(step) not in steps):
        raise ValueError(
            f"init_from={init_from!r}: saved are the steps {steps}; give one of them, as workdir@step"
        )
    cfg = config.from_json(path.read_text(), packages=("mmjax", *packages))
    return Base(workdir=workdir, step=int(step) if step.isdigit() else steps[-1], best=best, config=cfg)
