"""A teacher in the step of a student: what it says, of which pictures, and that it is nowhere kept."""

import dataclasses

import jax
import numpy as np
import pytest
import tinycontrast
from tinycontrast import ROWS, SIZE, TOKENIZER, batch, begun

import mmjax
from mmjax import sharding
from mmjax.contrastive import running
from mmjax.contrastive.step import init_state
from mmjax.data.colour import Invert
from mmjax.data.fields import Field
from mmjax.data.geometry import Preprocess
from mmjax.finetune import Contrast
from mmjax.finetune.backbone import Backbone
from mmjax.finetune.base import find
from mmjax.finetune.contrast import model_flops
from mmjax.finetune.contrast_setup import set_up
from mmjax.finetune.teacher import Teacher
from mmjax.kernels import contrastive
from mmjax.objectives.distilled import DistilledInfoNCE
from mmjax.objectives.infonce import InfoNCE
from mmjax.optim import Optim

LARGER, WIDE = 24, 20  # of the teacher: pixels, and embedding
STUDENT = {
    "image": Backbone(module=tinycontrast.image(widths=(4,), hidden=8)),
    "text": Backbone(module=tinycontrast.text(width=4)),
}
PREPROCESS = Preprocess(size=LARGER, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Of another resolution and another width."""
    return tinycontrast.finished(
        tmp_path_factory.mktemp("runs") / "teacher",
        towers={"image": tinycontrast.image(embed=WIDE), "text": tinycontrast.text(embed=WIDE)},
        preprocess=PREPROCESS,
        data=tinycontrast.data(size=LARGER),
    )


def student(teacher, **fields):
    given = dict(
        towers=STUDENT,
        objective=DistilledInfoNCE(
            infonce=InfoNCE(initial_scale=10.0), share=0.3, teacher_scale=None, embedding=0.5, affinity=2.0
        ),
        data=tinycontrast.data(),
        preprocess=Preprocess(size=SIZE),
        steps=10,
        optim=Optim(lr=0.01),
        log_every=1,
    )
    return Contrast(teacher=str(teacher), **given | fields)


def embeddings(workdir, rows, size=SIZE):
    model = mmjax.load(workdir)
    image = np.asarray(rows["image"], np.float32) / 255
    if size != SIZE:
        image = jax.image.resize(image, (len(image), size, size, 3), "cubic").clip(0, 1)
    z_image = model.encoders["image"](model.params["image"], image)
    return np.asarray(z_image), np.asarray(model.encoders["text"](model.params["text"], rows["text"]))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_student_learns_of_its_teachers_embeddings_of_the_same_batch_at_its_own_size(teacher, accumulate):
    setup, step, state, _ = begun(student(teacher, accumulate=accumulate))
    assert setup.cfg.objective.teacher_scale == pytest.approx(7.0, rel=1e-6)
    assert setup.cfg.tokenizer == TOKENIZER
    new, metrics = step(state, batch())
    taught = embeddings(teacher, batch(), LARGER)
    params = jax.device_get(state["params"])
    rows = batch()
    image = (rows["image"] / 255 - 0.5) / 0.5
    own = []
    for name, x in (("image", np.float32(image)), ("text", rows["text"])):
        z = np.float64(setup.cfg.modules[name].apply({"params": params[name]}, x).embedding_BE)
        own.append(z / np.linalg.norm(z, axis=1, keepdims=True))
    plain = contrastive.infonce(*map(np.float32, own), 10.0)
    logits = contrastive.distill(*map(np.float32, own), 10.0, *taught, 7.0)
    far = 0
    for name, z, target in zip(("image", "text"), own, taught, strict=True):
        mapped = z @ np.float64(params["objective"][f"project_{name}"]["kernel"])
        far += np.mean(1 - np.sum(mapped * target, axis=1) / np.linalg.norm(mapped, axis=1)) / 2
    assert {"distilled": logits, "embedding": far}.items() == {
        name: pytest.approx(float(metrics[name]), rel=1e-4) for name in ("distilled", "embedding")
    }.items()
    expected = 0.7 * plain + 0.3 * logits + 0.5 * far + 2.0 * metrics["affinity"]
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-4)
    assert set(new["params"]) == {"image", "text", "objective"}


def test_a_teacher_sees_what_the_student_sees(teacher):
    """Colours inverted for the one are inverted for the other."""
    found = find(str(teacher))
    of = Teacher.of(found, ("image", "text"))
    cfg = set_up(student(teacher, colour=(Invert(prob=1.0),))).cfg
    mesh = sharding.make_mesh(sharding.MeshShape())
    keys = {"colour": jax.random.key(0)}
    rows = batch()
    with jax.set_mesh(mesh):
        said = jax.jit(lambda p, b: of(cfg, p, b, keys))(of.read(mesh), sharding.put_batch(mesh, rows))
    inverted = embeddings(teacher, rows | {"image": 255 - rows["image"]}, LARGER)
    np.testing.assert_allclose(said["teacher/image"], inverted[0], atol=1e-5)
    np.testing.assert_allclose(said["teacher/text"], inverted[1], atol=1e-5)


def test_a_teacher_costs_its_forward_pass_alone(teacher):
    """Beside a student that it teaches nothing, by the same objective."""
    setup, shapes = set_up(student(teacher)), jax.eval_shape(batch)
    said = setup.teacher.said(setup.cfg)
    own = running.model_flops(setup.cfg, setup.params, {**shapes, **said}, still=())
    of_teacher = model_flops(setup, shapes) - own
    cells, texts = (LARGER // 8) ** 2, 2 * ROWS * (2 * 8 * 16 + 8 * WIDE)
    images = 2 * ROWS * (cells * 8**2 * 3 * 8 + cells * 8 * 16 + 16 * WIDE)
    # Making pictures larger is products of matrices, too: first one side, then the other.
    larger = 2 * ROWS * 3 * (SIZE * SIZE * LARGER + SIZE * LARGER * LARGER)
    assert of_teacher == images + texts + larger


def test_nothing_of_a_teacher_is_in_the_state(teacher):
    _, _, state, fixed = begun(student(teacher))
    assert fixed[0] == {} and set(fixed[1]) == {"image", "text"}
    expected = tinycontrast.drawn(mmjax.load(teacher).config, 0)
    jax.tree.map(np.testing.assert_array_equal, dict(fixed[1]), {name: expected[name] for name in fixed[1]})
    students = tinycontrast.pretraining(towers={name: tower.module for name, tower in STUDENT.items()})
    own = jax.eval_shape(lambda: init_state(students, ROWS))["params"]
    shapes = jax.tree.map(lambda x: x.shape, {name: state["params"][name] for name in STUDENT})
    assert shapes == jax.tree.map(lambda x: x.shape, {name: own[name] for name in STUDENT})
    assert set(state["params"]) == {*STUDENT, "objective"}


BAD = {
    "another tokenizer": (
        dict(
            towers=STUDENT
            | {
                "text": dataclasses.replace(
                    STUDENT["text"], tokenizer=dataclasses.replace(TOKENIZER, length=9)
                )
            }
        ),
        "the tokenizer differs from that of the teacher .*teacher, which reads the same rows of ids; leave",
    ),
    "no such tower": (
        dict(
            towers=STUDENT | {"sound": STUDENT["text"]},
            data=dataclasses.replace(tinycontrast.data(), fields={"sound": Field(shape=(4,))}),
        ),
        "teacher has no tower for 'sound', only for image, text",
    ),
    "no towers": (dict(towers={}), r"towers=\[\]: give two or more"),
    "no objective": (
        dict(objective=None),
        "objective=None means that of init_from, which is None, too; give",
    ),
    "no modules": (
        dict(towers={"image": Backbone(), "text": Backbone()}),
        "towers.image begins anew, but has no",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_student_that_does_not_fit_its_teacher_is_refused(case, teacher):
    fields, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        set_up(student(teacher, **fields))
