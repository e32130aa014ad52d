"""The accuracy table as a figure: error against the difference of the distributions."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.accuracy_inputs import DIFFERENCES
from benchmarks.accuracy_losses import PYTORCH
from benchmarks.accuracy_measure import Results, Row
from conformance.output import replacing

# Okabe and Ito's colours, which people with any colour vision can tell apart; a marker tells each line as well.
BLUE, SKY, GREEN, ORANGE, RED, PINK, GREY = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#767676"
STYLES = {
    PYTORCH: ("black", "", "-"),
    "kldiv_xp on NumPy": (BLUE, "o", "-"),
    "kldiv_xp on PyTorch": (RED, "o", "-"),
    "kldiv_xp on PyTorch, grad": (RED, "^", "-"),
    "kldiv_xp on PyTorch, compiled": (RED, "s", "-"),
    "kldiv_xp on JAX": (GREEN, "o", "-"),
    "kldiv_xp on JAX, jitted": (GREEN, "s", "-"),
    "kldiv_xp on Dask": (SKY, "D", "-"),
    "kldiv_xp on MLX": (PINK, "v", "-"),
    "kldiv_xp on array-api-strict": (GREY, "P", "-"),
    "Optax kl_divergence": (GREEN, "o", ":"),
    "Optax kl_divergence, jitted": (GREEN, "s", ":"),
    "jax.numpy by hand, jitted": (GREEN, "x", ":"),
    "NumPy by hand": (BLUE, "x", ":"),
    "SciPy rel_entr": (ORANGE, "x", ":"),
}
"""Colour, by library; marker; and line: ours solid, peers dotted."""

SETTINGS: Any = {"svg.fonttype": "none", "svg.hashsalt": "kldiv_xp", "font.size": 9}


def draw_plot(results: Results, path: Path) -> None:
    """Write the figure to ``path``, in the format that its suffix names."""
    rows = results.rows()
    subjects = list(dict.fromkeys(row.setting.subject for row in rows))
    sizes = list(dict.fromkeys(row.setting.elements for row in rows))
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(3.4 * len(sizes) + 1, 2.7 * len(subjects) + 1.8), layout="constrained")
        panels: Any = figure.subplots(len(subjects), len(sizes), sharex=True, sharey="row", squeeze=False)
        for line, subject in zip(panels, subjects, strict=True):
            line[0].set_ylabel(f"{subject}\nrelative error")
            for axes, size in zip(line, sizes, strict=True):
                here = [row for row in rows if row.setting.subject == subject and row.setting.elements == size]
                if here:
                    _draw_panel(axes, here)
                else:
                    axes.set_axis_off()
        for axes, size in zip(panels[0], sizes, strict=True):
            axes.set_title(f"{size:,} elements")
        for axes in panels[-1]:
            axes.set_xlabel("difference of the distributions")
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
        with replacing(path) as file:
            figure.savefig(file, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw_panel(axes: Any, rows: Sequence[Row]) -> None:
    axes.set_yscale("log")
    axes.set_xticks(range(len(DIFFERENCES)), DIFFERENCES)
    axes.grid(alpha=0.3)
    for name, (color, marker, line) in STYLES.items():
        errors = {row.setting.difference: row.error for row in rows if row.implementation == name}
        values = [_drawable(errors.get(difference, math.nan)) for difference in DIFFERENCES]
        if name == PYTORCH:
            twice = [2 * value for value in values]
            axes.plot(values, color=color, lw=2.5, label=name)
            axes.plot(twice, color=color, lw=1, ls="--", label="twice that")
        else:
            axes.plot(values, color=color, marker=marker, ms=4, lw=1, ls=line, label=name, mfc="none")


def _drawable(value: float) -> float:
    """The value, if a logarithmic axis has a place for it."""
    return value if 0 < value < math.inf else math.nan
