"""What a classification takes from its checkpoint, and what is refused before a directory is claimed."""

import dataclasses

import jax
import numpy as np
import pytest
import tinycontrast
from tinycontrast import TOKENIZER

import mmjax
from mmjax.data.fields import Field
from mmjax.data.labels import OneClass
from mmjax.data.pipeline import Data
from mmjax.finetune import Backbone, Classify, Task, base, fusion, heads, mixing
from mmjax.finetune.adapt import Adapt
from mmjax.finetune.classify import first_model
from mmjax.finetune.context import Prompts
from mmjax.finetune.setup import set_up
from mmjax.finetune.tune import Lora, Part
from mmjax.objectives.infonce import InfoNCE
from mmjax.objectives.pairs import Pair, Views
from mmjax.optim import Optim

NAMES = ("ant", "bee")
LONGER = dataclasses.replace(TOKENIZER, length=20, truncate="start")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Animals:
    """Texts that end with what they are of."""

    licence: str = ""

    def prepare(self):
        pass

    @property
    def names(self):
        return dict(enumerate(NAMES))

    def __len__(self):
        return 32

    def __getitem__(self, index):
        kind = index % len(NAMES)
        return {"text": (f"animal {index}: {NAMES[kind]}",), "id": kind}


def classify(workdir, **fields):
    """Of pictures, where `fields` say nothing else."""
    task = Task(**{"labels": OneClass(names=NAMES)} | fields.pop("task", {}))
    given = dict(data=tinycontrast.data(), steps=2, optim=Optim(lr=0.01), tasks={"class": task})
    return Classify(init_from=str(workdir), **given | fields)


def of_texts(workdir, **tower):
    return classify(workdir, towers={"text": Backbone(**tower)}, data=Data(train=Animals(), batch_size=16))


def finetuned(workdir, cfg):
    """The workdir of a finetune that ended where it began, with what such a run keeps."""
    model = first_model(cfg)
    mixing.write(workdir, model.config, model.tokenizer, 1, model.params, {})
    return workdir


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tinycontrast.finished(tmp_path_factory.mktemp("runs") / "first")


def test_a_run_without_pictures_is_a_base_for_texts_of_another_length(tmp_path):
    """The rows of training, of the finished model, and of the first one are those that its config says."""
    sound = tinycontrast.text(vocab=16)
    workdir = tinycontrast.finished(
        tmp_path / "heard",
        towers={"text": tinycontrast.text(), "sound": sound},
        objective=InfoNCE(initial_scale=20.0, views=Views(pairs=(Pair(first="text", second="sound"),))),
        data=Data(
            train=Animals(),
            batch_size=16,
            fields={"sound": Field(shape=(6,), dtype="int32")},
            may_lack=("sound",),
        ),
        preprocess=None,
    )
    cfg = of_texts(workdir, tokenizer=LONGER)
    cfg.run(tmp_path / "read")
    items = ["too long for twelve bytes: bee"]
    for model in (mmjax.load(tmp_path / "read", packages=("test_setup",)), first_model(cfg)):
        assert model.tokenizer.config == LONGER
        assert model.predict(items).shape == (1, 2)


@pytest.mark.parametrize("changed", [dict(eos="never"), dict(pad_id=2)], ids=str)
def test_texts_are_read_with_the_checkpoints_tokenizer(changed, workdir):
    cfg = of_texts(workdir, tokenizer=dataclasses.replace(TOKENIZER, **changed))
    with pytest.raises(ValueError, match="tokenizer=.* differs from the checkpoint's .* in more than its le"):
        set_up(cfg, base.find(cfg.init_from))


@pytest.mark.parametrize(
    "module, message",
    [
        (tinycontrast.text(vocab=9), "the text tower has 9 pieces, tokenizer.vocab="),
        (tinycontrast.text(pad=2), "the text tower has pad=2, but tokenizer.pad_id=0"),
    ],
    ids=["pieces", "padding"],
)
def test_a_text_tower_that_begins_anew_is_for_the_rows_that_it_will_read(module, message, workdir):
    cfg = of_texts(workdir, module=module, adapt=Adapt(fresh="."))
    with pytest.raises(ValueError, match=message):
        set_up(cfg, base.find(cfg.init_from))


@pytest.mark.parametrize("tune", [Part(pattern="bias$"), Lora(pattern="kernel$")], ids=["part", "lora"])
def test_a_checkpoint_that_holds_what_was_trained_alone_is_refused(tune, workdir, tmp_path):
    part = finetuned(tmp_path / "part", classify(workdir, towers={"image": Backbone(tune=tune)}))
    cfg = classify(part)
    with pytest.raises(
        ValueError, match=f"{part} holds only what was trained of its tower for .image. .*; make it whole"
    ):
        set_up(cfg, base.find(cfg.init_from))
    mixing.Soup(of=(str(part),)).run(tmp_path / "whole")
    assert set_up(cfg, base.find(str(tmp_path / "whole"))).network.heads["class"].classes == 2


@pytest.mark.parametrize(
    "then",
    [dict(head=heads.Linear()), dict(head=heads.Prompted()), dict(fusion=fusion.Mean())],
    ids=str,
)
def test_a_head_that_computes_something_else_is_not_kept(then, workdir, tmp_path):
    """Though its parameters have the same shapes."""
    normalised = heads.Linear(normalise=True, dropout=0.5)
    first = finetuned(tmp_path / "probe", classify(workdir, task=dict(head=normalised)))
    kept = dict(head=heads.Linear(normalise=True), keep_head=True)
    set_up(cfg := classify(first, task=kept), base.find(cfg.init_from))
    changed = {name: then[name] for name in then if name != "head"}
    cfg = classify(first, task=kept | {name: then[name] for name in then if name == "head"}, **changed)
    with pytest.raises(
        ValueError, match="tasks.class.keep_head: .* has no such head for the same classes and"
    ):
        set_up(cfg, base.find(cfg.init_from))


def test_a_head_of_prompts_is_kept_whatever_prompts_it_began_with(workdir, tmp_path):
    first = finetuned(tmp_path / "first", classify(workdir, task=dict(head=heads.Prompted())))
    again = heads.Prompted(templates=("a {}",), scale=5.0)
    model = first_model(classify(first, task=dict(head=again, keep_head=True)))
    kept, expected = (m.params["head"] for m in (model, mmjax.load(first)))
    jax.tree.map(np.testing.assert_array_equal, kept, expected)


@pytest.mark.parametrize("head", [heads.Prompted(), Prompts(length=2)], ids=str)
def test_a_head_of_texts_needs_a_whole_text_tower_and_a_scale(head, workdir, tmp_path):
    asked = dict(task=dict(head=head))
    pictures = finetuned(tmp_path / "pictures", classify(workdir))
    both = classify(
        workdir,
        towers={"image": Backbone(), "text": Backbone()},
        fusion=fusion.Concat(),
    )
    partial = dataclasses.replace(both, towers=both.towers | {"text": Backbone(tune=Part())})
    for path, message in (
        (pictures, "has no tower for 'text', only for image"),
        (finetuned(tmp_path / "both", both), "has no objective with a scale"),
        (finetuned(tmp_path / "partial", partial), "holds only what was trained of its tower for 'text'"),
    ):
        with pytest.raises(ValueError, match=message):
            set_up(classify(path, **asked), base.find(str(path)))
