"""Plots of a run as inline SVG, for a page that sets their colours.

Every function returns one <svg> element. Colours are CSS variables (--ink, --soft, --c1 ... --c4), so that a
plot follows the page from light to dark; text stays text. Nothing random or dated goes in: equal figures give
equal bytes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from markupsafe import escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter

# Colours that stand for CSS variables; no plot uses them as such.
_VARIABLES = {
    f"#{number:06x}": name for number, name in enumerate(("--ink", "--soft", "--c1", "--c2", "--c3", "--c4"), 1)
}
_INK, _SOFT, *_SERIES = _VARIABLES
_DASHES = ("-", "--", ":", "-.")
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "harvib",
    "text.parse_math": False,
    "font.size": 9.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _SOFT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.frameon": False,
    "legend.handlelength": 1.5,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 0.9,
    "lines.linewidth": 1.5,
}
_WIDE, _SMALL = (3.9, 2.6), (3.4, 2.0)
_FAR = 1e4
"""Where +inf of log alpha goes before it is clipped to the histogram's range."""


@dataclass(frozen=True)
class Curves:
    """Series over the epochs of a run, stage after stage.

    `stages` are the stages' names with their numbers of epochs; each of `series` has as many values as there
    are epochs in all, NaN where an epoch has none.
    """

    stages: Sequence[tuple[str, int]]
    series: Mapping[str, np.ndarray]


def curves_plot(name: str, curves: Curves, ylabel: str, percent: bool = False) -> str:
    """Lines over the epochs of all stages, the stages apart; an epoch with no value leaves a gap.

    `percent` is for shares from 0 to 1. Other values that span a decade or more go on a logarithmic axis.
    """
    with rc_context(_SETTINGS):
        figure, axes = _figure(_WIDE)
        epochs = np.arange(1, sum(count for _, count in curves.stages) + 1)
        starts = np.cumsum([0, *(count for _, count in curves.stages)]).tolist()
        for (label, values), colour, dash in zip(curves.series.items(), _SERIES, _DASHES, strict=False):
            # One line a stage: what happens between two stages (compaction) is no epoch.
            for number, (start, stop) in enumerate(pairwise(starts)):
                axes.plot(
                    epochs[start:stop],
                    values[start:stop],
                    color=colour,
                    linestyle=dash,
                    marker="." if stop - start == 1 else None,
                    label=label if number == 0 else None,
                )
        for start in starts[1:-1]:
            axes.axvline(start + 0.5, color=_SOFT, linewidth=0.6)
        if len(curves.stages) > 1:
            for (stage, count), start in zip(curves.stages, starts, strict=False):
                middle = start + 0.5 + count / 2
                axes.text(middle, 1.02, stage, transform=axes.get_xaxis_transform(), ha="center", fontsize=8.5)
        axes.set(xlabel="epoch", ylabel=ylabel, xlim=(0.5, len(epochs) + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if percent:
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
            axes.set_ylim(-0.02, 1.02)
        elif _spans_a_decade(curves):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        figure.legend(loc="outside lower center", ncols=len(_SERIES), fontsize=8)
        return _svg(figure, name, _told(curves, ylabel, percent))


def log_alpha_plot(name: str, log_alpha: np.ndarray, alt: str, limit: float = 15.0) -> str:
    """Histogram of a mask's log alpha, kept units apart from dropped ones, with the threshold at 0.

    Values beyond +-limit (a mean of zero has +inf) are counted in the outermost bars.
    """
    with rc_context(_SETTINGS):
        figure, axes = _figure(_SMALL)
        values = np.clip(np.nan_to_num(log_alpha, nan=_FAR, posinf=_FAR, neginf=-_FAR), -limit, limit)
        # An edge at exactly 0: no bar may hold kept and dropped units.
        bins = np.arange(-limit, limit + 0.5, 0.5)
        kept = log_alpha < 0
        for chosen, colour in ((kept, _SERIES[0]), (~kept, _SOFT)):
            axes.stairs(np.histogram(values[chosen], bins)[0], bins, fill=True, color=colour)
        axes.axvline(0, color=_INK, linewidth=1, linestyle="--")
        low, high = min(values.min(), -1.0), max(values.max(), 1.0)
        axes.set(xlabel="log alpha, threshold at 0", ylabel="factors", xlim=(low - 0.5, high + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        return _svg(figure, name, alt)


def confusion_plot(name: str, confusion: np.ndarray, alt: str, counts_up_to: int = 20) -> str:
    """(C, C) counts, rows true and columns predicted, shaded by the share of the row.

    Classes go by their number from 1; the counts are written into the cells of up to `counts_up_to` classes.
    """
    with rc_context(_SETTINGS):
        figure, axes = _figure((_WIDE[0], _WIDE[0]))
        share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
        filled: list[list[int]] = np.argwhere(confusion).tolist()
        cells = [Rectangle((column + 0.5, row + 0.5), 1, 1) for row, column in filled]
        colours = [_SERIES[0] if row == column else _SERIES[1] for row, column in filled]
        # Never fainter than 0.15: one clip of a hundred must still be seen.
        alpha = 0.15 + 0.6 * share[confusion.nonzero()]
        axes.add_collection(PatchCollection(cells, facecolors=colours, alpha=alpha, linewidths=0))
        classes = len(confusion)
        if classes <= counts_up_to:
            for row, column in filled:
                axes.text(column + 1, row + 1, str(confusion[row, column]), ha="center", va="center")
        axes.set(
            xlim=(0.5, classes + 0.5), ylim=(classes + 0.5, 0.5), xlabel="predicted class", ylabel="true class"
        )
        if classes <= counts_up_to:
            axes.set(xticks=range(1, classes + 1), yticks=range(1, classes + 1))
        axes.set_aspect("equal")
        axes.spines[:].set_visible(True)
        return _svg(figure, name, alt)


@dataclass(frozen=True, eq=False)
class Dots:
    """Points with error bars, (N,) each: x with its lowest and highest, y with half its interval (NaN: none)."""

    x: np.ndarray
    x_low: np.ndarray
    x_high: np.ndarray
    y: np.ndarray
    y_half: np.ndarray


def frontier_plot(
    name: str, series: Mapping[str, Dots], front: Sequence[tuple[float, float]], xlabel: str, ylabel: str
) -> str:
    """Accuracies from 0 to 1 against a cost on a logarithmic axis; a line joins the points of the front."""
    with rc_context(_SETTINGS):
        figure, axes = _figure(_WIDE)
        if len(front) > 1:
            axes.plot(*zip(*sorted(front), strict=True), color=_SOFT, linewidth=1, label="front")
        for (label, dots), colour, marker in zip(series.items(), _SERIES, "os^D", strict=False):
            axes.errorbar(
                dots.x,
                dots.y,
                xerr=(dots.x - dots.x_low, dots.x_high - dots.x),
                yerr=np.nan_to_num(dots.y_half),
                fmt=marker,
                color=colour,
                markersize=4,
                elinewidth=0.8,
                label=label,
            )
        _cost_axes(axes, xlabel, ylabel)
        figure.legend(loc="outside lower center", ncols=len(_SERIES), fontsize=8)
        return _svg(figure, name, _dots_told(series, xlabel, ylabel))


def methods_plot(name: str, methods: Mapping[str, tuple[bool, Dots]], xlabel: str, ylabel: str) -> str:
    """Accuracies from 0 to 1 of methods at their budgets, against a cost on a logarithmic axis, a line a method.

    By name whether the method is our own, and its dots: ours are thick unbroken lines with full markers, the
    others thin broken ones with hollow markers. Markers and colours go round with different periods, so that no
    two methods of a kind look alike.
    """
    with rc_context(_SETTINGS):
        figure, axes = _figure(_WIDE)
        for number, (label, (ours, dots)) in enumerate(methods.items()):
            order = np.argsort(dots.x, kind="stable")
            colour = _SERIES[number % len(_SERIES)]
            axes.errorbar(
                dots.x[order],
                dots.y[order],
                yerr=np.nan_to_num(dots.y_half[order]),
                fmt="os^DvPX*<>p"[number % 11],
                linestyle="-" if ours else (0, (2, 1.5)),
                linewidth=1.8 if ours else 0.9,
                color=colour,
                markersize=4.5,
                markerfacecolor=colour if ours else "none",
                elinewidth=0.7,
                label=label,
                zorder=3 if ours else 2,
            )
        _cost_axes(axes, xlabel, ylabel)
        for columns in (3, 2, 1):
            legend = figure.legend(loc="outside lower center", ncols=columns, fontsize=8, handlelength=2.4)
            if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
                break
            legend.remove()
        # The legend takes a line of type a row; the axes keep their size.
        figure.set_size_inches(_WIDE[0], 2.7 + 0.16 * math.ceil(len(methods) / columns))
        return _svg(
            figure, name, _dots_told({label: dots for label, (_, dots) in methods.items()}, xlabel, ylabel)
        )


def pictures_plot(name: str, pictures: Mapping[str, np.ndarray], alt: str) -> str:
    """Pictures (H, W, 3) of one size, values from 0 to 1, side by side under their titles."""
    with rc_context(_SETTINGS):
        height, width = next(iter(pictures.values())).shape[:2]
        side = 2.6
        figure = Figure(figsize=(side * len(pictures), side * height / width + 0.3), layout="constrained")
        for place, (title, picture) in enumerate(pictures.items(), 1):
            axes = figure.add_subplot(1, len(pictures), place, title=title, xticks=(), yticks=())
            axes.imshow(picture, interpolation="none")  # as it is: whoever shows it scales it
        return _svg(figure, name, alt)


def _figure(inches: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=inches, layout="constrained")
    return figure, figure.add_subplot()


def _cost_axes(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set(xscale="log", xlabel=xlabel, ylabel=ylabel)
    axes.xaxis.set_major_locator(FixedLocator(log_ticks(*axes.get_xlim())))
    axes.xaxis.set_minor_locator(LogLocator(subs=range(2, 10)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    # An interval may reach beyond what an accuracy can be.
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -0.02), min(high, 1.02))


def log_ticks(low: float, high: float) -> list[float]:
    """Where labels stand between two positive ends of a logarithmic axis as wide as a plot of ours.

    At 1, 2 and 5 of every decade; fewer where they would run into each other, and at even steps where not even
    two of them lie between the ends.
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for leading in ((1, 2, 5), (1, 3), (1,)):
        # Divided, not multiplied, below 1: 5 * 10**-1 and not 0.30000000000000004.
        all_ticks = (
            digit * 10.0**power if power >= 0 else digit / 10.0**-power for power in decades for digit in leading
        )
        ticks = [tick for tick in all_ticks if low <= tick <= high]
        if leading == (1, 2, 5) and len(ticks) < 2:
            even = (float(f"{tick:.9g}") for tick in MaxNLocator(4).tick_values(low, high))
            return [tick for tick in even if low <= tick <= high]
        if _fit(ticks, low, high):
            return ticks
    every = 2
    while not _fit(ticks[::every], low, high):
        every += 1
    return ticks[::every]


def _fit(ticks: Sequence[float], low: float, high: float) -> bool:
    """Whether the labels of ticks stand clear of each other."""
    # In points: the axes are some four fifths of the plot, a digit is at most as wide as 0.64 of its height.
    scale = 0.8 * 72 * _WIDE[0] / math.log(high / low)
    halves = [0.32 * _SETTINGS["font.size"] * (len(f"{tick:,g}") + 1) for tick in ticks]
    places = [scale * math.log(tick) for tick in ticks]
    return all(
        right - left >= sum(widths)
        for (left, right), widths in zip(pairwise(places), pairwise(halves), strict=True)
    )


def _dots_told(series: Mapping[str, Dots], xlabel: str, ylabel: str) -> str:
    told = (
        f"{label} at {xlabel} {_number(x)}: {y:.1%}"
        for label, dots in series.items()
        for x, y in zip(dots.x.tolist(), dots.y.tolist(), strict=True)
    )
    return f"{ylabel} against {xlabel}. {'; '.join(told)}."


def _spans_a_decade(curves: Curves) -> bool:
    values = np.concatenate(list(curves.series.values()))
    positive = values[values > 0]
    return len(positive) > 0 and positive.max() >= 10 * positive.min()


def _told(curves: Curves, ylabel: str, percent: bool) -> str:
    """What curves show, in words: where each begins and ends."""
    stages = ", ".join(f"{stage} {count}" for stage, count in curves.stages)
    ends = []
    for label, values in curves.series.items():
        known = values[np.isfinite(values)].tolist()
        shown = [f"{value:.1%}" if percent else _number(value) for value in (known[0], known[-1])]
        ends.append(f"{label} from {shown[0]} to {shown[1]}")
    return f"{ylabel} by epoch ({stages} epochs): {'; '.join(ends)}."


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as an element whose ids start with `name`, so that plots on one page do not share any.

    `alt` is what it shows, for those who do not see it.
    """
    stream = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    # Within HTML neither namespace is needed, and the link needs no prefix.
    text = text.replace(' xmlns="http://www.w3.org/2000/svg"', "").replace("xlink:href", "href")
    text = text.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    for mark in ('id="', "url(#", 'href="#'):
        text = text.replace(mark, f"{mark}{name}-")
    text = text.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text
