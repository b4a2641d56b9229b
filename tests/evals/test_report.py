"""The HTML report: one well-formed page without network, script or unescaped words, below 2 MB."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from mmjax.evals import Confusion, Curve, Gallery, Heatmap, Match, Reliability, Report, Row, TradeOff
from mmjax.evals import report as report_module
from mmjax.evals.report import MAX_BYTES, render

HOSTILE = "<script>alert('x')</script> \"quoted\" & </style> <img src=https://evil.example/x.png>"
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags are balanced; collects tags with their attributes, and the text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data + " "


def noise(seed, side=40, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (side, side, channels), dtype=np.uint8)


def galleries(words="a cat"):
    by_caption = Row(words, tuple(Match(noise(i), 0.5 - i / 10, i == 1) for i in range(5)), noise(1))
    by_picture = Row(
        noise(7), (Match(words, 0.25, False), Match("a dog", 0.125, False)), "the truth " + words
    )
    return (
        Gallery("Captions " + words, "note one " + words, (by_caption,)),
        Gallery("Pictures", "note two", (by_picture,)),
        Gallery("No mistakes", "note three", ()),
        Heatmap(
            "Heat " + words,
            "note four",
            (noise(1), noise(2)),
            (words, "a dog"),
            np.array([[0.5, -0.004], [0.1, 0.3]]),
        ),
    )


HISTORY = [
    {"step": 0, "train/loss": 4.0, "train/lr": 0.0, "train/scale": 10.0},
    {
        "step": 10,
        "train/loss": 2.0,
        "perf/examples_per_s": 100.0,
        "perf/data_frac": 0.25,
        "val/cats/i2t_r1": 0.1,
    },
    {"step": 20, "train/loss": float("nan"), "perf/examples_per_s": 300.0, "val/cats/i2t_r1": 0.4},
    {"step": 20, "train/loss": 1.5, "val/dogs/binding": 0.875},
]


def page(**fields):
    given = dict(
        title="Run 7",
        config_text="lr = 0.001",
        history=HISTORY,
        reports={"retrieval": ("cats", Report({"i2t_r1": 0.5, "i2t_r1_chance": 0.125}, galleries()))},
        environment={"jax": "0.10", "devices": ["cpu", "cpu"]},
        licences=["Cats, CC0, https://cats.example", ""],
    )
    return render(**given | fields)


def test_the_page_is_well_formed_and_says_what_it_was_given():
    shown = Page(page())
    for words in (
        "Run 7", "lr = 0.001", "jax", '["cpu", "cpu"]', "Cats, CC0, https://cats.example",
        "Loss", "Learning rate", "Scale", "Throughput", "Time spent waiting for data",
        "Captions a cat", "note one", "Pictures", "note two", "No mistakes", "note three",
        "Heat a cat", "note four",
    ):  # fmt: skip
        assert words in shown.text, words
    html = dict(shown.tags)["html"]
    assert html["lang"] == "en"
    assert any(attrs.get("name") == "viewport" for tag, attrs in shown.tags if tag == "meta")


def test_nothing_is_loaded_and_nothing_runs():
    html = page()
    shown = Page(html)
    assert not {"script", "link", "iframe", "object", "img"} & {tag for tag, _ in shown.tags}
    for _, attrs in shown.tags:
        assert not any(name.startswith("on") or name == "src" for name in attrs)
        assert attrs.get("href", "#").startswith("#")
    targets = {attrs["id"] for _, attrs in shown.tags if "id" in attrs}
    assert {attrs["href"][1:] for _, attrs in shown.tags if "href" in attrs} <= targets
    urls = re.findall(r"url\((.{10})", html)
    assert urls and set(urls) == {"data:image"}
    assert "@import" not in html


def test_hostile_words_stay_words_wherever_they_come_from():
    html = page(
        title=HOSTILE,
        config_text=HOSTILE,
        history=[
            {"step": s, f"val/{HOSTILE.replace('/', '')}/zs_acc1": 0.5, "train/loss": 1.0} for s in (1, 2)
        ],
        reports={HOSTILE: (HOSTILE, Report({HOSTILE: 0.5}, galleries(HOSTILE)))},
        environment={HOSTILE: HOSTILE},
        licences=[HOSTILE],
    )
    shown = Page(html)
    assert not {"script", "img"} & {tag for tag, _ in shown.tags}
    assert html.count("</style>") == 1
    # title twice, config, metric, label, environment twice, licence, gallery titles and notes, captions
    assert shown.text.count(HOSTILE) >= 14


def test_final_results_come_with_chance_and_reports_have_the_last_word():
    shown = Page(page())
    results = shown.text[shown.text.index("Results", 30) : shown.text.index("Loss")]
    assert re.search(r"cats\s.*picture → caption, R@1\s+0\.500\s+0\.125", results, re.S)
    assert re.search(r"dogs\s.*binding\s+0\.875", results, re.S)


def test_of_two_lines_of_one_step_the_later_counts():
    text = Page(page()).text
    assert re.search(r"Loss\s+nats\s+4 → 1\.5\s", text)
    assert re.search(r"1\.5\s+loss at the end|loss at the end\s+1\.5", text)


def test_metrics_evaluated_more_than_once_get_a_curve():
    text = Page(page()).text
    assert re.search(r"cats: picture → caption\s+0\.1 → 0\.4", text)
    assert "dogs:" not in text


def test_right_answers_are_marked_in_words_too():
    shown = Page(page())
    right = [attrs for tag, attrs in shown.tags if tag == "li" and attrs.get("class") == "right"]
    assert len(right) == 1
    assert len(re.findall(r"✓\s+right", shown.text)) == 1
    # The truth is given where no right answer is among those shown.
    assert shown.text.count("should be") == 1
    assert "the truth a cat" in shown.text


def test_the_heat_map_shows_every_pair_in_hundredths():
    shown = Page(page())
    cells = [attrs for tag, attrs in shown.tags if tag == "td" and "--v" in attrs.get("style", "")]
    assert [cell["title"] for cell in cells] == [
        "picture 1, a cat", "picture 1, a dog", "picture 2, a cat", "picture 2, a dog"
    ]  # fmt: skip
    assert ["own" in cell["class"] for cell in cells] == [True, False, False, True]
    assert re.search(r"note four.*\s50\s+0\s+10\s+30\s", shown.text, re.S)


def thumbnails(html):
    encoded = re.findall(r"url\(data:image/jpeg;base64,([^)]*)\)", html)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in encoded]


def test_pictures_are_embedded_once_and_all_have_an_alternative_text():
    html = page()
    # Eight are shown: 0 to 4 and 7 in the galleries, 1 and 2 again in the heat map.
    assert len(thumbnails(html)) == 6
    spans = [
        attrs for tag, attrs in Page(html).tags if tag == "span" and "pic" in attrs.get("class", "").split()
    ]
    assert len(spans) == 5 + 1 + 2
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in spans)


def test_transparent_pictures_are_shown_on_white():
    picture = np.zeros((32, 32, 4), np.uint8)
    picture[8:24, 8:24] = (200, 0, 0, 255)
    shown = Gallery("One", "", (Row(picture, (Match("red square", 0.5, True),)),))
    (thumbnail,) = thumbnails(page(reports={"one": ("cats", Report({}, (shown,)))}))
    assert thumbnail.getpixel((2, 2)) == (255, 255, 255)
    np.testing.assert_allclose(thumbnail.getpixel((16, 16)), (200, 0, 0), atol=6)  # JPEG


def test_what_is_asked_together_is_shown_together():
    asked = Row((noise(1), "what is this"), (Match("a cat", 0.5, True),))
    html = page(reports={"one": ("cats", Report({}, (Gallery("One", "", (asked,)),)))})
    assert len(thumbnails(html)) == 1 and "what is this" in Page(html).text


def test_two_hundred_big_pictures_fit_as_small_thumbnails():
    rows = tuple(
        Row("caption", tuple(Match(noise(5 * row + i, side=400), 0.5, False) for i in range(5)))
        for row in range(40)
    )
    html = page(reports={"big": ("cats", Report({}, (Gallery("Big", "", rows),)))})
    assert len(html.encode()) < 2_000_000
    shown = thumbnails(html)
    assert len(shown) == 200
    assert max(max(thumbnail.size) for thumbnail in shown) <= 64


def test_a_page_that_grows_too_big_loses_quality_first_and_then_rows(monkeypatch):
    rows = tuple(
        Row("caption", tuple(Match(noise(5 * row + i), 0.5, False) for i in range(5))) for row in range(8)
    )
    reports = {"big": ("cats", Report({}, (Gallery("Big", "", rows),)))}
    found = []
    for limit in (MAX_BYTES, 85_000, 50_000, 30_000):
        monkeypatch.setattr(report_module, "MAX_BYTES", limit)
        html = page(reports=reports)
        assert len(html.encode()) < limit
        shown = thumbnails(html)
        found.append((len(shown), max(thumbnail.size[0] for thumbnail in shown) if shown else 0))
        assert ("more left out" in html) == (len(shown) < 40)
    assert found[0] == (40, 40)  # all of them, as large as they are
    assert found[1] == (40, 32)
    assert found[2] == (20, 32)
    assert found[3] == (5, 32)


def test_pictures_drawn_from_numbers_are_well_formed_and_harmless():
    counts = np.array([[3, 1], [0, 2]])
    drawn = (
        Confusion("Matrix", "note five", ("cat", HOSTILE), counts),
        Reliability("Reliable", "note six", np.array([np.nan, 0.9]), np.array([np.nan, 0.5]), counts[1]),
        Curve("By k", "note seven", "k", np.array([1, 4]), {HOSTILE: np.array([0.1, 0.2])}),
        TradeOff("Line", "note eight", "left", "right", np.ones(1), np.ones(1), (HOSTILE,)),
    )
    shown = Page(page(reports={"probe": ("cats", Report({}, drawn))}))
    for words in (
        "Matrix",
        "note five",
        "cat",
        "Reliable",
        "note six",
        "By k",
        "note seven",
        "Line",
        "note eight",
        HOSTILE,
    ):
        assert words in shown.text, words
    assert "script" not in {tag for tag, _ in shown.tags}


def test_only_shares_have_a_bar_and_small_numbers_keep_their_digits():
    html = page(history=[], reports={"all": ("cats", Report({"lp_acc1": 0.5, "lp_l2": 1e-7}))})
    found = re.findall(r'title="(\w+)">([^<]*)</th><td class="bar">(<i>)?.*?<b>([^<]*)</b>', html)
    assert found == [
        ("lp_acc1", "linear probe top-1", "<i>", "0.500"),
        ("lp_l2", "linear probe regulariser", "", "1e-07"),
    ]


def test_tasks_of_a_finetune_have_curves_of_their_own():
    def history(*tasks):
        return [
            {"step": step, "train/loss": 1.0 / step}
            | {f"train/{task}/accuracy": 0.25 * step for task in tasks}
            | {f"train/{task}/loss": 1.0 / step / len(tasks) for task in tasks}
            for step in (1, 2)
        ]

    one, two = (Page(page(history=history(*tasks))).text for tasks in (("breed",), ("breed", "age")))
    assert re.search(r"Accuracy on batches of training\s+0\.25 → 0\.5\s", one)
    assert "Parts of the loss" not in one  # of one task it is the loss
    assert re.search(r"Accuracy on batches of training\s+breed\s+0\.25 → 0\.5\s+age", two)
    assert re.search(r"Parts of the loss\s+breed\s+0\.5 → 0\.25\s+age", two)


def test_a_run_without_steps_or_evaluations_still_gets_its_page():
    text = Page(page(history=[], reports={}, environment={}, licences=[])).text
    assert "No step was logged." in text
    assert "Nothing was evaluated." in text
