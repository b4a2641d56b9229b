"""Contrastive finetuning: what is read, what is trained, what an objective goes on with."""

import dataclasses

import jax
import numpy as np
import pytest
import tinycontrast
from tinycontrast import EMBED, ROWS, SIZE, TOKENIZER, batch, begun, contrast

import mmjax
from mmjax import sharding
from mmjax.contrastive.step import make_step
from mmjax.data.colour import Jitter
from mmjax.data.geometry import Preprocess
from mmjax.finetune import Contrast, mixing
from mmjax.finetune.adapt import Adapt
from mmjax.finetune.backbone import Backbone
from mmjax.finetune.contrast import model_flops
from mmjax.finetune.contrast_setup import set_up
from mmjax.finetune.pruned import Pruned
from mmjax.finetune.tune import Extend, Lora, Part
from mmjax.objectives.infonce import InfoNCE
from mmjax.objectives.sigmoid import Sigmoid
from mmjax.optim import Optim
from mmjax.sharding import MeshShape
from mmjax.towers.extended import Adapters
from mmjax.towers.layers import Encoder
from mmjax.towers.resnet import ResNet
from mmjax.towers.vit import ViT

NEW_TEXT = Backbone(module=tinycontrast.text(width=4), adapt=Adapt(fresh="."))
LOCKED = Optim(lr=0.01, frozen="^image/")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tinycontrast.finished(tmp_path_factory.mktemp("runs") / "first")


def equal(one, other):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, jax.device_get(one), jax.device_get(other))))


def infonce(z_image, z_text, scale):
    logits = scale * np.float64(z_image) @ np.float64(z_text).T
    right = np.diag(logits)
    return np.mean([np.log(np.exp(logits).sum(axis=axis)) - right for axis in (0, 1)])


def test_it_goes_on_with_the_loss_that_the_checkpoint_has(workdir):
    _, step, state, _ = begun(contrast(workdir))
    new, metrics = step(state, batch())
    model = mmjax.load(workdir)
    rows = batch()
    z_image = model.encode_image(list(rows["image"]))
    z_text = np.asarray(model.encoders["text"](model.params["text"], rows["text"]))
    np.testing.assert_allclose(metrics["loss"], infonce(z_image, z_text, 7.0), rtol=1e-4)
    np.testing.assert_allclose(metrics["scale"], 7.0, rtol=1e-6)
    assert not equal(new["params"]["image"], state["params"]["image"])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_locked_tower_has_no_gradient_no_moments_no_noise_and_no_backward_pass(workdir, accumulate):
    towers = {"image": Backbone(module=tinycontrast.image(dropout=0.5)), "text": Backbone()}
    mesh = MeshShape(data=4, fsdp=2)
    cfg = contrast(workdir, towers=towers, optim=LOCKED, accumulate=accumulate, mesh=mesh)
    setup, step, state, _ = begun(cfg)
    assert setup.locked == ("image",)
    moments = [x.shape for x in jax.tree.leaves(state["opt_state"]) if np.ndim(x)]
    learned = jax.tree.leaves({name: state["params"][name] for name in ("text", "objective")})
    assert sorted(moments) == sorted(2 * [x.shape for x in learned if np.ndim(x)])
    new, metrics = step(state, batch())
    assert equal(new["params"]["image"], state["params"]["image"])
    assert metrics["grad_norm/image"] == 0 < metrics["grad_norm/text"]
    # Half of its features are hidden from a tower that is trained.
    _, other = step(state | {"key": state["key"] + 1}, batch())
    np.testing.assert_array_equal(other["loss"], metrics["loss"])
    free = set_up(dataclasses.replace(cfg, optim=Optim(lr=0.01)))
    shapes = jax.eval_shape(batch)
    forward = 2 * ROWS * (16 * 16 * 3 * 8 + 4 * 8 * 16 + 16 * EMBED)
    assert model_flops(free, shapes) - model_flops(setup, shapes) == 2 * forward


def test_a_part_of_one_tower_and_low_rank_changes_of_the_other_are_all_that_is_in_the_state(workdir):
    towers = {
        "image": Backbone(tune=Lora(pattern="kernel$", rank=2)),
        "text": Backbone(tune=Part(pattern="head")),
    }
    setup, step, state, (fixed,) = begun(contrast(workdir, towers=towers))
    assert set(state["params"]) == {"lora", "text", "objective"} and setup.locked == ()
    assert set(state["params"]["lora"]) == {"image"} and set(state["params"]["text"]) == {"head"}
    before = mmjax.load(workdir).params
    assert equal(setup.whole(state["params"], fixed), before)
    for _ in range(2):
        state, _ = step(state, batch())
    after = setup.whole(state["params"], fixed)
    changed = {
        sharding.path_name(path)
        for path, same in jax.tree_util.tree_leaves_with_path(jax.tree.map(np.array_equal, before, after))
        if not same
    }
    kernels = {f"image/{name}/kernel" for name in ("stem", "hidden", "head")}
    assert changed == {*kernels, "text/head/kernel", "text/head/bias", "objective/log_scale"}


def test_adapters_begin_where_the_checkpoint_ended(workdir):
    towers = {"image": Backbone(tune=Part()), "text": Backbone(tune=Extend(extras=(Adapters(width=2),)))}
    setup, step, state, _ = begun(contrast(workdir, towers=towers))
    paths = {sharding.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(state["params"])}
    assert all("/adapter/" in path for path in paths - {"objective/log_scale"}) and len(paths) > 1
    assert {path for path, fate in fates(setup).items() if fate == "fresh"} == {
        path for path in fates(setup) if "adapter" in path
    }
    _, plain, other, _ = begun(contrast(workdir, towers={"image": Backbone(tune=Part()), "text": Backbone()}))
    np.testing.assert_allclose(step(state, batch())[1]["loss"], plain(other, batch())[1]["loss"], rtol=1e-6)


def test_part_nothing_locks_a_tower_and_its_checkpoints_lack_it(workdir):
    towers = {"image": Backbone(tune=Part()), "text": Backbone()}
    setup, _, state, (fixed,) = begun(contrast(workdir, towers=towers))
    assert setup.locked == ("image",) and set(state["params"]) == {"text", "objective"}
    assert set(fixed) == {"image"}


def fates(setup):
    return {step.path: step.fate for plan in setup.weights.plans.values() for step in plan}


def test_another_objective_begins_anew_and_the_report_says_so(workdir, capsys):
    setup = set_up(contrast(workdir, objective=Sigmoid()))
    found = fates(setup)
    assert {path for path, fate in found.items() if fate != "restored"} == {
        "objective/log_scale",
        "objective/bias",
    }
    with jax.set_mesh(setup.mesh):
        state = setup.first_state(sharding.shardings(setup.mesh, setup.state), *setup.read_fixed())
    np.testing.assert_allclose(np.exp(state["params"]["objective"]["log_scale"]), 10.0, rtol=1e-6)
    # The same kind with other options keeps what it learned.
    assert (
        fates(set_up(contrast(workdir, objective=InfoNCE(smoothing=0.1))))["objective/log_scale"]
        == "restored"
    )


def test_another_resolution_resizes_positions_and_keeps_all_else(tmp_path):
    vit = ViT(width=32, patch=8, embed=EMBED, encoder=Encoder(depth=1, heads=2))
    workdir = tinycontrast.finished(tmp_path / "vit", towers={"image": vit, "text": tinycontrast.text()})
    setup = set_up(contrast(workdir, data=tinycontrast.data(size=24)))
    there = Preprocess(size=SIZE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    assert setup.cfg.preprocess == dataclasses.replace(there, size=24)
    found = fates(setup)
    assert {path for path, fate in found.items() if fate != "restored"} == {"image/positions"}
    assert setup.params["image"]["positions"].shape == (9, 32)


def test_what_the_config_leaves_out_is_the_checkpoints(workdir):
    cfg = set_up(contrast(workdir)).cfg
    before = tinycontrast.pretraining()
    assert cfg.modules == before.towers and cfg.objective == before.objective
    assert (cfg.preprocess, cfg.tokenizer) == (before.preprocess, before.tokenizer)
    assert cfg.init_from == f"{workdir}@10"


def other(**fields):
    return {"image": Backbone(), "text": dataclasses.replace(Backbone(), **fields)}


BAD = {
    "no such tower": (
        dict(towers={"image": Backbone(), "sound": Backbone()}),
        "has no tower for 'sound', only for image, text; ask for one of these",
    ),
    "new without a module": (
        dict(towers=other(adapt=Adapt(fresh="."))),
        "towers.text begins anew, but has no module; give it one",
    ),
    "another tower": (
        dict(towers=other(module=tinycontrast.text(width=4))),
        r"text/head/kernel is \[8, 8\] in the checkpoint and \[4, 8\] in the tower; give the tower",
    ),
    "other embeddings": (
        dict(towers=other(module=tinycontrast.text(embed=4), adapt=Adapt(fresh="."))),
        "the towers' embeddings differ: image has embed=8, text has embed=4",
    ),
    "another vocabulary": (
        dict(towers=other(tokenizer=dataclasses.replace(TOKENIZER, eos="never"))),
        "tokenizer=.* differs from the checkpoint's .* in more than its length; leave it out",
    ),
    "other colours": (
        dict(preprocess=Preprocess(size=SIZE)),
        "preprocess=.* differs from the checkpoint's .* in more than its size; leave it out",
    ),
    "another size": (
        dict(preprocess=Preprocess(size=24, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))),
        "data.geometry ends with pictures of 16x16 pixels, but preprocess.size=24",
    ),
    "one tower": (dict(towers={"image": Backbone()}), r"towers=\['image'\]: give two or more"),
    "freeze all": (dict(optim=Optim(frozen=".")), "optim.frozen='.' freezes everything; leave something"),
    "tune nothing": (
        dict(towers=other(tune=Lora(pattern="none"))),
        "tune.pattern='none' matches none of the parameters",
    ),
    "batch": (
        dict(data=dataclasses.replace(tinycontrast.data(), batch_size=12)),
        "batch_size=12 does not divide",
    ),
    "parts": (dict(accumulate=3), "accumulate=3 does not divide data.batch_size=16"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_the_checkpoint_is_refused(case, workdir):
    fields, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        set_up(contrast(workdir, **fields))


def test_a_config_without_any_run_or_with_waiting_towers_is_refused():
    with pytest.raises(ValueError, match="init_from and teacher are both None; give a run"):
        Contrast(data=tinycontrast.data(), steps=10)
    with pytest.raises(ValueError, match="towers.image.frozen_steps=3 is for classification; use 0"):
        contrast("nowhere", towers={"image": Backbone(frozen_steps=3), "text": Backbone()})


def test_a_part_of_a_tower_with_batch_norm_is_refused(workdir):
    module = ResNet(depths=(1,), width=4, embed=EMBED, heads=2)
    tower = Backbone(module=module, adapt=Adapt(fresh="."), tune=Part(pattern="bias$"))
    with pytest.raises(ValueError, match="towers.image.tune=Part trains a part of a tower that normalises"):
        set_up(contrast(workdir, towers={"image": tower, "text": Backbone()}))


def test_a_run_that_kept_only_what_it_trained_is_refused(workdir, tmp_path):
    """Of a tower that goes on; one that begins anew needs nothing of it."""
    towers = {"image": Backbone(), "text": Backbone(tune=Part(pattern="head"))}
    setup, _, state, _ = begun(contrast(workdir, towers=towers))
    part = tmp_path / "part"
    mixing.write(part, setup.cfg, setup.vocabulary.tokenizer(), 1, state["params"], {})
    with pytest.raises(
        ValueError, match="part holds only what was trained of its tower for 'text' .Part.; make"
    ):
        set_up(contrast(part))
    set_up(contrast(part, towers={"image": Backbone(), "text": NEW_TEXT}))


def test_colours_are_drawn_as_in_pretraining(workdir):
    """The step is that of pretraining: the same loss from the same weights, key and batch, bit for bit."""
    noisy = dict(colour=(Jitter(prob=1.0),))
    setup, step, state, _ = begun(contrast(workdir, **noisy))
    cfg = tinycontrast.pretraining(**noisy, steps=10, optim=Optim(lr=0.01), log_every=1)
    plain = jax.jit(make_step(cfg))
    with jax.set_mesh(setup.mesh):
        _, expected = plain(state, sharding.put_batch(setup.mesh, batch()))
    _, found = step(state, batch())
    np.testing.assert_array_equal(found["loss"], expected["loss"])


def test_a_pruned_tower_keeps_its_zeros_while_the_rest_learns(workdir):
    towers = {"image": Backbone(tune=Pruned(share=0.5)), "text": Backbone()}
    _, step, state, _ = begun(contrast(workdir, towers=towers, optim=Optim(lr=0.01, ema=0.5)))
    zeros = jax.tree.map(lambda x: np.asarray(x) == 0, state["params"]["image"])
    assert zeros["hidden"]["kernel"].mean() == 0.5
    for _ in range(2):
        state, _ = step(state, batch())
    for item in ("params", "ema"):
        still = jax.tree.map(lambda x: np.asarray(x) == 0, state[item]["image"])
        np.testing.assert_array_equal(still["hidden"]["kernel"], zeros["hidden"]["kernel"])
