"""Pictures of the report that are drawn from numbers: what they say can be read off the SVG."""

import re

import numpy as np

from mmjax.evals import Confusion, Curve, Reliability, TradeOff, figures, scores

HOSTILE = "<b>&"


def test_the_confusion_matrix_shows_every_count_and_darkens_with_the_share_of_the_row():
    html = figures.confusion(Confusion("T", "note", ("cat", HOSTILE), np.array([[3, 1], [0, 0]])))
    assert re.findall(r"--v:([\d.]+)\" title=\"[^\"]*\">(\d*)<", html) == [
        ("0.75", "3"),
        ("0.25", "1"),
        ("0.00", ""),
        ("0.00", ""),
    ]
    assert html.count('class="own') == 2 and "<b>" not in html
    assert "cat taken for &lt;b&gt;&amp;" in html


def test_of_many_classes_those_that_are_confused_most_are_drawn():
    counts_CC = np.diag(np.full(30, 9))
    counts_CC[3, 7], counts_CC[28, 29] = 5, 4
    names = tuple(f"class {c}" for c in range(30))
    html = figures.confusion(Confusion("T", "note.", names, counts_CC))
    assert "note. Of 30 classes the 20 that are confused most." in html
    drawn = re.findall(r'<th scope="row" class="name">class (\d+)<', html)
    assert drawn == [str(c) for c in (*range(18), 28, 29)]
    assert 'title="class 28 taken for class 29">4<' in html


def test_bars_of_the_reliability_diagram_reach_as_high_as_the_accuracy():
    # Bins of width 1/2: two answers of confidence 0.4, one right; six of 0.9, all right.
    probability_NC = np.array([[0.4, 0.3, 0.3]] * 2 + [[0.9, 0.1, 0.0]] * 6)
    found = scores.calibration(probability_NC, np.array([0, 1] + [0] * 6), bins=2)
    html = figures.reliability(Reliability("T", "note", found.confidence_M, found.accuracy_M, found.count_M))
    bars = re.findall(r'<rect class="bin" x="([\d.]+)" y="[\d.]+" width="([\d.]+)" height="([\d.]+)"', html)
    heights = [float(height) for _, _, height in bars]
    np.testing.assert_allclose(heights[0] / heights[1], 1 / 2)
    assert float(bars[0][0]) < float(bars[1][0])
    assert "2 answers, accuracy 0.50" in html and "6 answers, accuracy 1.00" in html


def test_an_empty_bin_has_no_bar():
    found = scores.calibration(np.array([[0.9, 0.1]]), np.array([0]), bins=10)
    html = figures.reliability(Reliability("T", "note", found.confidence_M, found.accuracy_M, found.count_M))
    assert html.count("<rect") == 1 and "nan" not in html


def test_a_curve_has_its_ticks_at_the_points_at_equal_steps_of_the_logarithm():
    x_P, y_P = np.array([1, 2, 4, 8]), np.array([0.2, 0.4, 0.5, 0.6])
    html = figures.curve(Curve("T", "note", "k", x_P, {"a": y_P}, {"a": np.full(4, 0.05)}))
    points = re.search(r'<polyline class="line s0" points="([^"]+)"', html)[1]
    across = [float(point.split(",")[0]) for point in points.split()]
    np.testing.assert_allclose(np.diff(across), np.diff(across)[0], atol=0.2)
    for tick in ("1", "2", "4", "8", "k"):
        assert f">{tick}</text>" in html
    # A bar at every point, each of two deviations.
    bars = re.findall(r'd="M([\d.]+) ([\d.]+)V([\d.]+)"', html)
    assert [float(x) for x, _, _ in bars] == across
    heights = [float(low) - float(high) for _, low, high in bars]
    one = [float(point.split(",")[1]) for point in points.split()]
    np.testing.assert_allclose(heights, (one[0] - one[1]) / 0.2 * 0.1, atol=0.2)


def test_a_trade_off_has_a_labelled_point_for_every_model_joined_in_their_order():
    # The second is better in both, the third worse across; one that is not a number is left out.
    x_P, y_P = np.array([0.2, 0.4, 0.3, np.nan]), np.array([0.5, 0.6, 0.7, 0.8])
    html = figures.trade_off(TradeOff("T", "note", "shifted", "target", x_P, y_P, ("0", "0.5", HOSTILE, "2")))
    points = re.search(r'<polyline class="line s0" points="([^"]+)"', html)[1].split()
    drawn = np.array([point.split(",") for point in points], float)
    np.testing.assert_allclose(np.diff(drawn[:, 0]) / (drawn[1, 0] - drawn[0, 0]), [1, -0.5], atol=0.01)
    np.testing.assert_allclose(np.diff(drawn[:, 1]) / (drawn[1, 1] - drawn[0, 1]), [1, 1], atol=0.01)
    assert drawn[1, 1] < drawn[0, 1]  # higher is up
    dots = re.findall(
        r'<circle class="dot s0" cx="([\d.]+)" cy="([\d.]+)" r="3"><title>([^<]*)</title>', html
    )
    assert [(float(x), float(y)) for x, y, _ in dots] == [tuple(point) for point in drawn]
    assert dots[1][2] == "0.5: shifted 0.4, target 0.6"
    for label in ("0", "0.5", "&lt;b&gt;&amp;"):
        assert f">{label}</text>" in html
    assert "target over shifted" in html and ">2</text>" not in html and "<b>" not in html


def test_a_trade_off_of_nothing_finite_is_left_out():
    nothing = TradeOff("T", "note", "a", "b", np.array([np.nan]), np.array([1.0]), ("0",))
    assert "<svg" not in figures.trade_off(nothing)
