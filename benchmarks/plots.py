"""One look for all pictures of the benchmarks, each as PNG and SVG in ``results/``.

The ground is white, so that they read alike on white and dark pages. The same numbers give the same SVG: no date, no
random ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

RESULTS = Path(__file__).with_name("results")
OWN, PEER, INK, GRID = "#c2410c", "#7c93ab", "#1f2933", "#d5dbe1"
COLOURS = [OWN, "#2563a8", "#2a8f5d", "#8a4fa8", "#b38600", "#5b6770"]  # told apart by the colour-blind too
MARKS = "osD^vX"
STYLE: Any = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.color": GRID,
    "savefig.dpi": 120,
    "svg.fonttype": "none",  # text stays text: small, and found by a search
    "svg.hashsalt": "flowtrace",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


class Bar(NamedTuple):
    """A row of ``bars``: a number and how far it spreads, in the unit of the axis."""

    label: str
    value: float
    low: float
    high: float
    own: bool = False  # flowtrace's own: shown in the colour that stands out
    remark: str = ""  # said behind the number


class Line(NamedTuple):
    """A line of ``lines``: its points as ``(x, value, low, high)``, in the units of the axes."""

    label: str
    points: Sequence[tuple[float, float, float, float]]


def bars(name: str, rows: Sequence[Bar], *, title: str, axis: str, log_from: float | None = None) -> list[Path]:
    """Horizontal bars, the first on top, each with its number and its spread.

    Args:
        name: of the files in ``results/``, without ending.
        rows: some bars. One that ends before the axis begins has its number only, as where noise is all there is.
        title: what is shown.
        axis: what the numbers are, with their unit: ``added time per call (ns)``.
        log_from: where a log axis begins; without it the axis is linear, and begins at zero.

    Returns:
        The two files.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.5, 0.9 + 0.34 * len(rows)), layout="constrained")
        axes = figure.subplots()
        begin = log_from or 0.0
        for place, row in enumerate(rows):
            low, value, high = (max(number, begin) for number in (row.low, row.value, row.high))
            axes.barh(place, value - begin, left=begin, color=OWN if row.own else PEER)
            if value == begin:
                high = begin
            else:
                axes.errorbar(value, place, xerr=[[value - low], [high - value]], ecolor=INK, elinewidth=1, capsize=2)
            text = f"{_number(row.value)}  {row.remark}".rstrip()
            axes.annotate(text, (high, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)
        end = max(begin, *(row.high for row in rows))
        if log_from is None:
            axes.set_xlim(0, end * 1.2)
        else:
            axes.set_xscale("log")
            axes.set_xlim(begin, end * (end / begin) ** 0.15)
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        axes.margins(y=0.3 / len(rows))
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        _finish(axes, title=title, x=axis, grid="x")
        return _save(figure, name)


def lines(
    name: str, rows: Sequence[Line], *, title: str, x: str, y: str, log_x: bool = False, log_y: bool = False
) -> list[Path]:
    """Lines with their spread as a band behind them.

    Args:
        name: of the files in ``results/``, without ending.
        rows: up to six lines.
        title: what is shown.
        x: what is varied, with its unit.
        y: what was measured, with its unit. A linear axis begins at zero.
        log_x: whether each step of the axis is ten times the one before.
        log_y: the same of the other axis.

    Returns:
        The two files.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.5, 4.2), layout="constrained")
        axes = figure.subplots()
        for row, colour, mark in zip(rows, COLOURS, MARKS, strict=False):
            at, values, lows, highs = zip(*row.points, strict=True)
            axes.fill_between(at, lows, highs, color=colour, alpha=0.15, linewidth=0)
            axes.plot(at, values, color=colour, marker=mark, markersize=4, label=row.label)
        if log_x:
            axes.set_xscale("log")
        if log_y:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(_tick)
        axes.set_ylabel(y)
        if len(rows) > 1:
            axes.legend(frameon=False, fontsize=9)
        _finish(axes, title=title, x=x, grid="both")
        return _save(figure, name)


def _finish(axes: Axes, *, title: str, x: str, grid: Literal["x", "both"]) -> None:
    axes.figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(x)
    axes.xaxis.set_major_formatter(_tick)
    axes.grid(axis=grid)
    axes.set_axisbelow(True)


def _tick(value: float, _position: float) -> str:
    return f"{value:,.10g}"


def _number(value: float) -> str:
    """A number with three digits that count, or all that stand before the point."""
    return (f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}").replace("-", "\N{MINUS SIGN}")


def _save(figure: Figure, name: str) -> list[Path]:
    RESULTS.mkdir(exist_ok=True)
    paths = [RESULTS / f"{name}.png", RESULTS / f"{name}.svg"]
    figure.savefig(paths[0], metadata={"Software": None})
    figure.savefig(paths[1], metadata={"Date": None, "Creator": None})
    return paths
