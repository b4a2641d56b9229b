"""Which files of clip art are kept, and which of their words are whose."""

import logging

import pytest
from cliparts import svg, write

from mmjax.data.sources.openclipart_read import ICONS, STARS, Stated, captioned, clips, name_of, stated


def said(path, title="", description="", keywords=(), creator=""):
    return Stated(path, title, description, keywords, creator, free=True)


def test_the_words_of_a_file_are_those_of_the_work_and_of_nobody_else():
    data = svg(
        title="A &amp;amp; B_c", description="Two\n lines", keywords=("x", "", "y_z"), creator="Ann Lee"
    )
    assert stated(data, "a/b.svg") == Stated(
        "a/b.svg", "A & B c", "Two lines", ("x", "y z"), "Ann Lee", free=True
    )
    assert not stated(svg(licence="http://creativecommons.org/licenses/by/2.0/"), "a.svg").free
    assert stated(b"<svg", "a.svg") is None
    assert stated(b"<svg/>", "a.svg") == Stated("a.svg", "", "", (), "", free=False)


def test_only_free_drawings_are_kept_and_each_reason_is_counted(tmp_path, caplog):
    write(
        tmp_path,
        {
            "animals/cat.svg": svg(title="Cat"),
            "animals/own.svg": svg(title="Own", licence=""),
            "animals/broken.svg": b"<svg",
            "shapes/star.svg": svg(title=STARS),
            f"{ICONS}flat/ok.svg": svg(title="ok"),
            "animals/readme.txt": b"no drawing",
        },
    )
    (tmp_path / "food").mkdir()
    (tmp_path / "food" / "cat.svg").symlink_to(tmp_path / "animals" / "cat.svg")
    with caplog.at_level(logging.INFO):
        (clip,) = clips(tmp_path)
    assert (clip.path, clip.folder, clip.texts) == ("animals/cat.svg", "animals", ("Cat",))
    for why in ("links", "not valid", "not marked", "computed stars", "icons of desktop themes"):
        assert f"left out 1 files: {why}" in caplog.text


@pytest.mark.parametrize(
    "path, creator, name",
    [
        ("new_york_jon_phillips_01.svg", "Jon Phillips", "new york"),
        ("cavallo_architetto_franc_07.svg", "Architetto Francesco Rollandin", "cavallo"),  # cut short
        ("glace_4_jean-victor_bali_01.svg", "Jean-Victor Balin", "glace"),
        ("floppy_frederic_moser_01.svg", "Frédéric Moser", "floppy"),  # accents dropped
        ("eclipse_josu_alcalde_ba_01r.svg", "Josué Alcalde (Based on it)", "eclipse"),  # letters dropped
        ("jigsaw_blue_01.svg", "Nicu Buculei", "jigsaw blue"),
        ("BasseTemperature.svg", "yves", "Basse Temperature"),
        ("smiley001.svg", "", "smiley"),
        ("jon_phillips_01.svg", "Jon Phillips", "jon phillips"),  # a name is never empty
        ("2004.svg", "", "2004"),
        ("_.svg", "", "_"),
        ("art_by_al.svg", "Albert", "art by al"),  # two letters may be a word
    ],
)
def test_a_files_name_loses_its_creator_and_its_number(path, creator, name):
    assert name_of(said(f"folder/{path}", creator=creator)) == name


def test_a_collections_title_or_description_gives_way_to_the_files_name():
    road = [
        said(f"roads/{name}.svg", "Road Signs", "Signs of a country", ("road", "Jo"), "Jo")
        for name in ("stop", "give_way", "bus_lane")
    ]
    clip = captioned(road)[1]
    assert (clip.texts, clip.kinds) == (("give way", "road"), ("name", "keyword"))


def test_a_title_of_one_thing_drawn_often_is_its_own():
    horses = [said(f"animals/horse_{n}.svg", "Cavallo") for n in range(9)]
    assert {clip.texts for clip in captioned(horses)} == {("Cavallo",)}


@pytest.mark.parametrize(
    "text", ["Clipart by Jo - x12", "jo@example.org", "see http://example.org", "HASH(0x8a)"]
)
def test_words_about_the_creator_or_a_program_are_no_caption(text):
    (clip,) = captioned([said("tools/red_saw.svg", text, text, creator="Jo")])
    assert (clip.texts, clip.kinds) == (("red saw",), ("name",))


def test_the_caption_is_first_and_nothing_is_said_twice():
    (clip,) = captioned([said("food/p1.svg", "Pear", "A ripe pear", ("fruit", "Pear", "hash", "unsorted"))])
    assert clip.texts == ("Pear", "A ripe pear", "fruit")
    assert clip.kinds == ("title", "description", "keyword")


def test_no_folder_is_in_a_text_but_as_a_keyword_of_the_file():
    (clip,) = captioned([said("animals/mammals/p1.svg", "", "", ("mammal",))])
    assert clip.texts == ("p1", "mammal")
