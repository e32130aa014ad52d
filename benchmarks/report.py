"""The results of a run, for a terminal."""

import math
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks import machine
from benchmarks.contender import FLOOR
from benchmarks.results import Ratio, Results, number, quartiles, ratio

AGREES = 1e-2
"""Relative difference from our loss up to which a peer is taken to compute the same; 16 bits are coarse."""


def print_report(results: Results, console: Console) -> None:
    """A table for each group, the other measurements, and what did not run."""
    for group in dict.fromkeys(m.group for m in results.measured):
        console.print(_group(group, results))
    if results.imports or results.memory:
        console.print(_processes(results))
    for line in (*_remarks(results), machine.line(results.machine)):
        console.print(line, highlight=False, markup=False)


def _group(group: str, results: Results) -> Table:
    """Our time divided by that of each peer, a line for each workload and each way of calling ours."""
    lines = [m for m in results.measured if m.group == group]
    peers = [*dict.fromkeys(peer for m in lines for peer in m.peers), FLOOR]
    title = f"{group}, {results.threads[group]}: time of ours divided by that of ..., median (quartiles)"
    table = _table(title, "size", "dtype", "what", "ours", *peers, "rounds")
    for m in lines:
        for ours in m.ours:
            ratios = [_ratio(m.ratio(ours, peer)) for peer in peers]
            rounds = str(len(m.times.seconds[ours]))
            table.add_row(m.workload.size, m.workload.dtype, m.workload.what, Text(ours), *ratios, rounds)
    return table


def _processes(results: Results) -> Table:
    """Imports and memory, whose figures matter as much as their ratio."""
    table = _table("In processes of their own, medians", "ours", "against", "ours / theirs", "ours", "theirs", "times")
    for e in (*results.imports, *results.memory):
        if e.not_run is not None:
            table.add_row(e.name, e.against, Text(f"not run: {e.not_run}", "dim"))
        else:
            figures = (f"{number(quartiles(f)[1])} {e.unit}" for f in (e.ours, e.theirs))
            table.add_row(e.name, e.against, _ratio(ratio(e.ours, e.theirs)), *figures, str(len(e.ours)))
    return table


def _remarks(results: Results) -> Iterator[str]:
    """What did not run, and whose loss differs from ours."""
    for what, reason in results.not_run.items():
        yield f"not run: {what}: {reason}"
    for m in results.measured:
        for name, reason in m.times.not_run.items():
            yield f"not run: {m.group}, {m.workload}, {name}: {reason}"
        ours = next(iter(m.times.values.values()), math.nan)
        for name, value in m.times.values.items():
            if not math.isclose(value, ours, rel_tol=AGREES):
                yield f"computes another loss: {m.group}, {m.workload}: {name} {value:g}, ours {ours:g}"


def _ratio(ratio: Ratio | None) -> Text:
    return Text(str(ratio), "green" if ratio.median <= 1 else "") if ratio else Text("-", "dim")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=Text(title, "table.title"), title_justify="left", pad_edge=False)
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    return table
