"""Several towers in one classification: what is trained of each, what of both, and who is asked."""

import dataclasses

import jax
import numpy as np
import pytest
import tinyclass
from tinyclass import Linear, batch, begun, config, states

from mmjax import sharding
from mmjax.data.fields import Field
from mmjax.finetune import Backbone, Classifier
from mmjax.finetune.classifier import functions
from mmjax.finetune.fusion import Concat, Weighted
from mmjax.finetune.step import learning
from mmjax.finetune.tune import Full, Lora, Part
from mmjax.optim import Optim
from mmjax.sharding import MeshShape, path_name

JOINED = Concat()


def two(fusion=JOINED, image=None, sound=None, **fields):
    """A config with two towers; a sound is three channels of four samples to the same kind of tower."""
    cfg = config(**fields)
    data = dataclasses.replace(cfg.data, fields={"sound": Field(shape=(tinyclass.SOUND, 3))})
    towers = {
        "image": Backbone(module=Linear(), **(image or {})),
        "sound": Backbone(module=Linear(), **(sound or {})),
    }
    return dataclasses.replace(cfg, data=data, towers=towers, fusion=fusion)


def moved(before, after):
    """Which parts of the parameters differ, by the first two names of their paths."""
    changed = jax.tree.map(lambda x, y: not np.array_equal(x, y), before["params"], after["params"])
    return {
        "/".join(path_name(path).split("/")[:2])
        for path, yes in jax.tree_util.tree_leaves_with_path(changed)
        if yes
    }


def test_each_tower_is_tuned_in_its_own_way():
    cfg = two(image=dict(tune=Lora(pattern="kernel$", rank=2)), sound=dict(tune=Part(pattern="bias$")))
    (first, *_, last), _ = states(cfg, 3)
    network, _, fixed = begun(cfg)
    assert set(first["params"]) == {"lora", "sound", "head"} and set(fixed) == {"image", "sound"}
    assert set(first["params"]["lora"]) == {"image"}
    assert set(first["params"]["sound"]["head"]) == {"bias"} and set(fixed["sound"]["head"]) == {"kernel"}
    assert moved(first, last) == {"lora/image", "sound/head", "head/class"}
    whole = network.params(last["params"], fixed)
    assert jax.tree.structure(whole["image"]) == jax.tree.structure(whole["sound"])


def test_each_tower_waits_its_own_steps():
    found, _ = states(two(image=dict(frozen_steps=2, tune=Lora(pattern="kernel$", rank=2))), 4)
    assert moved(found[0], found[2]) == {"sound/head", "head/class"}
    assert moved(found[2], found[4]) == {"lora/image", "sound/head", "head/class"}


@pytest.mark.parametrize(
    "fields, learns",
    [
        ({}, {"image", "sound"}),
        (dict(optim=Optim(lr=0.05, frozen="^image/")), {"sound"}),
        (dict(image=dict(tune=Part()), sound=dict(tune=Lora(pattern="kernel$", rank=1))), {"sound"}),
        (dict(image=dict(tune=Part()), sound=dict(tune=Part())), set()),
    ],
)
def test_a_tower_learns_where_something_of_it_is_trained(fields, learns):
    cfg = two(**fields)
    network, state, _ = begun(cfg)
    assert learning(cfg, network, state["params"]) == learns


def test_a_fusion_learns_whom_to_heed():
    """Labels are told by the sound alone."""
    data = batch(96)
    told = np.eye(3, dtype=np.uint8)[data["sound"].mean(axis=1).argmax(axis=1)]
    still = dict(tune=Part())
    cfg = two(fusion=Weighted(), image=still, sound=dict(tune=Full()), steps=60)
    found, metrics = states(cfg, 60, data=data | {"label/class": told})
    assert set(found[0]["params"]) == {"sound", "fusion", "head"}
    image, sound = found[-1]["params"]["fusion"]["weights"]
    assert sound > image and metrics[-1]["class/accuracy"] > metrics[0]["class/accuracy"] + 0.2


@pytest.fixture(scope="module")
def classifier():
    cfg = two()
    (*_, state), _ = states(cfg, 2)
    network, _, fixed = begun(cfg)
    labels, mesh = {"class": cfg.tasks["class"].labels}, sharding.make_mesh(MeshShape())
    return Classifier(
        network=network,
        labels=labels,
        params=state["params"],
        fixed=fixed,
        functions=functions(network, labels, mesh),
        tokenizer=None,
        mesh=mesh,
    )


def test_a_classifier_is_given_lists_by_modality(classifier):
    data = batch(5)
    items = {name: list(data[name]) for name in ("image", "sound")}
    params = classifier.network.params(classifier.params, classifier.fixed)
    inputs = {name: classifier.network.normalised(name, data[name]) for name in items}
    expected = jax.nn.softmax(classifier.network(params, inputs).logits["class"])
    np.testing.assert_allclose(classifier.predict(items), expected, rtol=1e-4, atol=1e-6)
    examples = [{"image": data["image"][i], "sound": data["sound"][i], "id": i} for i in range(5)]
    found = classifier.embed["classes/class"](examples)
    np.testing.assert_array_equal(found, classifier.predict(items))
    sound_NE = classifier.embed["sound"](items["sound"])
    np.testing.assert_array_equal(sound_NE, classifier.encode(items["sound"], "sound"))
    np.testing.assert_allclose(np.linalg.norm(sound_NE, axis=1), 1, rtol=1e-6)


def test_the_order_of_a_batch_is_nothing_to_a_fusion(classifier):
    data = batch(5)
    inputs = {name: classifier.network.normalised(name, data[name]) for name in ("image", "sound")}
    params = classifier.network.params(classifier.params, classifier.fixed)
    one, other = (classifier.network(params, dict(x)) for x in (inputs.items(), reversed(inputs.items())))
    np.testing.assert_array_equal(one.logits["class"], other.logits["class"])


@pytest.mark.parametrize(
    "ask, message",
    [
        (
            lambda m, x: m.predict({"image": x}),
            "got {'image': 2} items; give lists of one length for image and",
        ),
        (lambda m, x: m.predict({"image": x, "sound": x[:1]}), "'sound': 1} items; give lists of one length"),
        (lambda m, x: m.predict(x), "has the towers image, sound, and none was named; name one"),
        (lambda m, x: m.encode(x), "has the towers image, sound, and none was named; name one"),
        (lambda m, x: m.encode(x, "text"), "towers image, sound, and 'text' is not among them"),
        (lambda m, x: m.predict({"image": x, "sound": x}, task="kind"), "the tasks class, and 'kind' is not"),
        (lambda m, x: m.encode("a.jpg", "image"), r"wanted a list of items, got 'a.jpg'; write \['a.jpg'\]"),
    ],
)
def test_what_a_classifier_cannot_be_asked_is_said(classifier, ask, message):
    with pytest.raises(ValueError, match=message):
        ask(classifier, list(batch(2)["image"]))
