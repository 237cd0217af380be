"""Line charts as inline SVG, with a text alternative."""

import math
from collections.abc import Iterable
from pathlib import Path

from deeplab.view.template import Markup, Template

Points = list[tuple[float, float]]

_TEMPLATE = Template(Path(__file__).with_name("charts.svg"))
_WIDTH = 360
_HEIGHT = 230
_LEFT = 52
_RIGHT = 14
_TOP = 34
_BOTTOM = 38
_SPLITS = ("train", "val")
_PER_CENT = ("mean_iou",)
_CHARTS = {
    "mean_iou": "mean IoU",
    "loss": "loss",
    "cross_entropy": "cross-entropy alone",
    "learning_rate": "learning rate",
}
_PARTS = {"cross_entropy": "cross-entropy", "dice": "Dice"}
"""Fields of a record whose sum is its loss; it has them if they are two."""


def training_curves(records: Iterable[dict]) -> Markup:
    """Charts of mean IoU, loss and learning rate over the steps, training and validation; empty without records.

    The loss is the one that was trained. If it has two parts, these are named, and the cross-entropy has its own chart.
    """
    records = list(records)
    parts = " + ".join(name for field, name in _PARTS.items() if any(field in record for record in records))
    charts = []
    for field, title in _CHARTS.items():
        series = {
            split: [(r["step"], r[field]) for r in records if r["split"] == split and r.get(field) is not None]
            for split in _SPLITS
        }
        series = {split: points for split, points in series.items() if points}
        if series:
            name = f"loss: {parts}" if parts and field == "loss" else title
            charts.append(line_chart(name, series, is_share=field in _PER_CENT))
    return _TEMPLATE.fill("charts", charts=Markup.joined(charts)) if charts else Markup()


def line_chart(title: str, series: dict[str, Points], x_name: str = "step", is_share: bool = False) -> Markup:
    """An SVG element; series: "train", "val" or "even" -> points (step, value), sorted by step.

    Shares are shown in per cent, and over steps the best of the validation split by its value and step.
    """
    if is_share:
        series = {name: [(step, 100 * share) for step, share in points] for name, points in series.items()}
        title = f"{title} [%]"
    steps = [step for points in series.values() for step, _ in points]
    values = [value for points in series.values() for _, value in points]
    first = min(steps)
    last = max(steps)
    ticks = nice_ticks(min(values), max(values))
    low = ticks[0]
    high = ticks[-1]

    def place(step: float, value: float) -> tuple[float, float]:
        x = _LEFT + (step - first) / max(last - first, 1) * (_WIDTH - _LEFT - _RIGHT)
        return x, _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for tick in ticks:
        _, y = place(first, tick)
        parts.append(_TEMPLATE.fill("grid_line", left=_LEFT, right=_WIDTH - _RIGHT, y=f"{y:.1f}"))
        parts.append(_text(_LEFT - 6, y + 4, f"{tick:.4g}", "end", "axis"))
    for step in _ticks_between(first, last):
        x, _ = place(step, low)
        anchor = "end" if x > _WIDTH - _RIGHT - 15 else "middle"
        parts.append(_text(x, _HEIGHT - _BOTTOM + 16, f"{step:,.10g}", anchor, "axis"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, x_name, "middle", "axis"))
    summary = []
    for number, (name, points) in enumerate(series.items()):
        places = [place(step, value) for step, value in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        x, y = places[-1]
        parts.append(_TEMPLATE.fill("line", points=line, kind=name, x=f"{x:.1f}", y=f"{y:.1f}"))
        parts.append(_text(_WIDTH - _RIGHT - 44 * (len(series) - 1 - number), 20, name, "end", name))
        if is_share and name == "val" and x_name == "step" and len(points) > 1:
            step, value = max(points, key=lambda point: point[1])
            x, y = place(step, value)
            parts.append(_TEMPLATE.fill("best", kind=name, x=f"{x:.1f}", y=f"{y:.1f}"))
            best = f"best {value:.1f} % at step {step:,}"
            parts.append(_text(_WIDTH - _RIGHT, _HEIGHT - _BOTTOM - 6, best, "end", name))
            summary.append(best)
        summary.append(f"{name} from {points[0][1]:.4g} to {points[-1][1]:.4g}")
    return _TEMPLATE.fill(
        "chart",
        label=f"{title}, {x_name} {first:,} to {last:,}: {', '.join(summary)}",
        title=title,
        width=_WIDTH,
        height=_HEIGHT,
        left=_LEFT,
        parts=Markup.joined(parts),
    )


def nice_ticks(low: float, high: float) -> list[float]:
    """Three to six multiples of 1, 2 or 5 times a power of ten, from at or below `low` to at or above `high`."""
    span = (high - low) or abs(high) or 1.0
    rough = span / 4
    power = 10.0 ** math.floor(math.log10(rough))
    unit = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.floor(low / unit)
    last = math.ceil(high / unit)
    return [number * unit for number in range(first, max(last, first + 1) + 1)]


def _ticks_between(first: float, last: float) -> list[float]:
    """At least two ticks from `first` to `last`, if they differ."""
    for parts in (1, 2, 4):
        inside = [tick for tick in nice_ticks(first, first + (last - first) / parts) if first <= tick <= last]
        unit = inside[-1] - inside[-2] if len(inside) > 1 else 0
        if unit:
            start = inside[0]
            return [start + number * unit for number in range(int((last - start) / unit) + 1)]
    return [first]


def _text(x: float, y: float, text: str, anchor: str, kind: str) -> Markup:
    return _TEMPLATE.fill("label", x=f"{x:.1f}", y=f"{y:.1f}", text=text, anchor=anchor, kind=kind)
