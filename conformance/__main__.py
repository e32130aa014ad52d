"""Hold implementations against torch.nn.KLDivLoss: ``python -m conformance``."""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from conformance.implementations import corpora, reference
from conformance.output import STDOUT, OutputError, check_outputs, command, write_text
from conformance.record import Implementation
from conformance.recording import Recorded, RecordingError
from conformance.report.contents import Run
from conformance.report.formats import FORMATS, format_of, render
from conformance.report.terminal import print_report, summary
from conformance.run import (
    Judgement,
    Question,
    every_case,
    grids_of,
    judge_all,
    known_implementations,
    recorded_implementations,
    unused_entries,
)

COMMANDS = ("run", "judge", "report")
SLOW, SLOWEST = 3, 12
"""Time relative to an eager implementation: of one that schedules or compiles, and of one with a C++ compiler.

For the time left.
"""
EVERY = 30.0
"""Seconds between two lines about the progress, where no bar is seen."""
HERE = Path(__file__).parent
OWN_FILES = (".npz", ".py", ".j2", ".css", ".js")
"""Endings of the files of the suite that a run reads."""
EXIT_STATUS = """\
exit status:
  0  every difference is one that the ledger states
  1  something differs that the ledger does not explain, or an entry of the ledger explains nothing
  2  bad arguments, a recording that cannot be read, a report that cannot be written, or nothing was judged
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run, report, and return the exit status."""
    started = time.monotonic()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["fuzz"]:
        from conformance import fuzz  # Hypothesis takes a second to import

        return fuzz.main(given[1:])
    if not given or given[0] not in (*COMMANDS, "-h", "--help"):
        given.insert(0, "run")
    parser = _parser()
    options = parser.parse_args(given)
    reports = _reports(options)
    # If the report goes to the standard output, everything else goes to the standard error.
    console = Console(width=None if sys.stdout.isatty() else 200, stderr=any(path == STDOUT for path, _ in reports))
    try:
        run = _judge(parser, options, reports, console)
    except RecordingError as error:
        parser.error(str(error))
    # Write the files before printing: the terminal may be gone.
    written, failures = _write(run, reports)
    if options.command != "report":
        print_report(run, console, verbose=options.verbose)
    for line in written:
        console.print(line, highlight=False, markup=False)
    console.print(f"{summary(run)} in {time.monotonic() - started:.0f} s", highlight=False)
    console.print(f"{'passes' if run.passes else 'FAILS'}: {run.conclusion}", highlight=False)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    if not run.judged:
        console.print("nothing was judged")
    if failures or not run.judged:
        return 2
    return 0 if run.passes else 1


def _reports(options: argparse.Namespace) -> list[tuple[Path, str]]:
    """Files to write, with their formats."""
    if options.command == "report":
        return [(options.output or Path(f"build/conformance{FORMATS[options.format]}"), options.format)]
    return [(path, format_of(path)) for path in options.write]


def _judge(
    parser: argparse.ArgumentParser, options: argparse.Namespace, reports: list[tuple[Path, str]], console: Console
) -> Run:
    recorded = recorded_implementations(options.files)
    known = known_implementations(recorded)
    against = _reference(parser, options.reference, list(known)) if options.reference else reference().label
    reason = known[against].not_run()
    if reason is not None:
        parser.error(f"{against} cannot be the reference here: {reason}")
    # Comparing the reference with itself shows nothing.
    candidates = [label for label in [i.label for i in recorded] or known if label != against]
    labels = _chosen(parser, "implementation", options.implementation, candidates)
    groups = _chosen(parser, "group", options.group, list(dict.fromkeys(case.group for case in every_case())))
    own = (path for path in HERE.rglob("*") if path.suffix in OWN_FILES)
    check_outputs(parser, [path for path, _ in reports], [*options.files, *own])  # now, and not after minutes of work
    question = Question(tuple(labels), tuple(groups), against, tuple(options.files), everything=options.all)
    count = sum(case.group in groups for case in every_case())
    digest = " and ".join(corpus.digest[:12] for corpus in corpora())
    console.print(f"corpora {digest}: {count} cases; {len(labels)} implementations", highlight=False)
    units = {label: count * _slowness(known[label]) for label in labels}
    judgements = _judge_with_progress(question, units, count, options.processes, console)
    full = not (options.files or options.implementation or options.group or options.reference)
    return Run(
        judgements=tuple(judgements),
        groups=tuple(groups),
        reference=against,
        digest=digest,
        unused=tuple(unused_entries(judgements)) if full else (),
        grids=grids_of(known[against]),
    )


def _judge_with_progress(
    question: Question, units: Mapping[str, int], count: int, processes: int | None, console: Console
) -> list[Judgement]:
    """Judge, and show the progress: ``units`` are those of all cases of an implementation."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    # By the speed of the last 30 s, the default, the time left is that of one implementation; of more of them, rough.
    with Progress(*columns, console=console, transient=True, speed_estimate_period=300) as bars:
        bar = bars.add_task("judging", total=sum(units.values()))
        printed = time.monotonic()

        def advance(label: str, number: int) -> None:
            nonlocal printed
            bars.update(bar, advance=number * units[label] / count)
            if not console.is_terminal and time.monotonic() > printed + EVERY:
                printed = time.monotonic()
                task = bars.tasks[bar]
                left = f", about {task.time_remaining:.0f} s left" if task.time_remaining else ""
                console.print(f"{task.percentage:.0f} % judged{left}", highlight=False)

        return judge_all(question, processes=processes, progress=advance)


def _slowness(implementation: Implementation) -> int:
    if implementation.compiled and implementation.library == "torch" and not isinstance(implementation, Recorded):
        return SLOWEST
    return SLOW if implementation.slow_to_start else 1


def _write(run: Run, reports: list[tuple[Path, str]]) -> tuple[list[str], list[OutputError]]:
    """Write the reports; a line for each file that was written, and the errors of the others."""
    written, failures = [], []
    for path, format in reports:
        try:
            write_text(path, render(run, format))
        except OutputError as error:
            failures.append(error)
        else:
            written += [f"{format}: {path}"] if path != STDOUT else []
    return written, failures


def _chosen(parser: argparse.ArgumentParser, kind: str, wanted: Sequence[str] | None, known: list[str]) -> list[str]:
    for part in wanted or ():
        if not any(part in name for name in known):
            parser.error(f"no {kind} matches {part!r}; there are:\n  " + "\n  ".join(known))
    return [name for name in known if not wanted or any(part in name for part in wanted)]


def _reference(parser: argparse.ArgumentParser, wanted: str, known: list[str]) -> str:
    matching = [wanted] if wanted in known else _chosen(parser, "implementation", [wanted], known)
    if len(matching) > 1:
        parser.error(f"{wanted!r} is the name of more than one implementation:\n  " + "\n  ".join(matching))
    return matching[0]


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _report_file(text: str) -> Path:
    path = Path(text)
    try:
        format_of(path)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path


def _output_file(text: str) -> Path:
    path = Path(text)
    if path.suffix == ".npz":  # *.npz after --output would overwrite a recording
        raise argparse.ArgumentTypeError(f"{path} is named like a recording; name a file for the report")
    return path


def _parser() -> argparse.ArgumentParser:
    formatting: Any = {"epilog": EXIT_STATUS, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(
        prog="python -m conformance",
        description="Hold implementations of the loss against torch.nn.KLDivLoss. Without a command: run.",
        **formatting,
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "-i", "--implementation", action="append", metavar="TEXT", help="only those with TEXT in their name; repeatable"
    )
    shared.add_argument(
        "-g", "--group", action="append", metavar="TEXT", help="only groups with TEXT in their name; repeatable"
    )
    shared.add_argument("--reference", metavar="TEXT", help="reference to compare with, instead of torch.nn.KLDivLoss")
    shared.add_argument(
        "--all",
        action="store_true",
        help="run every case, also those that take long: hours",
    )
    shared.add_argument(
        "--verbose", action="store_true", help="print every implementation by groups of cases, and the ledger"
    )
    shared.add_argument("--processes", type=_at_least_one, metavar="N", help="default: one for each core")
    writing = argparse.ArgumentParser(add_help=False)
    writing.add_argument(
        "--write",
        action="append",
        default=[],
        type=_report_file,
        metavar="FILE",
        help=f"also write a report, in the format of FILE's ending: {', '.join(FORMATS.values())}; repeatable",
    )
    commands = parser.add_subparsers(dest="command", metavar="{run,judge,report}", required=True)
    run = commands.add_parser(
        "run", parents=[shared, writing], help="judge what is installed and what was recorded", **formatting
    )
    run.set_defaults(files=[])
    judge = commands.add_parser(
        "judge", parents=[shared, writing], help="judge recordings made elsewhere", **formatting
    )
    judge.add_argument("files", nargs="+", type=Path, metavar="FILE", help="recording of conformance/record.py")
    report = commands.add_parser("report", parents=[shared], help="judge, and write a report to a file", **formatting)
    report.add_argument("files", nargs="*", type=Path, metavar="FILE", help="only these recordings")
    report.add_argument("--format", choices=list(FORMATS), default="html")
    report.add_argument(
        "--output", type=_output_file, metavar="FILE", help="default: build/conformance.html, ...; - for stdout"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
