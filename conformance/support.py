"""The support tables, from the figures of a full run: ``python -m conformance.support README.md``.

The program writes a table between two marks in a file: the short one, with a row for each library, or the full one,
with a row for each implementation of ``kldiv_xp``. With ``--check`` it writes nothing.
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
BEGIN_SHORT = "<!-- support in short: written by `make support` -->"

_SHORT_HEAD = ("library", "version", "ways that were judged", "gradients", "comparisons", "verdict")
_HEAD = ("`kldiv_xp` on", "version", "loss", "gradients", "refusals", "lazy", "distributed", "verdict")
_GRADIENTS = ("input", "target")
_EXPLAINED = ("agrees", "deviates")
_EXIT_STATUS = """\
exit status:
  0  the tables were written or, with --check, are those of the run
  1  with --check: the table in a file is not that of the run
  2  bad arguments, or a file that cannot be read or written
"""

Report = Mapping[str, Any]


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables, or check them, and return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.run.exists():
        parser.error(f"there is no {options.run}: run `make conformance` first")
    present = {path: _read(parser, path) for path in options.files}
    if not options.check:
        check_outputs(parser, options.files, [options.run])
    wanted = {}
    for path, text in present.items():
        try:
            wanted[path] = with_table(text, json.loads(_read(parser, options.run)))
        except MissingMarksError as error:
            parser.error(f"{path} has {error}")
        except (KeyError, TypeError, AttributeError, ValueError):
            parser.error(f"{options.run} is no report of a run in JSON: run `make conformance` again")
    status = 0
    for path, text in present.items():
        if not options.check:
            write_text(path, wanted[path])
        elif _of_any_processor(text) != _of_any_processor(wanted[path]):
            here, there = text.splitlines(keepends=True), wanted[path].splitlines(keepends=True)
            sys.stdout.writelines(difflib.unified_diff(here, there, str(path), str(options.run), n=0))
            print(f"the table in {path} is not that of {options.run}: run `make support`")
            status = 1
        else:
            print(f"the table in {path} is that of {options.run}")
    return status


def _of_any_processor(text: str) -> str:
    """Text with the sums of agreeing and deviating comparisons, because which ones deviate depends on the processor."""
    return re.sub(r"([\d,]+) \+([\d,]+)", lambda found: str(sum(int(n.replace(",", "")) for n in found.groups())), text)


class MissingMarksError(ValueError):
    """A text without the marks for the table."""


def with_table(text: str, report: Report) -> str:
    """Text with the table of a report between the marks."""
    for begin, written in ((BEGIN, table), (BEGIN_SHORT, short_table)):
        before, found, rest = text.partition(begin)
        _, end, after = rest.partition(END)
        if found and end:
            return f"{before}{begin}\n\n{written(report)}\n{END}{after}"
    raise MissingMarksError(f"no place for the table: no {BEGIN_SHORT} or {BEGIN} before {END}")


def table(report: Report) -> str:
    """The full table in Markdown: a row for each library or mode, with the comparisons of all conventions added up."""
    return _markdown(_HEAD, (_row(name, group) for name, group in _by_name(report).items()))


def short_table(report: Report) -> str:
    """The short table in Markdown: a row for each library, without our internal variants, whose names have a comma."""
    by_library: dict[str, dict[str, list[Report]]] = defaultdict(dict)
    for name, group in _by_name(report).items():
        if "," not in name:
            by_library[re.split(r"[ .]", name)[0]][name] = group
    return _markdown(_SHORT_HEAD, (_short_row(library, names) for library, names in sorted(by_library.items())))


def _markdown(head: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ("---",) * len(head), *rows))


def _by_name(report: Report) -> Mapping[str, list[Report]]:
    """Implementations of ``kldiv_xp`` in all conventions, by the name of the library or mode."""
    by_name = defaultdict(list)
    for implementation in report["implementations"]:
        if implementation["support"]:
            by_name[implementation["support"]["name"]].append(implementation)
    return by_name


def _short_row(library: str, names: Mapping[str, Sequence[Report]]) -> Iterator[str]:
    run = {name: group for name, group in names.items() if any(i["not_run"] is None for i in group)}
    everything = [implementation for group in (run or names).values() for implementation in group]
    yield library
    yield everything[0]["version"].rpartition(" ")[2]
    yield ", ".join(f"`{name}`" for name in run)
    yield ", ".join(dict.fromkeys(i["support"]["gradients_by"] for i in everything))
    yield _figures((i for i in everything if i["not_run"] is None), ("loss", *_GRADIENTS))
    yield _verdict(everything) + "".join(f"; `{name}` *not run*" for name in names if run and name not in run)


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
    """Verdict over all conventions; a failure in one of them comes first."""
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
    """Number of comparisons that agree and, after a plus, that deviate; empty if there are none."""
    return f"{agree:,}" + (f" +{deviate:,}" if deviate else "") if agree + deviate else ""


def _read(parser: argparse.ArgumentParser, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"cannot read {path}: {getattr(error, 'strerror', None) or error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m conformance.support",
        description="Write the tables of support.",
        epilog=_EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="Markdown file with the two marks")
    parser.add_argument("--run", type=Path, default=RUN, metavar="FILE", help=f"JSON of a full run; default: {RUN}")
    parser.add_argument("--check", action="store_true", help="only check whether the table is that of the run")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
