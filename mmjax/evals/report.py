"""The HTML report of a run: one page that needs no network and no script, below 2 MB.

Where it would be larger, these give way in this order: the size and the quality of thumbnails, then rows of
galleries and heat maps. The resolved config is shown up to 100,000 characters.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from mmjax.evals import (
    Confusion,
    Curve,
    Gallery,
    Heatmap,
    Picture,
    Reliability,
    Report,
    TradeOff,
    figures,
)
from mmjax.evals.charts import SERIES, Series, line_chart, short
from mmjax.evals.report_pictures import Thumbnails, gallery, heatmap
from mmjax.evals.report_style import CSS
from mmjax.evals.report_words import EVALUATORS, WAYS, is_rate, words

MAX_BYTES = 2_000_000
_CONFIG = 100_000  # characters
# Side of thumbnails in pixels, JPEG quality, rows of a gallery (None: all); the first that fits is taken.
_SIZES = ((64, 88, None), (48, 75, None), (32, 60, None), (32, 60, 4), (32, 60, 1), (32, 60, 0))
_CURVES = (  # key, title, unit, factor
    ("train/loss", "Loss", "nats", 1),
    ("train/lr", "Learning rate", "", 1),
    ("train/scale", "Scale", "1 / temperature", 1),
    ("train/bias", "Bias", "", 1),
    ("train/margin", "Margin of a pair to the hardest negative", "logits", 1),
    ("train/rank_image", "Effective rank of the image embeddings", "", 1),
    ("train/gap", "Gap between the modalities", "", 1),
    ("perf/examples_per_s", "Throughput", "examples/s", 1),
    ("perf/data_frac", "Time spent waiting for data", "%", 100),
)

Points = dict[str, dict[int, float]]  # value by step, by metric


def render(
    *,
    title: str,
    config_text: str,
    history: Sequence[Mapping[str, Any]],
    reports: Mapping[str, tuple[str, Report]],
    environment: Mapping[str, Any],
    licences: Sequence[str],
) -> str:
    """The whole page.

    Args:
        title: of the page.
        config_text: the resolved config.
        history: the lines of metrics.jsonl, each with `step` and flat keys; of two lines of one step and key,
            which an interrupted run leaves, the later counts.
        reports: by label of the evaluator, the name of its data set and what it found after the last step.
        environment: versions, devices and the like.
        licences: of the data sets, one string each.
    """
    points = _points(history)
    top = _top(title, points, reports)
    end = _end(environment, licences, config_text)
    for side, quality, max_rows in _SIZES:
        thumbnails = Thumbnails(side=side, quality=quality)
        pictures = _pictures(reports, thumbnails, max_rows)
        page = _page(title, f"{CSS}{thumbnails.css()}", f"{top}{pictures}{end}")
        if len(page.encode()) < MAX_BYTES:
            break
    return page


def _page(title: str, css: str, body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{css}</style></head><body><main>{body}</main></body></html>\n"
    )


def _points(history: Sequence[Mapping[str, Any]]) -> Points:
    points: Points = {}
    for line in history:
        for key, value in line.items():
            if key != "step":
                number = float(value) if isinstance(value, int | float) else math.nan
                points.setdefault(key, {})[line["step"]] = number
    return {key: dict(sorted(by_step.items())) for key, by_step in points.items()}


def _top(title: str, points: Points, reports: Mapping[str, tuple[str, Report]]) -> str:
    results, curves = _results(points, reports), _curves(points)
    links = [("results", "Results"), ("curves", "Curves")]
    links += [(f"pictures-{i}", label) for i, label in enumerate(reports) if reports[label][1].pictures]
    links += [("environment", "Environment"), ("config", "Config")]
    menu = "".join(f'<a href="#{id}">{escape(text)}</a>' for id, text in links)
    return (
        f"<h1>{escape(title)}</h1><nav>{menu}</nav>{_facts(points)}"
        f'<h2 id="results">Results</h2>{results}<h2 id="curves">Curves</h2>{curves}'
    )


def _facts(points: Points) -> str:
    facts = {}
    if points:
        facts["steps"] = f"{max(max(by_step) for by_step in points.values()):,}"
    if "train/loss" in points:
        facts["loss at the end"] = short(list(points["train/loss"].values())[-1])
    for key, label, form in (
        ("perf/examples_per_s", "examples/s, median", short),
        ("perf/data_frac", "of the time waiting for data, median", "{:.1%}".format),
    ):
        values = [value for value in points.get(key, {}).values() if math.isfinite(value)]
        if values:
            facts[label] = form(float(np.median(values)))
    items = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in facts.items())
    return f'<dl class="facts">{items}</dl>' if items else ""


def _results(points: Points, reports: Mapping[str, tuple[str, Report]]) -> str:
    final: dict[str, dict[str, float]] = {}  # value by metric, by data set
    for key, by_step in points.items():
        match = re.fullmatch(r"val/(.+)/([^/]+)", key)
        if match:
            final.setdefault(match[1], {})[match[2]] = list(by_step.values())[-1]
    for name, report in reports.values():
        final.setdefault(name, {}).update(report.metrics)
    tables = "".join(_result_table(name, metrics) for name, metrics in final.items())
    return f'<div class="results">{tables}</div>' if tables else '<p class="note">Nothing was evaluated.</p>'


def _result_table(name: str, metrics: dict[str, float]) -> str:
    shown = {metric: value for metric, value in metrics.items() if not metric.endswith("_chance")}
    chance = {metric: metrics.get(f"{metric}_chance") for metric in shown}
    rows = ""
    for metric, value in shown.items():
        bar = f'<i><i style="width:{100 * value:.1f}%"></i></i>' if is_rate(metric, value) else ""
        text = f"{value:.3f}" if is_rate(metric, value) else short(value)
        beside = "" if chance[metric] is None else short(chance[metric])
        rows += (
            f'<tr><th scope="row" title="{escape(metric)}">{escape(words(metric))}</th>'
            f'<td class="bar">{bar}</td><td class="num"><b>{text}</b></td>'
            f'<td class="num soft">{beside}</td></tr>'
        )
    return (
        f'<div class="card"><h3>{escape(name)}</h3><table><thead><tr><th></th><th></th>'
        f'<th class="num"></th><th class="num">chance</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _curves(points: Points) -> str:
    charts = []
    for key, title, unit, factor in _CURVES:
        if key in points:
            line = _series(title, points[key], factor)
            log = key == "train/loss" and _spans_decades(line.y_P)
            charts.append(line_chart(title, [line], unit=unit, log=log))
        if key == "train/loss":
            charts += _of_parts(points)
    for title, lines in _validation(points).items():
        ranks = title.endswith("median rank")
        for start in range(0, len(lines), SERIES):
            charts.append(line_chart(title, lines[start : start + SERIES], log=ranks))
    shown = "".join(charts)
    return f'<div class="grid2">{shown}</div>' if shown else '<p class="note">No step was logged.</p>'


def _of_parts(points: Points) -> list[str]:
    """The accuracy of each task in training, and the losses that the whole loss is made of."""
    lines: dict[str, list[Series]] = {"accuracy": [], "loss": []}
    for key, by_step in points.items():
        match = re.fullmatch(r"train/(.+)/(accuracy|loss)", key)
        # That of a single part is the whole.
        if match and (match[2] == "accuracy" or by_step != points.get("train/loss")):
            lines[match[2]].append(_series(match[1], by_step, 1))
    titles = {"accuracy": "Accuracy on batches of training", "loss": "Parts of the loss"}
    return [
        line_chart(titles[kind], of_kind[start : start + SERIES])
        for kind, of_kind in lines.items()
        for start in range(0, len(of_kind), SERIES)
    ]


def _validation(points: Points) -> dict[str, list[Series]]:
    """Lines by chart: a data set's metrics of one kind, where it was evaluated more than once."""
    charts: dict[str, list[Series]] = {}
    for key, by_step in points.items():
        match = re.fullmatch(r"val/(.+)/([^/]+)", key)
        if not match or len(by_step) < 2 or key.endswith("_chance"):
            continue
        name, metric = match.groups()
        way = metric.split("_")[0]
        if metric.endswith("_medr"):
            kind, label = "median rank", WAYS.get(way, metric)
        elif way in WAYS:
            kind, label = WAYS[way], words(metric).removeprefix(f"{WAYS[way]}, ")
        else:
            kind = EVALUATORS.get(way, "")
            label = words(metric).removeprefix(kind).lstrip()
        charts.setdefault(f"{name}: {kind}" if kind else name, []).append(_series(label, by_step, 1))
    return charts


def _series(label: str, by_step: dict[int, float], factor: float) -> Series:
    return Series(label, np.array(list(by_step), float), factor * np.array(list(by_step.values())))


def _spans_decades(y_P: np.ndarray) -> bool:
    finite = y_P[np.isfinite(y_P)]
    return len(finite) > 0 and finite.min() > 0 and finite.max() > 30 * finite.min()


def _pictures(reports: Mapping[str, tuple[str, Report]], thumbnails: Thumbnails, max_rows: int | None) -> str:
    sections = ""
    for i, (label, (name, report)) in enumerate(reports.items()):
        shown = "".join(_picture(picture, thumbnails, max_rows) for picture in report.pictures)
        heading = label if name in label else f"{label}: {name}"
        sections += f'<h2 id="pictures-{i}">{escape(heading)}</h2>{shown}' if shown else ""
    return sections


def _picture(picture: Picture, thumbnails: Thumbnails, max_rows: int | None) -> str:
    match picture:
        case Gallery():
            return gallery(picture, thumbnails, max_rows=max_rows)
        case Heatmap():
            return heatmap(picture, thumbnails, max_rows=max_rows)
        case Confusion():
            return figures.confusion(picture)
        case Reliability():
            return figures.reliability(picture)
        case Curve():
            return figures.curve(picture)
        case TradeOff():
            return figures.trade_off(picture)


def _end(environment: Mapping[str, Any], licences: Sequence[str], config_text: str) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(str(key))}</th>'
        f"<td>{escape(value if isinstance(value, str) else json.dumps(value, default=str))}</td></tr>"
        for key, value in environment.items()
    )
    listed = "".join(f"<li>{escape(licence)}</li>" for licence in licences if licence)
    licensed = f'<h2 id="licences">Data and licences</h2><ul class="licences">{listed}</ul>' if listed else ""
    config = config_text if len(config_text) <= _CONFIG else config_text[:_CONFIG] + "\n… (cut here)"
    return (
        f'<h2 id="environment">Environment</h2><table class="pairs"><tbody>{rows}</tbody></table>{licensed}'
        f'<h2 id="config">Config</h2><details><summary>Resolved config</summary><pre>{escape(config)}</pre>'
        "</details>"
    )
