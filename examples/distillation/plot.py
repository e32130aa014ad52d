"""The figure: the loss in three frameworks and how far they part, and what the teacher is worth."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from conformance.output import replacing
from examples.distillation.comparison import Seed
from examples.distillation.problem import Array

# Okabe and Ito's colours, which people with any colour vision can tell apart.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#767676"


def draw(losses: dict[str, Array], differences: dict[str, Array], bound: float, seeds: list[Seed], path: Path) -> None:
    """Write the figure to ``path``, in the format that its suffix names."""
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    figure.suptitle("Knowledge distillation on scikit-learn's digits, in float64", fontsize=13)
    (curves, accuracy), (parting, nll) = figure.subplots(2, 2, width_ratios=(1.6, 1))
    _draw_losses(curves, losses)
    _draw_differences(parting, differences, bound)
    _draw_pairs(accuracy, [(100 * s.labels.accuracy, 100 * s.teacher.accuracy) for s in seeds])
    accuracy.set(title="On held-out images: higher is better", ylabel="accuracy / %")
    _draw_pairs(nll, [(s.labels.nll, s.teacher.nll) for s in seeds])
    nll.set(title="Lower is better", ylabel="negative log-likelihood / nat")
    with replacing(path) as file:
        figure.savefig(file, format=path.suffix[1:], dpi=130)


def _draw_losses(axes: Any, losses: dict[str, Array]) -> None:
    # They lie on each other, so each is narrower than the one below it.
    styles: list[dict[str, Any]] = [
        {"color": ORANGE, "lw": 7, "alpha": 0.6},
        {"color": BLUE, "lw": 3},
        {"color": "black", "lw": 1.2, "ls": (0, (2, 2))},
    ]
    for (name, values), style in zip(losses.items(), styles, strict=True):
        axes.plot(*_smoothed(values), label=name, solid_capstyle="butt", **style)
    axes.set(title="Three frameworks, one curve", xlabel="step", ylabel="loss / nat (median of 20 steps)", yscale="log")
    axes.legend()
    axes.grid(alpha=0.3)


def _smoothed(values: Array) -> tuple[Any, Array]:
    """Median of every 20 steps, or every step of a short run, and where it lies."""
    window = 20 if len(values) >= 200 else 1
    whole = len(values) - len(values) % window
    medians = np.median(values[:whole].reshape(-1, window), axis=-1)
    return np.arange(len(medians)) * window + window / 2, medians


def _draw_differences(axes: Any, differences: dict[str, Array], bound: float) -> None:
    for (name, values), color, marker in zip(differences.items(), (BLUE, GREEN), "o^", strict=True):
        steps = np.flatnonzero(values)  # a logarithmic axis cannot show where they are equal
        label = f"{name} (equal at {len(values) - len(steps)} steps)"
        axes.scatter(steps, values[steps], s=5, color=color, marker=marker, lw=0, alpha=0.6, label=label)
    axes.axhline(bound, color="black", lw=1.2, ls="--", label=f"{bound:g}: more fails")
    axes.axhline(np.finfo(float).eps, color="black", lw=1.2, ls=":", label="one unit in the last place of 1")
    axes.set(title="How far they part from NumPy", xlabel="step", ylabel="relative difference", yscale="log")
    axes.set_ylim(top=1e-6)
    axes.legend(loc="upper right", ncols=2, markerscale=3, fontsize="small")
    axes.grid(alpha=0.3)


def _draw_pairs(axes: Any, pairs: list[tuple[float, float]]) -> None:
    for pair in pairs:
        axes.plot((0, 1), pair, color=GREY, lw=0.8, zorder=1)
    without, with_teacher = np.asarray(pairs).T
    for position, values, color, marker in ((0, without, ORANGE, "s"), (1, with_teacher, BLUE, "o")):
        axes.scatter(np.full(len(values), position), values, s=28, color=color, marker=marker, zorder=2)
        side = -0.12 if position == 0 else 0.12
        axes.errorbar(
            position + side, values.mean(), values.std(ddof=1), fmt="_", ms=12, capsize=3, color=color, zorder=2
        )
    axes.set_xticks((0, 1), ("labels only", "with the teacher"))
    axes.set(xlim=(-0.4, 1.4))
    axes.set_xlabel("a line joins a seed; bars: mean and standard deviation", fontsize="small")
    axes.grid(axis="y", alpha=0.3)
