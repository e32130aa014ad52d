"""Run a PyTorch script before and after one line of it changed: ``python -m examples.moving_from_torch``."""

import argparse
from collections.abc import Callable, Sequence
from difflib import unified_diff
from pathlib import Path

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from torch import Tensor

from examples.moving_from_torch import after, before

HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Show the line that changes, run both scripts, show what it changes, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.moving_from_torch", description=__doc__)
    parser.add_argument("--epochs", type=int, default=300)
    options = parser.parse_args(arguments)
    console = Console(width=100, highlight=False)
    console.print("\nThe line that changes:\n")
    console.print(Syntax(line_that_changes(), "diff", background_color="default"))
    with console.status("training, before and after"):
        results = before.train(options.epochs), after.train(options.epochs)
    table = Table("", "before", "after", title="A network and its targets, learned together", title_justify="left")
    rows: dict[str, Callable[[before.Result | after.Result], str]] = {
        "loss of the first step": lambda r: f"{r.first_loss:.7f}",
        "its gradient by the target, where the target is positive": lambda r: _range(r.by_target[r.target > 0]),
        "its gradient by the target, where the target is zero": lambda r: _range(r.by_target[r.target == 0]),
        "its gradient by what is learned, for the first image's candidates": lambda r: _listed(
            r.by_logits[0][r.target[0] > 0]
        ),
        f"digits found after {options.epochs} epochs": lambda r: f"{r.found:.1%}",
    }
    for name, show in rows.items():
        table.add_row(name, *(show(result) for result in results))
    console.print(table)
    console.print("A NaN in the gradient, and after one step every weight is: all images are then taken for a 0.")
    return 0


def line_that_changes() -> str:
    """Differences of the two scripts."""
    old, new = ((HERE / name).read_text().splitlines() for name in ("before.py", "after.py"))
    return "\n".join(unified_diff(old, new, "before.py", "after.py", lineterm="", n=1))


def _range(x: Tensor) -> str:
    """Least and greatest value, or how many are NaN."""
    missing = int(x.isnan().sum())
    if missing:
        return f"[red]NaN, {missing:,} of {len(x):,}[/]"
    least, greatest = float(x.min()), float(x.max())
    return f"{least:g}, all {len(x):,}" if least == greatest else f"{least:.1e} to {greatest:.1e}"


def _listed(x: Tensor) -> str:
    values = ", ".join("NaN" if v != v else f"{v:+.0e}" for v in x.tolist())
    return f"[red]{values}[/]" if "NaN" in values else values


if __name__ == "__main__":
    raise SystemExit(main())
