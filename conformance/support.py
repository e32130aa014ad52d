"""The table of what is supported, from the figures of a full run: ``python -m conformance.support README.md``.

It is written between two marks in the file. With ``--check`` nothing is written.
"""

import argparse
import difflib
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from conformance.output import check_outputs, command, write_text

RUN = Path("build/conformance.json")
BEGIN, END = "<!-- support: written by `make support` -->", "<!-- end of support -->"

_HEAD = ("`kldiv_xp` on", "version", "loss", "gradients", "refusals", "lazy", "distributed", "verdict")
_GRADIENTS = ("input", "target")
_EXPLAINED = ("agrees", "deviates")
_EXIT_STATUS = """\
exit status:
  0  the table was written or, with --check, is that of the run
  1  with --check: the table in the file is not that of the run
  2  bad arguments, or a file that cannot be read or written
"""

Report = Mapping[str, Any]


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table, or check it, and return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.run.exists():
        parser.error(f"there is no {options.run}: run `make conformance` first")
    path: Path = options.file
    present = _read(parser, path)
    if not options.check:
        check_outputs(parser, [path], [options.run])
    try:
        wanted = with_table(present, json.loads(_read(parser, options.run)))
    except MissingMarksError as error:
        parser.error(f"{path} has {error}")
    except (KeyError, TypeError, AttributeError, ValueError):
        parser.error(f"{options.run} is no report of a run in JSON: run `make conformance` again")
    if not options.check:
        write_text(path, wanted)
    elif _of_any_processor(present) != _of_any_processor(wanted):
        here, there = present.splitlines(keepends=True), wanted.splitlines(keepends=True)
        sys.stdout.writelines(difflib.unified_diff(here, there, str(path), str(options.run), n=0))
        print(f"the table in {path} is not that of {options.run}: run `make support`")
        return 1
    else:
        print(f"the table in {path} is that of {options.run}")
    return 0


def _of_any_processor(text: str) -> str:
    """Text in which agreeing and deviating comparisons are added up: which of them deviate depends on the processor."""
    return re.sub(r"([\d,]+) \+([\d,]+)", lambda found: str(sum(int(n.replace(",", "")) for n in found.groups())), text)


class MissingMarksError(ValueError):
    """A text without the marks between which the table is written."""


def with_table(text: str, report: Report) -> str:
    """Text with the table of a report between the marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise MissingMarksError(f"no place for the table: no {BEGIN} before {END}")
    return f"{before}{BEGIN}\n\n{table(report)}\n{END}{after}"


def table(report: Report) -> str:
    """The table in Markdown: a row for each library or mode, with the comparisons of all conventions added up."""
    by_name = defaultdict(list)
    for implementation in report["implementations"]:
        if implementation["support"]:
            by_name[implementation["support"]["name"]].append(implementation)
    rows = [_HEAD, ("---",) * len(_HEAD), *(tuple(_row(name, group)) for name, group in by_name.items())]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(name: str, implementations: Sequence[Report]) -> Iterator[str]:
    support, run = implementations[0]["support"], [i for i in implementations if i["not_run"] is None]
    loss, gradients = _figures(run, ("loss",)), _figures(run, _GRADIENTS)
    yield name
    yield (run or implementations)[0]["version"].rpartition(" ")[2]
    yield loss
    yield f"{support['gradients_by']}: {gradients}" if gradients else ""
    yield _agree_and_deviate(*(sum(i["counts"]["refused"][verdict] for i in run) for verdict in _EXPLAINED))
    yield "yes" if support["lazy"] else ""
    yield support["distributed"]
    yield _verdict(implementations)


def _verdict(implementations: Sequence[Report]) -> str:
    """What is to be said of all conventions together; whatever is amiss in one of them comes first."""
    counts = [counts for i in implementations for counts in i["counts"].values()]
    if differing := sum(count["differs"] for count in counts):
        return f"**{differing:,} differ**"
    if reasons := [i["not_run"] for i in implementations if i["not_run"] is not None]:
        return f"*not run*: {reasons[0]}"
    if not _figures(implementations, ("loss",)):
        return "*unsupported*"
    return "agrees, on a sample" if any(count["not run"] for count in counts) else "agrees"


def _figures(implementations: Iterable[Report], quantities: Iterable[str]) -> str:
    counts = [i["quantities"][quantity] for i in implementations for quantity in quantities]
    return _agree_and_deviate(*(sum(count[verdict] for count in counts) for verdict in _EXPLAINED))


def _agree_and_deviate(agree: int, deviate: int) -> str:
    """Comparisons that agree and, behind a plus, that deviate as the ledger states; nothing where there are none."""
    return f"{agree:,}" + (f" +{deviate:,}" if deviate else "") if agree + deviate else ""


def _read(parser: argparse.ArgumentParser, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"cannot read {path}: {getattr(error, 'strerror', None) or error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m conformance.support",
        description="Write the table of support.",
        epilog=_EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="Markdown file with the two marks")
    parser.add_argument("--run", type=Path, default=RUN, metavar="FILE", help=f"JSON of a full run; default: {RUN}")
    parser.add_argument("--check", action="store_true", help="only say whether the table is that of the run")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
