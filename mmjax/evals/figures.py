"""Confusion matrices, reliability diagrams, curves and trade-offs of the HTML report.

Letters: P points of a line, C classes.
"""

from html import escape

import numpy as np

from mmjax.evals import Confusion, Curve, Reliability, TradeOff
from mmjax.evals.charts import Series, line_chart, path_chart
from mmjax.evals.report_pictures import heading

_CONFUSED = 20  # classes of a confusion matrix that are drawn
_SIDE = 220  # of the reliability diagram
_LEFT, _BOTTOM = 34, 36


def confusion(shown: Confusion) -> str:
    """The counts as a table, darker where more of a class are; the diagonal is right.

    Where there are many classes, of those that are confused most.
    """
    counts_CC = np.asarray(shown.counts)
    share_CC = counts_CC / np.maximum(counts_CC.sum(axis=1, keepdims=True), 1)
    wrong_CC = counts_CC - np.diag(np.diag(counts_CC))
    worst_C = np.argsort(-(wrong_CC.sum(axis=0) + wrong_CC.sum(axis=1)), kind="stable")
    drawn_C = np.sort(worst_C[:_CONFUSED])
    note = shown.note
    if len(drawn_C) < len(shown.names):
        note += f" Of {len(shown.names):,} classes the {len(drawn_C)} that are confused most."
    head = "".join(f'<th scope="col"><span>{escape(shown.names[j])}</span></th>' for j in drawn_C)
    body = ""
    for i in drawn_C:
        name = shown.names[i]
        cells = "".join(
            _count(counts_CC[i, j], share_CC[i, j], right=i == j, label=f"{name} taken for {shown.names[j]}")
            for j in drawn_C
        )
        body += f'<tr><th scope="row" class="name">{escape(name)}</th>{cells}</tr>'
    return (
        f'{heading(shown.title, note)}<div class="scroll" tabindex="0"><table class="heat">'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def reliability(shown: Reliability) -> str:
    """Accuracy by confidence as bars, their width the bin's, and the diagonal on which they should end."""
    width, height = _LEFT + _SIDE + 10, _SIDE + _BOTTOM + 10
    middle = _LEFT + _SIDE / 2
    diagonal = f'<path class="axis" d="M{_LEFT} {_up(0):.1f}L{_LEFT + _SIDE} {_up(1):.1f}"/>'
    name = f'<text class="tick" x="{middle}" y="{height - 4}" text-anchor="middle">confidence</text>'
    return (
        f'{heading(shown.title, shown.note)}<figure class="chart square"><figcaption>Accuracy</figcaption>'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(shown.note)}">'
        f"{_square()}{_bars(shown)}{diagonal}{name}</svg></figure>"
    )


def _square() -> str:
    parts = []
    for value in (0.0, 0.5, 1.0):
        y = _up(value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}h{_SIDE}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
        x = _LEFT + value * _SIDE
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{_up(0) + 14}" text-anchor="middle">{value:g}</text>'
        )
    return "".join(parts)


def _bars(shown: Reliability) -> str:
    bins, most = len(shown.counts), max(int(np.max(shown.counts)), 1)
    parts = []
    for m, (accuracy, count) in enumerate(zip(shown.accuracy, shown.counts, strict=True)):
        if count:
            # A bin of few answers is pale: its accuracy says little.
            strength, top = 0.3 + 0.7 * count / most, _up(accuracy)
            parts.append(
                f'<rect class="bin" x="{_LEFT + m / bins * _SIDE + 1:.1f}" y="{top:.1f}" '
                f'width="{_SIDE / bins - 2:.1f}" height="{_up(0) - top:.1f}" style="--v:{strength:.2f}">'
                f"<title>{count:,} answers, accuracy {accuracy:.2f}</title></rect>"
            )
    return "".join(parts)


def curve(shown: Curve) -> str:
    """The lines over a logarithmic axis, with a bar of one deviation up and down where there is one."""
    series = [
        Series(name, np.asarray(shown.x, float), np.asarray(y_P, float), shown.spread.get(name))
        for name, y_P in shown.y.items()
    ]
    chart = line_chart(shown.note, series, across=shown.across, log_across=True)
    return f'<h3>{escape(shown.title)}</h3><div class="grid2">{chart}</div>'


def trade_off(shown: TradeOff) -> str:
    """The points of the models, their labels beside them."""
    chart = path_chart(
        shown.note,
        np.asarray(shown.x, float),
        np.asarray(shown.y, float),
        shown.labels,
        across=shown.across,
        up=shown.up,
    )
    return f'<h3>{escape(shown.title)}</h3><div class="grid2">{chart}</div>'


def _up(value: float) -> float:
    return 10 + _SIDE * (1 - value)


def _count(count: int, share: float, *, right: bool, label: str) -> str:
    style = ("own " if right else "") + ("deep" if share > 0.6 else "")
    text = f"{count:,}" if count else ""
    return f'<td class="{style.strip()}" style="--v:{share:.2f}" title="{escape(label)}">{text}</td>'
