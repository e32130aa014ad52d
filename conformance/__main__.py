"""Hold every implementation against ``torch.nn.KLDivLoss``: ``python -m conformance``.

Exits with 1 if anything differs that the ledger does not explain, or if an entry of the ledger explains nothing.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from conformance import corpus
from conformance.implementations import every_implementation, reference
from conformance.judge import Verdict
from conformance.report import as_json, print_report, summary
from conformance.run import Judgement, judge_all, unused_entries


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, report, and return the exit status."""
    started = time.monotonic()
    options = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)
    cases = corpus.load()
    labels = _chosen("implementation", options.implementation, [i.label for i in every_implementation()])
    groups = _chosen("group", options.group, list(cases.groups))
    count = sum(case.group in groups for case in cases.cases)
    console.print(f"corpus {cases.digest[:12]}: {count} cases; {len(labels)} implementations", highlight=False)
    judgements = _judge_with_progress(labels, groups, count, options, console)
    full = not (options.implementation or options.group)
    unused = unused_entries(judgements) if full else []
    print_report(judgements, groups, f"{reference().label} ({reference().version()})", console)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        report = as_json(judgements, groups, reference().label, cases.digest, unused)
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
        console.print(f"JSON report: {options.json}", highlight=False)
    console.print(f"{summary(judgements, unused)} in {time.monotonic() - started:.0f} s", highlight=False)
    return 1 if unused or any(judgement.count(Verdict.DIFFERS) for judgement in judgements) else 0


def _judge_with_progress(
    labels: Sequence[str], groups: Sequence[str], count: int, options: argparse.Namespace, console: Console
) -> list[Judgement]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        tasks = {label: bars.add_task(label, total=count, visible=False) for label in labels}
        overall = bars.add_task("all", total=count * len(labels))

        def advance(label: str, number: int) -> None:
            bars.update(overall, advance=number)
            bars.update(tasks[label], advance=number, visible=True)
            if bars.tasks[tasks[label]].finished:
                bars.update(tasks[label], visible=False)
                if not console.is_terminal:  # where no bar is seen, a line says that something happens
                    console.print(f"judged {label}", highlight=False, markup=False)

        return judge_all(labels, groups, everything=options.all, processes=options.processes, progress=advance)


def _chosen(kind: str, wanted: Sequence[str] | None, known: list[str]) -> list[str]:
    chosen = [name for name in known if not wanted or any(part in name for part in wanted)]
    if not chosen:
        raise SystemExit(f"no {kind} matches {', '.join(wanted or ())}; there are: {', '.join(known)}")
    return chosen


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__.splitlines()[0])
    parser.add_argument(
        "-i",
        "--implementation",
        action="append",
        metavar="TEXT",
        help="only those with TEXT in their label; repeatable",
    )
    parser.add_argument("-g", "--group", action="append", metavar="TEXT", help="only groups with TEXT in their name")
    parser.add_argument(
        "--all", action="store_true", help="compile for every case, too: takes the better part of an hour"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the verdicts to FILE")
    parser.add_argument("--processes", type=int, metavar="N", help="processes to use; by default one for each core")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
