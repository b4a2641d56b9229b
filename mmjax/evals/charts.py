"""Line charts as inline SVG, drawn by hand: no script, no font, no network.

Colours come from the page's style sheet by class: `s0` to `s7` for series, `grid`, `tick`.

Letters: P points of a series.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

SERIES = 8  # that a chart tells apart: four colours, solid and dashed
_POINTS = 400  # of a line, at most
_WIDTH, _HEIGHT = 460, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 28


class Series(NamedTuple):
    label: str
    x_P: np.ndarray  # rising
    y_P: np.ndarray  # what is not finite leaves a gap
    spread_P: np.ndarray | None = None  # drawn as a bar up and down from the line


class _Axis(NamedTuple):
    low: float
    high: float
    log: bool
    start: float  # pixel of `low`
    end: float  # pixel of `high`

    def pixel(self, value: float) -> float:
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def line_chart(
    title: str,
    series: list[Series],
    *,
    unit: str = "",
    log: bool = False,
    across: str = "step",
    log_across: bool = False,
) -> str:
    """An HTML figure of at most 8 lines; empty where no value is finite.

    A legend gives the first and the last value of each line. With `log`, what is not positive leaves a gap;
    with `log_across` the axis of `across` is logarithmic and has its ticks at the points.
    """
    series = [line for line in (_shown(line, log) for line in series) if np.isfinite(line.y_P).any()]
    if not series:
        return ""
    x_P = np.concatenate([line.x_P for line in series])
    y_P = np.concatenate([y_P[np.isfinite(y_P)] for line in series for y_P in _extent(line)])
    range_ = _log_range(x_P) if log_across else _from_zero(*_widened(x_P.min(), x_P.max()))
    along = _Axis(*range_, log_across, _LEFT, _WIDTH - _RIGHT)
    up = _Axis(*(_log_range(y_P) if log else _range(y_P)), log, _HEIGHT - _BOTTOM, _TOP)
    lines = "".join(_line(line, along, up, f"s{i}") for i, line in enumerate(series))
    ticks = _thinned(sorted(set(x_P.tolist()))) if log_across else _ticks(along)
    legend = "".join(_legend(line, f"s{i}", alone=len(series) == 1) for i, line in enumerate(series))
    heading = escape(title) + (f' <span class="unit">{escape(unit)}</span>' if unit else "")
    spoken = "; ".join(f"{line.label} {_course(line)}" for line in series)
    return (
        f'<figure class="chart"><figcaption>{heading}<ul class="legend">{legend}</ul></figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(f"{title}: {spoken}")}">'
        f"{_grid(along, up, across, ticks)}{lines}</svg></figure>"
    )


def path_chart(
    title: str, x_P: np.ndarray, y_P: np.ndarray, labels: Sequence[str], *, across: str, up: str
) -> str:
    """An HTML figure of labelled points, joined in their order by a line.

    Points that are not finite are left out; it is empty where none is left.
    """
    kept = np.isfinite(x_P) & np.isfinite(y_P)
    if not kept.any():
        return ""
    x_P, y_P, labels = x_P[kept], y_P[kept], [labels[i] for i in np.flatnonzero(kept)]
    along = _Axis(*_range(x_P), False, _LEFT, _WIDTH - _RIGHT)
    upward = _Axis(*_range(y_P), False, _HEIGHT - _BOTTOM, _TOP)
    at_P = [(along.pixel(x), upward.pixel(y)) for x, y in zip(x_P, y_P, strict=True)]
    drawn = '<polyline class="line s0" points="' + " ".join(f"{x:.1f},{y:.1f}" for x, y in at_P) + '"/>'
    spoken = []
    for (x, y), at_x, at_y, label in zip(at_P, x_P, y_P, labels, strict=True):
        value = f"{escape(label)}: {escape(across)} {short(at_x)}, {escape(up)} {short(at_y)}"
        drawn += f'<circle class="dot s0" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{value}</title></circle>'
        # Beside the point, on the side where there is room.
        side, anchor = (-6, "end") if x > _WIDTH / 2 else (6, "start")
        drawn += _text(x + side, y - 4, anchor, escape(label))
        spoken.append(value)
    return (
        f'<figure class="chart"><figcaption>{escape(title)} <span class="unit">{escape(up)} over '
        f"{escape(across)}</span></figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{"; ".join(spoken)}">'
        f"{_grid(along, upward, '', _ticks(along))}{drawn}</svg></figure>"
    )


def short(value: float) -> str:
    """A number in at most about six characters: 12.3k, 0.25, 5e-04."""
    if abs(value) >= 999_500:
        return f"{value / 1e6:.3g}M"
    if abs(value) >= 9_999.5:
        return f"{value / 1e3:.3g}k"
    return f"{value:.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def _shown(line: Series, log: bool) -> Series:
    y_P = np.where(np.isfinite(line.y_P) & ((line.y_P > 0) | (not log)), line.y_P, np.nan)
    kept = _thin(y_P)
    spread_P = None if line.spread_P is None else np.asarray(line.spread_P, float)[kept]
    return Series(line.label, np.asarray(line.x_P, float)[kept], y_P[kept], spread_P)


def _extent(line: Series) -> tuple[np.ndarray, ...]:
    """What has to fit between top and bottom."""
    return (line.y_P,) if line.spread_P is None else (line.y_P - line.spread_P, line.y_P + line.spread_P)


def _thin(y_P: np.ndarray) -> np.ndarray:
    """Indices of the points to draw: the lowest and the highest of each stretch, so that spikes stay."""
    if len(y_P) <= _POINTS:
        return np.arange(len(y_P))
    kept = {0, len(y_P) - 1}
    for stretch in np.array_split(np.arange(1, len(y_P) - 1), (_POINTS - 2) // 2):
        gaps = stretch[np.isnan(y_P[stretch])]
        if len(gaps) == len(stretch):
            kept.add(stretch[0])
            continue
        high = stretch[np.nanargmax(y_P[stretch])]
        kept |= {high, gaps[0] if len(gaps) else stretch[np.nanargmin(y_P[stretch])]}
    return np.array(sorted(kept))


def _widened(low: float, high: float) -> tuple[float, float]:
    if high > low:
        return low, high
    return (low - abs(low) / 2, high + abs(high) / 2) if low else (0.0, 1.0)


def _range(y_P: np.ndarray) -> tuple[float, float]:
    low, high = _widened(float(y_P.min()), float(y_P.max()))
    low, high = _from_zero(low, high)
    padding = 0.06 * (high - low)
    return (low - padding if low else 0.0), high + padding


def _from_zero(low: float, high: float) -> tuple[float, float]:
    # Zero belongs to the picture where it is near; elsewhere it would flatten the line.
    return (0.0 if 0 <= low < 0.6 * high else low), high


def _log_range(y_P: np.ndarray) -> tuple[float, float]:
    low, high = float(y_P.min()), float(y_P.max())
    return low / 1.15, high * 1.15


def _ticks(axis: _Axis) -> list[float]:
    """Round values within the axis: multiples of 1, 2 or 5; on a log axis powers of ten, finer if too few."""
    if axis.log:
        exponents = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
        for digits in ((1,), (1, 3), (1, 2, 5), tuple(range(1, 10))):
            ticks = [d * 10.0**e for e in exponents for d in digits if axis.low <= d * 10.0**e <= axis.high]
            if len(ticks) >= 3:
                return _thinned(ticks)
    rough = (axis.high - axis.low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.8)
    first = math.ceil(axis.low / step - 1e-9)
    return [i * step for i in range(first, math.floor(axis.high / step + 1e-9) + 1)]


def _thinned(ticks: list[float]) -> list[float]:
    return ticks[:: math.ceil(len(ticks) / 6)]


def _grid(along: _Axis, up: _Axis, across: str, ticks: list[float]) -> str:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - 12
    parts = [f'<text class="tick" x="2" y="{bottom}">{escape(across)}</text>']
    for value in _ticks(up):
        y = up.pixel(value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(_text(_LEFT - 6, y + 4, "end", _tick(value, up)))
    for value in ticks:
        parts.append(_text(min(along.pixel(value), _WIDTH - 18), bottom, "middle", _tick(value, along)))
    parts.append(f'<path class="axis" d="M{_LEFT} {_HEIGHT - _BOTTOM}H{right}"/>')
    return "".join(parts)


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _tick(value: float, axis: _Axis) -> str:
    if value and axis.high >= 2_000_000:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value and axis.high >= 10_000 else f"{value:.6g}"


def _line(line: Series, along: _Axis, up: _Axis, style: str) -> str:
    drawn = np.isfinite(line.y_P)
    edges = np.flatnonzero(np.diff(np.r_[False, drawn, False].astype(int)))
    parts = []
    for start, end in edges.reshape(-1, 2):
        points = [
            f"{along.pixel(x):.1f},{up.pixel(y):.1f}"
            for x, y in zip(line.x_P[start:end], line.y_P[start:end], strict=True)
        ]
        if len(points) > 1:
            parts.append(f'<polyline class="line {style}" points="{" ".join(points)}"/>')
    last = np.flatnonzero(drawn)[-1]
    alone = {start for start, end in edges.reshape(-1, 2) if end == start + 1} | {last}
    for i in sorted(alone):
        x, y = along.pixel(line.x_P[i]), up.pixel(line.y_P[i])
        parts.append(f'<circle class="dot {style}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
    if line.spread_P is not None:
        for i in np.flatnonzero(drawn & np.isfinite(line.spread_P)):
            x, ends = (
                along.pixel(line.x_P[i]),
                (line.y_P[i] - line.spread_P[i], line.y_P[i] + line.spread_P[i]),
            )
            low, high = (up.pixel(end) for end in ends)
            parts.append(f'<path class="line {style}" d="M{x:.1f} {low:.1f}V{high:.1f}"/>')
    return "".join(parts)


def _course(line: Series) -> str:
    """The first and the last value, and the highest where it lies well above both."""
    finite = line.y_P[np.isfinite(line.y_P)]
    first, last, peak = finite[0], finite[-1], finite.max()
    more = f", peak {short(peak)}" if peak > 1.5 * max(first, last) else ""
    return f"{short(first)} → {short(last)}{more}"


def _legend(line: Series, style: str, *, alone: bool) -> str:
    if alone:
        return f"<li><b>{_course(line)}</b></li>"
    swatch = f'<path class="line {style}" d="M1 4H17"/>'
    return (
        f'<li><svg class="swatch" viewBox="0 0 18 8" aria-hidden="true">{swatch}</svg>'
        f"{escape(line.label)} <b>{_course(line)}</b></li>"
    )
