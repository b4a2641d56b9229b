"""The emoji data set, fetched and built from small packages made here, and read back."""

import errno
import hashlib
import io
import json
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mmjax.data.sources import drawings_build, emoji_build, emoji_join
from mmjax.data.sources.emoji import Emoji
from mmjax.data.sources.emoji_fetch import Package
from mmjax.data.sources.emoji_join import Concept, Drawing
from mmjax.data.sources.emoji_render import MARGIN, crop
from mmjax.data.sources.emoji_styles import Collection, Style

RED = '<circle cx="10" cy="9" r="3" fill="#f00"/>'
SQUARE = '<path fill="#0000ff" d="M2 2h4v4H2z"/>'
PIZZA = '<path fill="#fa0" d="M2 2h12L8 14z"/>'
CRESCENT = '<path fill="#222" d="M3 3h9v2H5v8H3z"/>'
TENT = '<path fill="#fa0" d="M2 14h12L8 2z"/>'
BAR = '<path fill="#0ff" d="M1 1h9v3H1z"/>'
FLAG = '<path fill="#0f0" d="M0 4h16v8H0z"/>'

# By SHA-256, "pizza" and "snail" are held out; "umbrella" and "star" are not.
ENTRIES = [
    {"label": "umbrella", "hexcode": "2602-FE0F", "group": 5, "tags": ["rain", "Pizza", "umbrella"]},
    {"label": "star", "hexcode": "2B50", "group": 5, "tags": ["shine"]},
    {"label": "pizza", "hexcode": "1F355", "group": 4, "tags": ["cheese", "slice"]},
    {"label": "snail", "hexcode": "1F40C", "group": 3, "tags": ["slow"]},
    {"label": "flag: Andorra", "hexcode": "1F1E6-1F1E9", "group": 9, "tags": ["AD"]},
    {"label": "regional indicator A", "hexcode": "1F1E6"},
]
GERMAN = {"2602-FE0F": "Regenschirm", "1F355": "Pizza", "1F1E6-1F1E9": "Flagge: Andorra", "1F1E6": "A"}

ROUND = {  # has code points; draws the star exactly as the snail
    "icons.json": {
        "width": 16,
        "height": 16,
        "icons": {
            "parasol": {"body": RED},
            "star": {"body": SQUARE},
            "pizza": {"body": PIZZA},
            "snail": {"body": SQUARE},
            "flag-for-andorra": {"body": FLAG},
        },
    },
    "chars.json": {"2602": "parasol"},
}
LINES = {  # joined by name alone
    "icons.json": {"icons": {"umbrella": {"body": TENT}, "star": {"body": CRESCENT}, "pizza": {"body": BAR}}},
    "chars.json": {},
}


def package(folder, name, files):
    """Packs `files` as npm does into `folder` and pins what came out."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Package(
        name=name, version="1.0.0", sha256="", licence="CC0-1.0", author="Ann", homepage="home.example"
    )
    path = folder / made.filename
    with tarfile.open(path, "w:gz") as tar:
        for member, content in files.items():
            data = json.dumps(content).encode()
            info = tarfile.TarInfo(f"package/{member}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    pinned = {**vars(made), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return Package(**pinned)


def style(folder, name, files):
    return Style(name=name, family=name, package=package(folder, f"@icons/{name}", files))


def collection(folder):
    """Two styles, `round` trained on and `lines` held out, and the names; the archives are in `folder`."""
    german = [{"label": label, "hexcode": code} for code, label in GERMAN.items()]
    names = package(folder, "names", {"en/data.json": ENTRIES, "de/data.json": german, "en/x.json": 0})
    return Collection(
        train=(style(folder, "round", ROUND),), held_out=(style(folder, "lines", LINES),), names=names
    )


@pytest.fixture
def emoji(tmp_path):
    """The source of a data directory with nothing but the archives in it."""
    return Emoji(px=32, data_dir=str(tmp_path), collection=collection(tmp_path / "downloads"))


def of_split(emoji, split):
    return Emoji(split=split, px=emoji.px, data_dir=emoji.data_dir, collection=emoji.collection)


def drawing(body, view=(0, 0, 16, 16), style="round"):
    return Drawing(style, Concept(0, "2602", "umbrella", (), False, False), body, view)


def box(image):
    """Rows and columns (first, one past last) where something is visible."""
    visible = image[..., 3] > 8
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    return (rows[0], rows[-1] + 1), (columns[0], columns[-1] + 1)


def test_a_family_is_not_half_held_out(tmp_path):
    twin = style(tmp_path, "twin", ROUND)
    other = Style(name="other", family="twin", package=twin.package)
    with pytest.raises(ValueError, match="other is held out, but twin of the same family"):
        Collection(train=(twin,), held_out=(other,))
    with pytest.raises(ValueError, match="twin is given twice"):
        Collection(train=(twin, twin), held_out=())


def test_a_built_split_reads_back_as_drawn(emoji, caplog):
    caplog.set_level(logging.INFO, logger="mmjax")
    emoji.prepare()
    counts = {split: len(of_split(emoji, split)) for split in emoji_join.SPLITS}
    # round: umbrella, star (dropped: drawn as the snail), pizza, snail, flag. lines: umbrella, star, pizza.
    assert counts == {"train": 1, "val_concept": 2, "val_style": 1, "val_both": 1, "flags": 1}
    assert "1 drawings are not trained on" in caplog.text
    assert "1 drawings of val_style have no style in train" in caplog.text

    (umbrella,) = (emoji[index] for index in range(len(emoji)))
    assert umbrella["id"] == 0 and emoji.names == {0: "umbrella"}
    np.testing.assert_array_equal(umbrella["image"], crop(drawing(RED), 32))
    assert umbrella["image"][16, 16].tolist() == [255, 0, 0, 255]
    assert box(umbrella["image"]) == ((MARGIN, 32 - MARGIN), (MARGIN, 32 - MARGIN))
    assert of_split(emoji, "val_concept").names == {3: "pizza", 4: "snail"}
    assert of_split(emoji, "val_style")[0]["id"] == 0
    np.testing.assert_array_equal(of_split(emoji, "val_style")[0]["image"], crop(drawing(TENT), 32))


def test_a_held_out_name_is_no_keyword_in_train(emoji):
    emoji.prepare()
    assert emoji[0]["text"] == ("umbrella", "rain")
    assert of_split(emoji, "val_style")[0]["text"] == ("umbrella", "rain", "Pizza")


def test_names_in_other_languages_go_by_id(emoji):
    emoji.prepare()
    assert emoji.names_in("de") == {0: "Regenschirm", 2: "Flagge: Andorra", 3: "Pizza"}
    assert len(emoji.names_in("en")) == 5
    with pytest.raises(ValueError, match="no emoji names in 'tlh'; use one of de, en"):
        emoji.names_in("tlh")


def test_licences_lie_beside_the_records_and_in_the_source(emoji):
    emoji.prepare()
    text = (emoji.folder / "LICENCES.txt").read_text()
    for pinned in emoji.collection.packages:
        assert pinned.spec in text and pinned.spec in emoji.licence
    assert text.count("CC0-1.0") == 3 and text.count("home.example") == 3


def test_a_pickled_source_carries_no_examples(emoji):
    emoji.prepare()
    image = emoji[0]["image"]
    pickled = pickle.dumps(emoji)
    assert len(pickled) < image.nbytes
    again = pickle.loads(pickled)
    assert again == emoji
    np.testing.assert_array_equal(again[0]["image"], image)


def test_threads_read_the_same_and_none_can_write(emoji):
    emoji.prepare()
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda _: emoji[0]["image"], range(16)))
    assert all(np.array_equal(image, images[0]) for image in images)
    with pytest.raises(ValueError, match="read-only"):
        images[0][0, 0] = 0


def test_two_builds_are_alike_and_the_later_one_yields(emoji):
    emoji.prepare()
    before = {path.name: path.read_bytes() for path in emoji.folder.glob("*record*")}
    stamps = {path: path.stat().st_mtime_ns for path in emoji.folder.iterdir()}
    downloads = emoji.folder.parents[2] / "downloads"
    # As another process would that began before the first had finished.
    emoji_build.build(emoji.collection, emoji.px, folder=emoji.folder, downloads=downloads)
    assert {path: path.stat().st_mtime_ns for path in emoji.folder.iterdir()} == stamps
    shutil.rmtree(emoji.folder)
    emoji.prepare()
    assert {path.name: path.read_bytes() for path in emoji.folder.glob("*record*")} == before
    assert os.listdir(emoji.folder.parent) == [emoji.folder.name]


def test_a_killed_build_leaves_nothing_that_looks_finished(emoji):
    code = (
        "import os, pickle, signal, sys\n"
        "source = pickle.load(sys.stdin.buffer)\n"
        "rename = os.rename\n"
        "def die_at_the_last_step(old, new):\n"
        "    if os.fspath(new) == str(source.folder):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    rename(old, new)\n"
        "os.rename = die_at_the_last_step\n"
        "source.prepare()\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(emoji), capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    (left,) = emoji.folder.parent.iterdir()
    assert left.name.startswith(".building-") and not emoji.folder.exists()
    with pytest.raises(ValueError, match=r"call prepare\(\) first"):
        len(emoji)

    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(left, (two_days_ago, two_days_ago))
    emoji.prepare()
    assert len(emoji) == 1 and not left.exists()


def test_a_full_disk_is_said_before_the_start(emoji, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=3_000_000))
    with pytest.raises(ValueError, match=r"needs 100 MB in .*, 3 MB are free; free some, or set data_dir"):
        emoji.prepare()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError('Failed to finalize writing of split "train": write() failed: No space left on device'),
    ],
    ids=["from the system", "from ArrayRecord"],
)
def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing(emoji, monkeypatch, error):
    def fill(self):
        raise error

    monkeypatch.setattr(drawings_build.DrawingsBuilder, "download_and_prepare", fill)
    with pytest.raises(ValueError, match="no space left in .* which needs 100 MB; free some"):
        emoji.prepare()
    assert list(emoji.folder.parent.iterdir()) == []


def test_too_many_failures_to_render_name_the_style(tmp_path):
    downloads = tmp_path / "downloads"
    whole = collection(downloads)
    broken = {
        "icons.json": {"icons": {"star": {"body": "<path"}, "umbrella": {"body": RED}}},
        "chars.json": {},
    }
    source = Emoji(
        data_dir=str(tmp_path),
        collection=Collection(
            train=whole.train, held_out=(style(downloads, "rough", broken),), names=whole.names
        ),
    )
    with pytest.raises(ValueError, match="1 of 2 drawings of rough did not render"):
        source.prepare()


def test_wrong_fields_are_refused():
    with pytest.raises(
        ValueError, match="split='trian' is not a split of emoji; use one of train, val_concept"
    ):
        Emoji(split="trian")
    with pytest.raises(ValueError, match="px=4000 is out of range; use 16 to 160"):
        Emoji(px=4000)


def test_a_missing_python_package_says_what_to_install(emoji, monkeypatch):
    emoji.prepare()
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ValueError, match="pip install tensorflow-datasets"):
        len(emoji)


def test_size_and_collection_have_folders_of_their_own(emoji, tmp_path):
    other = Collection(train=emoji.collection.train, held_out=(), names=emoji.collection.names)
    folders = {Emoji(px=px, collection=c).folder for px in (32, 64) for c in (emoji.collection, other, None)}
    assert len(folders) == 6
