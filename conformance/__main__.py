"""Hold every implementation against torch.nn.KLDivLoss: ``python -m conformance``.

Exits with 0 if every difference is one that the ledger states, with 1 if anything differs or an entry of the ledger
explains nothing, and with 2 if nothing was judged.
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
    parser = _parser()
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)
    cases = corpus.load()
    labels = _chosen(parser, "implementation", options.implementation, [i.label for i in every_implementation()])
    groups = _chosen(parser, "group", options.group, list(cases.groups))
    if options.json:  # now, and not after minutes of work
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.touch()
    count = sum(case.group in groups for case in cases.cases)
    console.print(f"corpus {cases.digest[:12]}: {count} cases; {len(labels)} implementations", highlight=False)
    judgements = _judge_with_progress(labels, groups, count, options, console)
    full = not (options.implementation or options.group)
    unused = unused_entries(judgements) if full else []
    print_report(judgements, groups, f"{reference().label} ({reference().version()})", console)
    if options.json:
        report = as_json(judgements, groups, reference().label, cases.digest, unused)
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
        console.print(f"JSON report: {options.json}", highlight=False)
    console.print(f"{summary(judgements, unused)} in {time.monotonic() - started:.0f} s", highlight=False)
    if not any(judgement.comparisons for judgement in judgements):
        console.print("nothing was judged")
        return 2
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
                    console.print(f"done: {label}", highlight=False, markup=False)

        return judge_all(labels, groups, everything=options.all, processes=options.processes, progress=advance)


def _chosen(parser: argparse.ArgumentParser, kind: str, wanted: Sequence[str] | None, known: list[str]) -> list[str]:
    for part in wanted or ():
        if not any(part in name for name in known):
            parser.error(f"no {kind} matches {part!r}; there are:\n  " + "\n  ".join(known))
    return [name for name in known if not wanted or any(part in name for part in wanted)]


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m conformance",
        description="Hold every implementation against torch.nn.KLDivLoss.",
        epilog="Exit status: 0 if every difference is one that the ledger states, 1 if not, 2 if nothing was judged.",
    )
    parser.add_argument(
        "-i", "--implementation", action="append", metavar="TEXT", help="only those with TEXT in their name; repeatable"
    )
    parser.add_argument(
        "-g", "--group", action="append", metavar="TEXT", help="only groups with TEXT in their name; repeatable"
    )
    parser.add_argument("--all", action="store_true", help="torch.compile for every case, too: much longer")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the verdicts to FILE")
    parser.add_argument(
        "--processes", type=_at_least_one, metavar="N", help="processes to use; by default one for each core"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
