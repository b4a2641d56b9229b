"""A config retold for a user's own pictures: what changes, and what stays."""

import dataclasses
import itertools

import numpy as np
import own_pictures
import pytest
from flax import linen as nn
from PIL import Image

from configs import debug, quickstart, scenes
from mmjax import config, own_data
from mmjax.data import colour, pipeline
from mmjax.data.captions import AnyCaption, Prompted
from mmjax.data.geometry import Flip, RandomResizedCrop
from mmjax.data.tokenizers import Tokenizer
from mmjax.data.tokenizers.utf8 import Bytes
from mmjax.evals.retrieval import Retrieval
from mmjax.evals.zero_shot import ZeroShot

COUNT = 48


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    return {form: write(root / form, COUNT) for form, write in own_pictures.FORMS.items()}


def first_batches(cfg, count=5):
    tokenizer = Tokenizer(b"", Bytes(length=48))
    data = dataclasses.replace(cfg.data, batch_size=16)
    pipeline.check_size(data, cfg.preprocess.size)
    return list(itertools.islice(pipeline.batches(data, tokenizer), count))


def test_all_forms_of_the_same_pictures_give_the_same_batches(forms):
    """So the same first loss, whatever the towers."""
    batches = {form: first_batches(quickstart.get_config().with_data(data)) for form, data in forms.items()}
    first = batches.pop("pairs")
    for batch in first:
        assert batch["image"].shape == (16, 48, 48, 3)
        assert len(np.unique(batch["image"], axis=0)) == len(np.unique(batch["text"], axis=0)) == 16
    for others in batches.values():
        for batch, other in zip(first, others, strict=True):
            np.testing.assert_array_equal(batch["image"], other["image"])
            np.testing.assert_array_equal(batch["text"], other["text"])


def test_the_splits_of_all_forms_are_the_same(forms):
    found = {form: quickstart.get_config().with_data(data).evals for form, data in forms.items()}
    sizes = {
        form: {label: len(each.source) for label, each in evals.items()} for form, evals in found.items()
    }
    assert sizes["pairs"]["train"] + sizes["pairs"]["val"] == COUNT and sizes["pairs"]["val"] > 0
    assert all(size == sizes["pairs"] for size in sizes.values())
    texts = [evals["val"].source.texts(0)["text"] for evals in found.values()]
    assert all(text == texts[0] for text in texts)


def test_captioned_pictures_take_the_place_of_drawings(forms):
    before = quickstart.get_config(steps=30)
    after = before.with_data(forms["csv"])
    kept = ("towers", "objective", "preprocess", "steps", "optim", "mesh", "checkpoint", "seed")
    for name in kept:
        assert getattr(after, name) == getattr(before, name)
    # Photos have no alpha: what needs one goes, all else stays.
    gone = [op for op in before.colour if op not in after.colour]
    assert [type(op) for op in gone] == [colour.Outline, colour.Background]
    assert own_data.changes(before, after) == (
        "Emoji gave way to Folder: geometry is RandomResizedCrop, Flip; without Outline, Background, which "
        "are for drawings with alpha; captions are chosen by AnyCaption and cut at 32 tokens; "
        "evaluators are val, train"
    )
    crop, flip = after.data.geometry
    assert isinstance(crop, RandomResizedCrop) and crop.size == before.preprocess.size
    assert flip == Flip(prob=0.3) and after.data.captions == AnyCaption()
    assert set(after.evals) == {"train", "val"}
    assert all(type(each) is Retrieval for each in after.evals.values())
    assert after.data.train is after.evals["train"].source
    assert {each.name for each in after.evals.values()} == {"csv_train", "csv_val"}


def test_a_learned_tokenizer_holds_sentences_as_far_as_the_tower_does(forms):
    for before, length in (
        (quickstart.get_config(), 32),
        (debug.get_config(), 16),
        (scenes.get_config(), 24),
    ):
        after = before.with_data(forms["pairs"])
        assert after.tokenizer == dataclasses.replace(before.tokenizer, model="bpe", length=length)
    # Of another tower it is not known how many it takes.
    before = quickstart.get_config()
    before = dataclasses.replace(before, towers=before.towers | {"text": nn.Dense(8)})
    assert before.with_data(forms["pairs"]).tokenizer.length == before.tokenizer.length < 32
    given = dataclasses.replace(debug.get_config(), tokenizer=Bytes(length=16))
    assert given.with_data(forms["pairs"]).tokenizer == Bytes(length=16)


def test_hard_negatives_and_their_evaluators_do_not_outlive_their_data(forms):
    after = scenes.get_config().with_data(forms["pairs"])
    assert after.data.together == 1 and set(after.evals) == {"train", "val"}


def test_what_was_due_in_the_middle_stays_due(forms):
    before = debug.get_config()
    test = dataclasses.replace(before.evals["test"], every_steps=7)
    after = dataclasses.replace(before, evals={"test": test}).with_data(forms["pairs"])
    assert after.evals["val"].every_steps == 7 and after.evals["train"].every_steps == 0


def class_folder(root):
    for name in ("red_fox", "owl"):
        (root / name).mkdir(parents=True)
        for number in range(40):
            Image.new("RGB", (9, 7), (number, 0, 0)).save(root / name / f"{number}.png")
    return str(root)


def test_folders_of_classes_are_classified_and_trained_on_in_prompts(tmp_path):
    after = debug.get_config().with_data(class_folder(tmp_path / "my animals!"))
    assert type(after.data.captions) is Prompted
    kinds = {label: type(each) for label, each in after.evals.items()}
    assert kinds == {
        "val": Retrieval,
        "val_classes": ZeroShot,
        "train": Retrieval,
        "train_classes": ZeroShot,
    }
    # Metric names take no spaces.
    assert {each.name for each in after.evals.values()} == {"my_animals_val", "my_animals_train"}
    for each in after.evals.values():
        each.prepare()


def test_without_validation_pictures_the_training_pictures_are_evaluated_on(tmp_path):
    own_pictures.pairs(tmp_path / "few", 1)
    assert set(debug.get_config().with_data(str(tmp_path / "few")).evals) == {"train"}


def test_the_config_is_data_and_depends_on_what_the_folder_holds(forms, tmp_path):
    for data in forms.values():
        after = debug.get_config().with_data(data)
        assert config.from_json(config.to_json(after)) == after == debug.get_config().with_data(data)
    data = own_pictures.pairs(tmp_path / "mine", 4)
    before = debug.get_config().with_data(data)
    (tmp_path / "mine" / "0000.txt").write_text("another caption")
    (tmp_path / "mine" / "0001.txt").write_text("another caption")
    assert debug.get_config().with_data(data).data.train != before.data.train


def test_one_of_several_tables_is_taken_by_its_path(forms, tmp_path):
    folder = own_pictures.table_csv(tmp_path / "two", 24)
    (tmp_path / "two" / "other.csv").write_text("file_name,caption\n0001.jpg,another\n")
    with pytest.raises(ValueError, match="2 tables .* give the path of the one in place of the folder"):
        own_data.with_data(debug.get_config(), folder)
    after = own_data.with_data(debug.get_config(), f"{folder}/captions.csv")
    assert after.data.train.table == "captions.csv" and after.evals["train"].name == "two_train"
    texts = [after.data.train.texts(i)["text"][0] for i in range(len(after.data.train))]
    assert texts and set(texts) <= set(own_pictures.captions(24))


@pytest.mark.parametrize("data", ["no/such/folder", "tfds:no_such_data_set"])
def test_data_that_is_not_there_is_refused(data):
    with pytest.raises(ValueError, match=data.rpartition(":")[2]):
        own_data.with_data(debug.get_config(), data)
