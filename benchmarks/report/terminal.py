"""The results of a run, for a terminal."""

import math
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.results import FLOOR, Entry, Measured, Results
from benchmarks.statistics import Ratio, quartiles
from benchmarks.targets import judge

AGREES = 1e-2
"""Relative difference from our loss up to which a peer is taken to compute the same; 16 bits are coarse."""

BUSY = 0.05
"""Share of the processors that others may take; where they take more, threads wait for each other."""


def print_report(results: Results, console: Console) -> None:
    """A table for each group, the other measurements, what was not run, and the promises."""
    for group in dict.fromkeys(m.group for m in results.measured):
        console.print(_group(group, results))
    for title, entries in (
        ("Time per element", results.flatness),
        ("Peak extra memory of one call at (1024, 32000), float32, in a fresh process", results.memory),
        ("Import, process against process", results.imports),
        ("First call in a process, imports apart", results.first_calls),
    ):
        if entries:
            console.print(_entries(title, entries))
    for line in _remarks(results):
        console.print(line, highlight=False, markup=False)
    console.print(_targets(results))
    console.print(machine_line(results), highlight=False, markup=False)


def machine_line(results: Results) -> str:
    """What the figures were measured on, in a paragraph."""
    machine = results.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    threads = "; ".join(f"{group} {text}" for group, text in results.threads.items())
    return (
        f"{machine['cpu']}, {machine['usable_cpus']} CPUs usable. Threads: {threads or 'no group was run'}.\n"
        f"kldiv_xp {machine['kldiv_xp']}, commit {machine['commit'] or 'unknown'}, Python {machine['python']}\n"
        f"{versions}"
    )


def _group(group: str, results: Results) -> Table:
    """Our time divided by that of each peer, a line for each workload and each way of calling ours."""
    lines = [m for m in results.measured if m.group == group]
    peers = list(dict.fromkeys(_family(peer) for m in lines for peer in m.peers))
    title = f"{group}, {results.threads[group]}: time of ours divided by that of ..., median (quartiles)"
    table = _table(title)
    for name in ("size", "dtype", "what", "ours"):
        table.add_column(name, overflow="fold")
    for name in (*peers, FLOOR):
        table.add_column(Text(name), justify="right", overflow="fold")
    table.add_column("rounds", justify="right")
    for m in lines:
        for ours in m.ours:
            ratios = [_of_family(m, ours, peer) for peer in peers] + [m.ratio(ours, FLOOR)]
            rounds = len(m.times.seconds[ours])
            table.add_row(*_workload(m), Text(ours), *map(_ratio, ratios), str(rounds))
    return table


def _family(peer: str) -> str:
    """Name of a column: Optax has one function for each kind of target."""
    return peer.removesuffix("_with_log_targets")


def _of_family(measured: Measured, ours: str, family: str) -> Ratio | None:
    return next((measured.ratio(ours, peer) for peer in measured.peers if _family(peer) == family), None)


def _workload(measured: Measured) -> list[str]:
    workload = measured.workload
    options = ["log_target"] * workload.log_target + [workload.reduction] * (workload.reduction != "batchmean")
    return [" x ".join(map(str, workload.shape)), workload.dtype, ", ".join([workload.mode, *options])]


def _ratio(ratio: Ratio | None) -> Text:
    return Text(str(ratio), "green" if ratio.median <= 1 else "") if ratio else Text("-", "dim")


def _entries(title: str, entries: Sequence[Entry]) -> Table:
    table = _table(title)
    for name in ("group", "what", "against"):
        table.add_column(name, overflow="fold")
    table.add_column("ours / theirs", justify="right", overflow="fold")
    table.add_column("times", justify="right")
    in_mib = any(e.unit == "MiB" for e in entries)
    if in_mib:  # of memory the figure itself is what matters
        table.add_column("ours, MiB", justify="right")
        table.add_column("theirs, MiB", justify="right")
    for e in entries:
        ratio = Text(f"not run: {e.not_run}", "dim") if e.not_run else _ratio(e.ratio)
        figures = [f"{quartiles(f)[1]:.1f}" if f else "" for f in (e.ours, e.theirs)] if in_mib else []
        table.add_row(e.group, e.name, e.against, ratio, str(len(e.ours) or ""), *figures)
    return table


def _remarks(results: Results) -> Iterator[str]:
    """What was not run, and who computed another loss than ours."""
    if results.others is not None and results.others > BUSY:
        yield f"other programs took {results.others:.0%} of the CPUs meanwhile: the figures are not to be relied on"
    for group, reason in results.not_run.items():
        yield f"not run: {group}: {reason}"
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for m in results.measured:
        for name, reason in m.times.not_run.items():
            reasons.setdefault((m.group, name, reason), []).append(str(m.workload))
        yield from _other_losses(m)
    for (group, name, reason), workloads in reasons.items():
        yield f"not run: {group}, {name}, {len(workloads)} workloads, the first {workloads[0]}: {reason}"


def _other_losses(measured: Measured) -> Iterator[str]:
    values = measured.times.values
    if not measured.ours or not values:
        return
    ours = values[measured.ours[0]]
    for name, value in values.items():
        if not math.isclose(value, ours, rel_tol=AGREES):
            yield f"computes another loss: {measured.group}, {measured.workload}: {name} {value:g}, ours {ours:g}"


def _targets(results: Results) -> Table:
    table = _table("Targets, float32, batchmean")
    for name in ("target", "measured", "verdict"):
        table.add_column(name, overflow="fold")
    for judged in judge(results):
        style = {True: "green", False: "yellow", None: "dim"}[judged.met]
        measured = "" if judged.met is None else judged.measured
        table.add_row(Text(judged.promise), Text(measured), Text(judged.verdict, style))
    return table


def _table(title: str) -> Table:
    return Table(title=Text(title, "table.title"), title_justify="left", pad_edge=False)
