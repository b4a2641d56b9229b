"""Line charts: what is drawn, read back from the SVG."""

import re
from xml.etree import ElementTree

import numpy as np

from mmjax.evals.charts import Series, line_chart, short


def drawn(html):
    """Points of every polyline of the chart, and the centres of its dots."""
    root = ElementTree.fromstring(html)
    lines = [
        np.array([point.split(",") for point in line.get("points").split()], float)
        for line in root.iter("polyline")
    ]
    return lines, [(float(dot.get("cx")), float(dot.get("cy"))) for dot in root.iter("circle")]


def series(values, label="loss"):
    return Series(label, np.arange(len(values)), np.array(values, float))


def test_higher_values_are_drawn_higher_and_later_ones_further_right():
    (line,), dots = drawn(line_chart("Loss", [series([1.0, 3.0, 2.0])]))
    x, y = line.T
    np.testing.assert_allclose(np.diff(x), np.diff(x)[0], atol=0.11)  # written with one decimal
    # Up is less: from 1 to 3 twice as far as from 3 back to 2.
    np.testing.assert_allclose((y[0] - y[1]) / (y[2] - y[1]), 2, rtol=0.01)
    assert dots == [tuple(line[-1])]


def test_a_log_axis_puts_equal_ratios_at_equal_distances():
    (line,), _ = drawn(line_chart("Loss", [series([100.0, 10.0, 1.0])], log=True))
    np.testing.assert_allclose(np.diff(line[:, 1]), np.diff(line[:, 1])[0], atol=0.11)


def test_what_is_not_finite_leaves_a_gap_and_a_lone_point_is_a_dot():
    (first, second), dots = drawn(line_chart("Loss", [series([1, 2, np.nan, 5, np.inf, 1, 1.5, 2])]))
    assert (len(first), len(second)) == (2, 3)
    assert len(dots) == 2  # the lone 5, and the end


def test_a_log_axis_leaves_gaps_at_zero():
    (line,), dots = drawn(line_chart("Loss", [series([0, 1, 2, 0])], log=True))
    assert len(line) == 2
    assert dots == [tuple(line[-1])]


def test_long_lines_are_thinned_without_losing_spikes_or_gaps():
    values = np.random.default_rng(0).normal(size=100_000)
    values[[12_345, 54_321]] = 99.0, -99.0
    values[70_000] = np.nan
    lines, _ = drawn(line_chart("Loss", [series(values)]))
    assert sum(map(len, lines)) <= 400
    assert len(lines) == 2
    top, bottom = min(line[:, 1].min() for line in lines), max(line[:, 1].max() for line in lines)
    (spikes,), _ = drawn(line_chart("Loss", [series([99.0, -99.0])]))
    assert [top, bottom] == spikes[:, 1].tolist()


def test_a_chart_without_a_finite_value_is_left_out():
    assert line_chart("Loss", [series([np.nan, np.inf])]) == ""
    assert line_chart("Loss", []) == ""


def test_ticks_stand_at_the_values_that_they_name():
    html = line_chart("Loss", [series([0.0, 7.3, 2.1])])
    (line,), _ = drawn(html)
    texts = [node for node in ElementTree.fromstring(html).iter("text") if node.get("text-anchor") == "end"]
    assert [node.text for node in texts] == ["0", "2", "4", "6"]
    y_of = np.polynomial.Polynomial.fit([0.0, 7.3, 2.1], line[:, 1], 1)
    for node in texts:
        # Set 4 below the line, where the middle of the digits is level with it.
        np.testing.assert_allclose(float(node.get("y")) - 4, y_of(float(node.text)), atol=0.15)


def test_the_legend_names_lines_with_their_first_and_last_values():
    html = line_chart(
        "Loss", [series([4.0, 2.0], "train & more"), series([5.0, 9.0, 3.0], "val")], unit="nats"
    )
    text = re.sub(r"\s+", " ", " ".join(ElementTree.fromstring(html).itertext()))
    assert "Loss nats train & more 4 → 2 val 5 → 3, peak 9" in text


def test_a_constant_line_is_drawn():
    for value in (0.0, 5.0, -5.0):
        (line,), _ = drawn(line_chart("Loss", [series([value, value])]))
        assert np.isfinite(line).all()


def test_numbers_are_short():
    given = (0.25, 12_345, 1_500_000, 1234.5, 0.0005, 0, -3)
    assert [short(value) for value in given] == ["0.25", "12.3k", "1.5M", "1234", "0.0005", "0", "-3"]
