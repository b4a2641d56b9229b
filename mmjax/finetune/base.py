"""The checkpoint that a finetune starts from: what `init_from` names, and reading parts of it."""

import dataclasses
import pathlib
from typing import Any

from flax import linen as nn

from mmjax import checkpoint
from mmjax.data import tokenizers
from mmjax.data.tokenizers import Tokenizer, TokenizerConfig
from mmjax.finetune.quantized import Quantized
from mmjax.finished import checkpoint_of, config_of, split

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
        tower = self.config.towers[modality]
        # Those of a finetune say what of them was trained, too.
        return tower if isinstance(tower, nn.Module) else tower.module

    def check_whole(self, modality: str):
        """Raises ValueError where the checkpoints hold of a tower only what a finetune trained."""
        tower = self.config.towers[modality]
        if not isinstance(tower, nn.Module) and not tower.tune.whole:
            raise ValueError(
                f"{self.workdir} holds only what was trained of its tower for {modality!r} "
                f"({type(tower.tune).__name__}); make it whole with configs/finetune_soup.py, and give that"
            )

    def objective(self) -> nn.Module:
        """Raises ValueError where the run had none, as a classification has not."""
        if "objective" not in {field.name for field in dataclasses.fields(self.config)}:
            raise ValueError(f"{self.workdir} is a {type(self.config).__name__}, without objective; give one")
        return self.config.objective

    def tokenizer(self, other: TokenizerConfig | None = None) -> Tokenizer:
        """The run's; with `other` its vocabulary for rows as that says."""
        return tokenizers.load(self.workdir, other or self.config.tokenizer)


def find(init_from: str, packages: tuple[str, ...] = ()) -> Base:
    """What `<workdir>`, `<workdir>@<step>` or `<workdir>@best` names: without a step, the last one.

    Args:
        packages: top-level packages beside mmjax whose classes its `config.json` may build.

    Raises:
        ValueError: there is no such run or step; lists the steps.
    """
    workdir, wanted = split(init_from)
    workdir = workdir.expanduser().absolute()
    try:
        cfg = config_of(workdir, packages)
        if isinstance(cfg, Quantized):
            raise ValueError("its weights are int8, and nothing trains these; give the run it was made of")
        _, step = checkpoint_of(workdir, wanted)
    except ValueError as error:
        raise ValueError(f"init_from={init_from!r}: {error}") from error
    return Base(workdir=workdir, step=step, best=wanted == "best", config=cfg)
