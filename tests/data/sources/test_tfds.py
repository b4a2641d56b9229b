"""Data sets of TFDS: fields found or named, parts by hash, and what cannot be read."""

import io
import json
import logging
import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from mmjax.data import BadExample
from mmjax.data.sources.tfds import Tfds

FEATURES = {
    "image": tfds.features.Image(),
    "captions": tfds.features.Sequence({"text": tfds.features.Text(), "id": tfds.features.Scalar(np.int64)}),
    "file_name": tfds.features.Text(),
    "label": tfds.features.ClassLabel(names=["red_deer", "fox"]),
    "said": tfds.features.Translation(["en", "de"]),
}
RECORDS = 60


def encoded(colour, size=(8, 6)):
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "png")
    return stream.getvalue()


def record(number):
    return {
        "image": io.BytesIO(encoded((number, 0, 0))),
        "captions": [{"text": f"number {number}", "id": 1}, {"text": f" also\n{number}", "id": 2}],
        "file_name": f"{number}.png",
        "label": number % 2,
        "said": {"en": "deer", "de": "Reh"},
    }


class Animals(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")
    name = "animals"
    chosen: dict
    splits: dict

    def _info(self):
        features = tfds.features.FeaturesDict(self.chosen)
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(numbers) for split, numbers in self.splits.items()}

    def _generate_examples(self, numbers):
        for number in numbers:
            whole = record(number)
            yield number, {name: whole[name] for name in self.chosen}


def build(folder, fields=tuple(FEATURES), splits=None):
    Animals.chosen = {name: FEATURES[name] for name in fields}
    Animals.splits = splits or {"train": range(RECORDS)}
    builder = Animals(data_dir=folder, file_format="array_record")
    tfds.disable_progress_bar()
    builder.download_and_prepare()
    return str(builder.data_dir)


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    return build(tmp_path_factory.mktemp("animals"))


def test_fields_are_found_by_kind_and_name(animals):
    source = Tfds(name=animals)
    source.prepare()
    assert len(source) == RECORDS and source.names == {}
    example = source[7]
    np.testing.assert_array_equal(example.pop("image"), np.full((6, 8, 3), (7, 0, 0), np.uint8))
    # Words are separated by one space, and a field is the kind of its texts.
    assert example == {"text": ("number 7", "also 7"), "kinds": ("captions/text",) * 2, "id": 7}
    assert source.texts(7) == example


def test_fields_may_be_named(animals):
    source = Tfds(name=animals, captions=("said/de", "said/en"))
    assert source.texts(3) == {"text": ("Reh", "deer"), "kinds": ("said/de", "said/en"), "id": 3}


def test_a_label_is_a_class(animals):
    source = Tfds(name=animals, label="label")
    assert source.names == {0: "red deer", 1: "fox"}
    assert [source[i]["text"] for i in (0, 1)] == [("red deer",), ("fox",)] and source[3]["id"] == 1


def test_without_texts_the_label_is_taken(tmp_path):
    assert Tfds(name=build(tmp_path, ("image", "label"))).names == {0: "red deer", 1: "fox"}


def test_a_data_set_is_found_by_its_name(animals, monkeypatch):
    root = animals.removesuffix("/animals/1.2.0")
    monkeypatch.setattr(Animals, "chosen", FEATURES)
    by_name = Tfds(name="animals", data_dir=root)
    assert by_name[3]["text"] == Tfds(name=animals)[3]["text"]
    found = by_name.resolved()
    assert (found.name, found.image, found.captions) == ("animals:1.2.0", "image", ("captions/text",))
    assert found[5]["text"] == by_name[5]["text"] and found.resolved() == found


def test_slices_are_those_of_tfds(animals):
    assert [Tfds(name=animals, split="train[10:13]").texts(i)["text"][0] for i in range(3)] == [
        "number 10",
        "number 11",
        "number 12",
    ]


def test_a_data_set_of_one_split_is_parted_by_hash(animals):
    train, val = (Tfds(name=animals, part=part, val_share=0.3) for part in ("train", "val"))
    numbers = [[source.texts(i)["text"][0] for i in range(len(source))] for source in (train, val)]
    assert sorted(numbers[0] + numbers[1]) == sorted(f"number {i}" for i in range(RECORDS))
    # Four standard deviations of a binomial.
    assert abs(len(val) - 0.3 * RECORDS) < 4 * np.sqrt(RECORDS * 0.3 * 0.7)
    assert [(s.split, s.part) for s in Tfds(name=animals).splits()] == [("train", "train"), ("train", "val")]


def test_splits_of_the_data_set_are_taken_where_there_are_some(tmp_path):
    name = build(tmp_path, ("image", "label"), {"train": range(4), "validation": range(2), "test": range(3)})
    train, val = Tfds(name=name).splits()
    assert (train.split, train.part, val.split, val.part) == ("train", "all", "validation", "all")
    assert (len(train), len(val)) == (4, 2)


def test_what_is_found_is_said_once_with_three_examples(animals, caplog):
    source = Tfds(name=animals)
    with caplog.at_level(logging.INFO, "mmjax"):
        source.prepare()
        source.prepare()
    assert caplog.messages == [
        "animals/1.2.0: 60 records of train",
        "  pictures from image, texts from captions/text",
        "  0: number 0 | also 0",
        "  29: number 29 | also 29",
        "  59: number 59 | also 59",
    ]


def test_pictures_are_kept_small_and_workers_get_fields_only(animals):
    source = Tfds(name=animals, side=3)
    assert source[1]["image"].shape == (3, 4, 3) and source[1]["image"] is source[1]["image"]
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source and set(vars(copy)) == {*source.__dataclass_fields__}


def test_bad_records_say_which_and_why(tmp_path, monkeypatch):
    name = build(tmp_path)
    source = Tfds(name=name, captions=("file_name",))
    records = [dict(source._records[0]) for _ in range(4)]
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
    Image.fromarray(noise).save(stream := io.BytesIO(), "png")
    records[0]["image"] = stream.getvalue()[:4_000]
    records[1]["file_name"] = b" "
    records[2]["file_name"] = b"word " * 200_000
    monkeypatch.setitem(vars(source), "_records", records)
    found = []
    for index in range(3):
        with pytest.raises(BadExample) as error:
            source[index]
        found.append((error.value.reason, error.value.where))
    assert [where for _, where in found] == [f"{name} train[{i}]" for i in range(3)]
    assert [reason for reason, _ in found] == ["truncated", "no_caption", "long_caption"]
    assert source[3]["text"] == ("0.png",)


def refused(**fields):
    with pytest.raises(ValueError) as error:
        Tfds(**fields).prepare()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_fields_that_are_not_there_or_not_clear_are_refused_with_those_there_are(animals, tmp_path):
    message = refused(name=animals, captions=("words",))
    assert (
        "has no field 'words'; it has captions/id, captions/text, file_name, image, label, said/de" in message
    )
    two = build(tmp_path, ("image", "file_name", "said"))
    assert "nothing tells which fields of" in refused(name=two) and "say captions=(NAME,)" in refused(
        name=two
    )
    blind = build(tmp_path / "blind", ("label", "file_name"))
    assert "has 0 fields of pictures" in refused(name=blind)


def test_what_is_not_there_is_refused(tmp_path, animals):
    assert "the data set tfds:no_such_set cannot be opened: " in refused(
        name="no_such_set", data_dir=str(tmp_path)
    )
    assert f"the data set tfds:{tmp_path} cannot be opened: " in refused(name=str(tmp_path))
    assert "there are train" in refused(name=animals, split="tset")
    assert "nothing in val of train; use another val_share" in refused(
        name=animals, part="val", val_share=0.0
    )
    message = refused(name="mnist", data_dir=str(tmp_path))
    assert "is not in" in message and "tfds build mnist --file_format=array_record" in message


def test_tfrecord_files_are_refused_with_the_way_to_convert_them(tmp_path):
    name = build(tmp_path, ("image", "label"))
    path = tmp_path / "animals" / "1.2.0" / "dataset_info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    message = refused(name=name)
    assert f"{name} holds tfrecord files" in message
    assert f"tfds convert_format --dataset_version_dir={name} --out_file_format=array_record" in message


def test_tfrecord_files_without_a_description_are_refused_the_same_way(tmp_path):
    file = tmp_path / "mine" / "train.tfrecord"
    file.parent.mkdir()
    file.touch()
    for name in (file.parent, tmp_path):
        message = refused(name=str(name))
        assert message.startswith(f"{file.parent} holds tfrecord files, such as train.tfrecord, ")
        assert "there is no dataset_info.json to tell their fields: write it with" in message
        assert f"tfds convert_format --dataset_version_dir={file.parent} --out_file_format" in message


def test_a_missing_package_is_one_line_with_the_remedy(animals, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", None)
    assert "pip install tensorflow-datasets" in refused(name=animals)
