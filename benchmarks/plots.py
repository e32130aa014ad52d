"""Time per call against the number of elements: a figure for each group, with its peers and the floor."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.contender import FLOOR
from benchmarks.results import Measured, Results, spread
from conformance.output import replacing


def plot_file(group: str, directory: Path) -> Path:
    """Where the figure of a group is written."""
    return directory / f"{group.lower().replace(' ', '-')}.svg"


def write_plots(results: Results, directory: Path) -> list[Path]:
    """Write ``GROUP.svg`` for each group with measurements at two sizes at least, a panel for each mode."""
    written = []
    for group in dict.fromkeys(m.group for m in results.measured):
        here = [m for m in results.measured if m.group == group and m.workload.usual]
        modes = ([m for m in here if m.workload.gradient == gradient] for gradient in (False, True))
        panels = [sorted(lines, key=lambda m: m.workload.elements) for lines in modes if len(lines) > 1]
        if not panels:
            continue
        figure = Figure(figsize=(5.2 * len(panels), 5.4), layout="constrained")
        names = list(dict.fromkeys(name for m in here for name in m.times.seconds))
        for axes, lines in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
            _draw_panel(axes, lines, names)
        figure.suptitle(f"{group}, {results.threads[group]}: float32, batchmean; median, bars: quartiles", fontsize=11)
        handles = {label: h for a in figure.axes for h, label in zip(*a.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, frameon=False)
        written.append(plot_file(group, directory))
        with replacing(written[-1]) as file:
            figure.savefig(file, format="svg")
    return written


def _draw_panel(axes: Axes, lines: Sequence[Measured], names: Sequence[str]) -> None:
    """A line for each contender; points alone where it was not measured at every size."""
    for number, name in enumerate(names):
        points = [(m.workload.elements, *spread(m.times.seconds[name])) for m in lines if name in m.times.seconds]
        if points:
            elements, median, lower, upper = np.transpose(points)
            ls = "none" if len(points) < len(lines) else "--" if name == FLOOR else "-"
            bars = [median - lower, upper - median]
            axes.errorbar(elements, median, bars, label=name, color=f"C{number}", ls=ls, marker="o", ms=4)
    axes.set(xscale="log", yscale="log", xlabel="elements", ylabel="seconds per call", title=lines[0].workload.what)
