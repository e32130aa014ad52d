"""Time per call against the number of elements: a figure for each group, with its peers and the floor."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.results import FLOOR, Measured, Results
from benchmarks.statistics import quartiles
from conformance.output import replacing

# Okabe and Ito, https://jfly.uni-koeln.de/color/: to be told apart by everyone. Markers differ, too.
OURS = ("#0072B2", "#56B4E9", "#009E73")
PEERS = ("#D55E00", "#E69F00", "#CC79A7", "#000000")
MARKERS = "osD^vP*X"
SETTINGS: Any = {"svg.fonttype": "none", "svg.hashsalt": "kldiv_xp", "text.parse_math": True}


def write_plots(results: Results, directory: Path) -> list[Path]:
    """Write ``GROUP.svg`` for each group with measurements at two sizes at least."""
    written = []
    for group in dict.fromkeys(m.group for m in results.measured):
        modes = [
            results.find(group, gradient=g, dtype="float32", log_target=False, reduction="batchmean") for g in (0, 1)
        ]
        panels = [sorted(lines, key=lambda m: m.workload.elements) for lines in modes if len(lines) > 1]
        if panels:
            path = plot_file(group, directory)
            with mpl.rc_context(SETTINGS), replacing(path) as file:
                _figure(group, results.threads[group], panels).savefig(file, format="svg", metadata={"Date": None})
            written.append(path)
    return written


def plot_file(group: str, directory: Path) -> Path:
    """Where the figure of a group is written."""
    return directory / f"{group.lower().replace(' ', '-')}.svg"


def _figure(group: str, threads: str, panels: Sequence[Sequence[Measured]]) -> Figure:
    """A panel for each mode, with one legend below."""
    figure = Figure(figsize=(5.2 * len(panels), 5.4), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    styles = _styles([m for lines in panels for m in lines])
    for panel, lines in zip(axes, panels, strict=True):
        _panel(panel, lines, styles)
    axes[0].set_ylabel("seconds per call")
    figure.suptitle(f"{group}, {threads}: float32, batchmean; median, band: quartiles", fontsize=11)
    handles = {label: h for panel in axes for h, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _styles(lines: Sequence[Measured]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each contender, the same in all panels."""
    ours = list(dict.fromkeys(name for m in lines for name in m.ours))
    peers = list(dict.fromkeys(name for m in lines for name in m.peers))
    styles: dict[str, dict[str, Any]] = {
        name: {"color": colours[i % len(colours)], "linewidth": width}
        for names, colours, width in ((ours, OURS, 2.2), (peers, PEERS, 1.4))
        for i, name in enumerate(names)
    }
    for style, marker in zip(styles.values(), MARKERS * 2, strict=False):
        style["marker"] = marker
    return {**styles, FLOOR: {"color": "#7f7f7f", "linestyle": "--", "linewidth": 1.2}}


def _panel(axes: Axes, lines: Sequence[Measured], styles: dict[str, dict[str, Any]]) -> None:
    for name, style in styles.items():
        there = [m for m in lines if m.has(name)]
        if there:
            elements = [m.workload.elements for m in there]
            lower, median, upper = zip(*(quartiles(m.seconds(name)) for m in there), strict=True)
            if len(there) == len(lines):
                axes.plot(elements, median, label=name, markersize=5, **style)
                axes.fill_between(elements, lower, upper, color=style["color"], alpha=0.2, linewidth=0)
            else:  # no line over what was not measured
                axes.plot(elements, median, label=name, markersize=5, **(style | {"linestyle": "none"}))
    axes.set(xscale="log", yscale="log", xlabel="elements", title=lines[0].workload.mode)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
