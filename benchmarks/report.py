"""The results of a run, for a terminal."""

import math
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.contender import FLOOR
from benchmarks.results import Results, ratio, spread

AGREES = 1e-2
"""Relative difference from our loss up to which a peer is taken to compute the same; 16 bits are coarse."""


def print_report(results: Results, console: Console) -> None:
    """A table for each group, and the rest as lines."""
    for group in dict.fromkeys(m.group for m in results.measured):
        console.print(_table(group, results))
    for line in _lines(results):
        console.print(line, highlight=False, markup=False)


def _table(group: str, results: Results) -> Table:
    """Our time divided by that of each peer, a line for each workload and each way of calling ours."""
    lines = [m for m in results.measured if m.group == group]
    peers = [*dict.fromkeys(peer for m in lines for peer in m.peers), FLOOR]
    title = f"{group}, {results.threads[group]}: time of ours divided by that of ..., median (quartiles)"
    table = Table(title=Text(title, "table.title"), title_justify="left", pad_edge=False)
    for column in ("size", "dtype", "what", "ours", *peers, "rounds"):
        table.add_column(Text(column), overflow="fold")
    for m in lines:
        for ours in m.ours:
            ratios = (m.ratio(ours, peer) for peer in peers)
            cells = (Text(str(r), "green" if r.median <= 1 else "") if r else Text("-", "dim") for r in ratios)
            rounds = str(len(m.times.seconds[ours]))
            table.add_row(str(m.workload.shape), m.workload.dtype, m.workload.what, Text(ours), *cells, rounds)
    return table


def _lines(results: Results) -> Iterator[str]:
    """Imports and memory, what did not run, whose loss differs from ours, and the machine."""
    for process in results.processes:
        first, *others = process.figures
        ours = process.figures[first]
        yield f"{process.what}: {first} {spread(ours).median:.3g} {process.unit}"
        for name in others:
            theirs = process.figures[name]
            yield f"    {name} {spread(theirs).median:.3g} {process.unit}, ours / theirs {ratio(ours, theirs)}"
    for what, reason in results.not_run.items():
        yield f"not run: {what}: {reason}"
    for m in results.measured:
        for name, reason in m.times.not_run.items():
            yield f"not run: {m.group}, {m.workload}, {name}: {reason}"
        ours_value = next(iter(m.times.values.values()), math.nan)
        for name, value in m.times.values.items():
            if not math.isclose(value, ours_value, rel_tol=AGREES):
                yield f"computes another loss: {m.group}, {m.workload}: {name} {value:g}, ours {ours_value:g}"
    yield ", ".join(f"{name} {value}" for name, value in results.machine.items())
