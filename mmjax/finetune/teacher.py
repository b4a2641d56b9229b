"""A finished run as a teacher: what it says of the batch that a student learns from.

Letters: B batch, H W C image, S positions, T the teacher's embedding.
"""

import dataclasses
from collections.abc import Collection

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mmjax import flops, metrics, sharding
from mmjax.contrastive import modalities
from mmjax.data import colour
from mmjax.data.tokenizers import TokenizerConfig
from mmjax.finetune.base import Base
from mmjax.finetune.trees import pick
from mmjax.model import unit
from mmjax.optim.paths import map_paths
from mmjax.sharding import MeshShape


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Teacher:
    """Towers of a checkpoint that embed augmented batches, pictures at the size that they were made for."""

    base: Base
    names: tuple[str, ...]  # modalities

    @classmethod
    def of(cls, base: Base, names: Collection[str]) -> "Teacher":
        """
        Raises:
            ValueError: the run has no tower for one of these modalities, or only a part of it.
        """
        for name in names:
            base.tower(name)
            base.check_whole(name)
        return cls(base=base, names=tuple(names))

    def __call__(self, cfg, params, batch, keys):
        """Unit-norm float32 [B, T], `teacher/<modality>`, of a batch augmented as the student sees it."""
        return self._embed(params, modalities.augmented(cfg, batch, keys["colour"]))

    def _embed(self, params, inputs):
        found = {}
        for name in self.names:
            x = self._picture(inputs[name]) if name == "image" else inputs[name]
            z_BT = unit(self.base.tower(name).apply({"params": params[name]}, x).embedding_BE)
            found[f"teacher/{name}"] = sharding.constrain(z_BT, "batch", None)
        return found

    def shapes(self):
        """Of its parameters."""
        held = self.base.shapes()
        return {name: held[name] for name in self.names}

    def said(self, cfg) -> dict[str, jax.ShapeDtypeStruct]:
        """What it adds to a batch of a config."""
        _, inputs = jax.eval_shape(lambda: modalities.examples(cfg, cfg.data.batch_size))
        return jax.eval_shape(self._embed, self.shapes(), inputs)

    def read(self, mesh: Mesh):
        """Its parameters, and no others of the checkpoint."""
        shapes = self.shapes()
        with metrics.phase(f"reading the teacher {self.base.name}"):
            return self.base.restore(sharding.with_layout(shapes, sharding.shardings(mesh, shapes)))

    def flops(self, cfg, batch) -> int:
        """Operations of one forward pass."""
        keys = {"colour": jax.random.key(0)}
        return flops.count(lambda p, b: self(cfg, p, b, keys), self.shapes(), batch)

    def _picture(self, image_BHW3):
        preprocess = self.base.config.preprocess
        shape = (len(image_BHW3), preprocess.size, preprocess.size, 3)
        if image_BHW3.shape != shape:
            image_BHW3 = jnp.clip(jax.image.resize(image_BHW3, shape, method="cubic"), 0, 1)
        return colour.normalise(image_BHW3, preprocess.mean, preprocess.std)


def check_rows(teacher: Base, tokenizer: TokenizerConfig, model: bytes | None):
    """Raises ValueError unless texts are the same rows of ids for a teacher and its student.

    Args:
        tokenizer: the student's.
        model: contents of its file; None where it takes the teacher's.
    """
    if tokenizer != teacher.config.tokenizer or (model is not None and model != teacher.tokenizer().model):
        raise ValueError(
            f"the tokenizer differs from that of the teacher {teacher.workdir}, which reads the same rows of "
            "ids; leave the tokenizer out, or give a teacher with this one"
        )


def scale_of(teacher: Base) -> float:
    """What the objective of a run multiplies similarities by.

    Raises:
        ValueError: it has no scale, or several.
    """
    shapes = {"objective": teacher.shapes().get("objective", {})}
    scales = pick(shapes, map_paths(lambda path, _: path.endswith("/log_scale"), shapes))
    if len(jax.tree.leaves(scales)) != 1:
        raise ValueError(
            f"the objective of {teacher.workdir} has {len(jax.tree.leaves(scales))} scales; give "
            "objective.teacher_scale, such as 100"
        )
    mesh = sharding.make_mesh(MeshShape())
    read = teacher.restore(sharding.with_layout(scales, sharding.shardings(mesh, scales)))
    return float(jnp.exp(jax.tree.leaves(read)[0]))
