"""The error plot: the distribution of the errors of agreeing comparisons, in units of the tolerance."""

import warnings
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from conformance.judge import Verdict
from conformance.report.contents import QUANTITIES, foreign_first
from conformance.run import Judgement

Floats = npt.NDArray[np.float64]
Row = tuple[str, Mapping[str, Floats]]
"""Label of an implementation, and its errors by quantity."""

FLOOR = -4.0
"""Logarithm of the smallest error that the plot distinguishes from none."""
NONE = -4.5
BINS_PER_DECADE = 8
LONGEST_LABEL = 60
CHARACTER = 0.6
"""Average width of a character, in units of the font size."""

SETTINGS: Any = {
    "svg.fonttype": "none",  # the reader's fonts
    "svg.hashsalt": "kldiv_xp",  # the same bytes each time
    "text.parse_math": False,  # a dollar sign in a label is a dollar sign
    "font.sans-serif": ["DejaVu Sans", "Segoe UI", "Helvetica Neue", "Arial", "sans-serif"],
}


@dataclass(frozen=True)
class Theme:
    """Colours of a plot."""

    text: str
    faint: str
    strip: tuple[str, str]
    limit: str


THEMES = {
    "light": Theme("#22262c", "#5c6570", ("#e9edf2", "#0b4f8f"), "#b3261e"),
    "dark": Theme("#e3e6ea", "#a0a8b3", ("#242a32", "#8cc4ff"), "#ff8a80"),
}


@dataclass(frozen=True)
class Picture:
    """An SVG image as a data URI, with its size in CSS pixels."""

    uri: str
    width: int
    height: int


def error_plots(judgements: Sequence[Judgement]) -> dict[str, Picture]:
    """The plot, wide and narrow, light and dark, under names such as ``"wide_dark"``; empty if nothing agrees."""
    rows = list(_rows(judgements))
    if not rows:
        return {}
    with mpl.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the reader's fonts draw the text
        return {
            f"{shape}_{name}": draw(rows, theme)
            for shape, draw in (("wide", _wide), ("narrow", _narrow))
            for name, theme in THEMES.items()
        }


def _rows(judgements: Sequence[Judgement]) -> Iterator[Row]:
    for judgement in foreign_first(judgements):
        agreeing = [c for c in judgement.comparisons if c.verdict == Verdict.AGREES and c.elements]
        if agreeing:
            label = "".join(c if c.isprintable() else " " for c in judgement.label)
            if len(label) > LONGEST_LABEL:  # keep the end, which may name a file
                label = f"{label[: LONGEST_LABEL // 2]}…{label[1 - LONGEST_LABEL // 2 :]}"
            yield label, {q: np.asarray([c.error for c in agreeing if c.quantity == q]) for q in QUANTITIES}


def _wide(rows: Sequence[Row], theme: Theme) -> Picture:
    """A panel for each quantity, side by side, and a line for each implementation."""
    width, tall = 1080, 20 * len(rows)
    height = tall + 64
    left = 16 + 11 * CHARACTER * max(len(label) for label, _ in rows)
    across = (width - left) / len(QUANTITIES)
    figure = Figure(figsize=(width / 72, height / 72))
    for number, (quantity, title) in enumerate(QUANTITIES.items()):
        axes = _axes(figure, (left + number * across, 30, across - 20, tall), theme)
        _strips(axes, [errors[quantity] for _, errors in rows], theme)
        axes.set_yticks(range(len(rows)), [label for label, _ in rows] if number == 0 else [""] * len(rows))
        axes.set_title(title, color=theme.text, fontsize=12, loc="left", pad=8)
    return _picture(figure, width, height)


def _narrow(rows: Sequence[Row], theme: Theme) -> Picture:
    """The implementations one below the other, each with its name above a line for each quantity."""
    width, each = 330, 68
    height = each * len(rows) + 24
    figure = Figure(figsize=(width / 72, height / 72))
    for number, (label, errors) in enumerate(rows):
        bottom = height - each * (number + 1)
        axes = _axes(figure, (44, bottom, width - 60, 42), theme)
        _strips(axes, [errors[quantity] for quantity in QUANTITIES], theme)
        axes.set_yticks(range(len(QUANTITIES)), list(QUANTITIES))
        axes.tick_params(labelbottom=number == len(rows) - 1)
        size = min(12.0, width / CHARACTER / max(len(label), 1))
        figure.text(0, (bottom + 48) / height, label, color=theme.text, fontsize=size)
    return _picture(figure, width, height)


def _axes(figure: Figure, box: tuple[float, float, float, float], theme: Theme) -> Axes:
    """Axes of the logarithm of the error, in a box of pixels."""
    width, height = figure.get_size_inches() * 72
    left, bottom, across, tall = box
    axes = figure.add_axes((left / width, bottom / height, across / width, tall / height), frameon=False)
    axes.tick_params(length=0, labelsize=11, labelcolor=theme.text)
    axes.tick_params(axis="x", labelsize=10, labelcolor=theme.faint)
    axes.set_xticks([(NONE + FLOOR) / 2, -3, -2, -1, 0], ["none", "0.001", "0.01", "0.1", "1"])
    return axes


def _strips(axes: Axes, lines: Sequence[Floats], theme: Theme) -> None:
    """A strip of shades for each set of errors, with a tick at the largest."""
    shades = np.stack([np.sqrt(_shares(errors)) for errors in lines])
    with_gaps = np.repeat(shades, 6, axis=0)
    with_gaps[5::6] = np.nan
    # As an image: polygons would make the page ten times as large.
    axes.imshow(
        with_gaps,
        cmap=LinearSegmentedColormap.from_list("strip", theme.strip),
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="none",
        extent=(NONE, 0, len(lines) - 0.5, -0.5),
    )
    for line, errors in enumerate(lines):
        if len(errors):
            axes.plot([_position(errors.max())] * 2, [line - 0.5, line + 1 / 3], color=theme.text, linewidth=1.5)
    axes.axvline(0, color=theme.limit, linewidth=1.5, clip_on=False)
    axes.set_xlim(NONE, 0.05)


def _shares(errors: Floats) -> Floats:
    """Share of the errors in each bin of the axis; the bins up to the floor all have the share of what is below."""
    edges = np.linspace(FLOOR, 0, round(-FLOOR * BINS_PER_DECADE) + 1)
    positions = np.asarray([_position(error) for error in errors])
    counts = np.histogram(positions[positions > NONE], edges)[0]
    none = np.full(round((FLOOR - NONE) * BINS_PER_DECADE), np.count_nonzero(positions == NONE))
    shares: Floats = np.concatenate([none, counts]) / max(len(errors), 1)
    return shares


def _position(error: float) -> float:
    return float(np.log10(error)) if error > 10**FLOOR else NONE


def _picture(figure: Figure, width: int, height: int) -> Picture:
    svg = BytesIO()
    figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Picture(f"data:image/svg+xml;base64,{b64encode(svg.getvalue()).decode()}", width, height)
