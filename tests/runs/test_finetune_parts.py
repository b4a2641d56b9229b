"""Finetunes that train what they put beside a checkpoint: what they save, and leave in a whole model."""

import re

import jax
import numpy as np
from commands import assert_as_evaluated, here, lines

import mmjax
from mmjax import checkpoint, sharding
from mmjax.finetune import mixing


def saved(workdir):
    """Shapes of the parameters of a finished run's last step, by path."""
    shapes = checkpoint.saved_shapes(workdir / "checkpoints", last(workdir))
    return {sharding.path_name(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(shapes)}


def last(workdir):
    return checkpoint.saved_steps(workdir / "checkpoints")[-1]


def bytes_on_disk(workdir):
    folder = workdir / "checkpoints" / str(last(workdir)) / "params"
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def souped(workdir, to):
    """The finetune alone, made whole."""
    mixing.Soup(of=(str(workdir),)).run(to)
    return mmjax.load(to)


def test_what_is_put_into_a_tower_is_saved_alone_and_stays_in_a_soup_of_one(spec, photos, tmp_path, capsys):
    workdir = tmp_path / "adapter"
    assert here(spec("tune=adapter"), workdir, "steps=4") == 0
    adapter = [
        f"image/encoder/blocks/{part}/adapter/{layer}/{leaf}"
        for part in ("attention", "mlp")
        for layer in ("reduce", "expand")
        for leaf in ("kernel", "bias")
    ]
    new = {*adapter, "image/border_rows", "image/border_columns", "image/encoder/blocks/prompts"}
    head = {"head/class/logits/kernel", "head/class/logits/bias"}
    assert set(saved(workdir)) == new | head
    printed = capsys.readouterr().out
    assert {path for path in new if re.search(rf"fresh +{path} ", printed)} == new
    model, pictures = assert_as_evaluated(workdir), sorted(photos.rglob("*.jpg"))[:5]
    merged = souped(workdir, tmp_path / "merged")
    np.testing.assert_allclose(merged.predict(pictures), model.predict(pictures), atol=1e-6)
    assert new < set(saved(tmp_path / "merged"))
    assert bytes_on_disk(workdir) < bytes_on_disk(tmp_path / "merged") / 2


def test_of_learned_prompts_the_context_is_saved_alone_and_a_soup_of_one_needs_no_text_tower(
    spec, photos, tmp_path
):
    workdir = tmp_path / "learned"
    assert here(spec("tune=head", "head=learned"), workdir, "steps=4") == 0
    width = mmjax.load(workdir).config.tasks["class"].head.text.tower.width
    assert saved(workdir) == {"head/class/text/context": (2, width)}
    model, pictures = assert_as_evaluated(workdir), sorted(photos.rglob("*.jpg"))[:5]
    merged = souped(workdir, tmp_path / "merged")
    np.testing.assert_allclose(merged.predict(pictures), model.predict(pictures), atol=1e-6)
    assert not any("text" in path for path in saved(tmp_path / "merged"))
    assert bytes_on_disk(workdir) < bytes_on_disk(tmp_path / "merged") / 2
    losses = [line["train/loss"] for line in lines(workdir) if "train/loss" in line]
    assert len(set(losses)) == 4
