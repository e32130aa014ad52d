"""The table of what is supported, from the figures of a full run: ``python -m conformance.support README.md``.

It is written between two marks in the file. With ``--check`` nothing is written, and the exit status is 1 if the table
in the file is not that of the run.
"""

import argparse
import difflib
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

RUN = Path("build/conformance.json")
BEGIN, END = "<!-- support: written by `make support` -->", "<!-- end of support -->"

_HEAD = ("`kldiv_xp` on", "version", "loss", "gradients", "lazy", "distributed", "verdict")
_GRADIENTS = ("input", "target")

Report = Mapping[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table, or check it, and return the exit status."""
    options = _options(arguments)
    if not options.run.exists():
        sys.exit(f"there is no {options.run}: run `make conformance` first")
    path: Path = options.file
    present = path.read_text(encoding="utf-8")
    wanted = with_table(present, json.loads(options.run.read_text(encoding="utf-8")))
    if not options.check:
        path.write_text(wanted, encoding="utf-8")
    elif present != wanted:
        here, there = present.splitlines(keepends=True), wanted.splitlines(keepends=True)
        sys.stdout.writelines(difflib.unified_diff(here, there, str(path), str(options.run), n=0))
        print(f"the table in {path} is not that of {options.run}: run `make support`")
        return 1
    return 0


def with_table(text: str, report: Report) -> str:
    """Text with the table of a report between the marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"there is no place for the table: no {BEGIN} before {END}")
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
    support = implementations[0]["support"]
    judged = implementations[0]["not_run"] is None
    gradients = _figures(implementations, _GRADIENTS)
    yield name
    yield implementations[0]["version"].rpartition(" ")[2]
    yield _figures(implementations, ("loss",)) if judged else ""
    yield f"{support['gradients_by']}: {gradients}" if judged and gradients else ""
    yield "yes" if support["lazy"] else ""
    yield support["distributed"]
    yield _verdict(implementations)


def _verdict(implementations: Sequence[Report]) -> str:
    if reason := implementations[0]["not_run"]:
        return f"*not run*: {reason}"
    if differing := _total(implementations, ("loss", *_GRADIENTS), "differs"):
        return f"**{differing:,} differ**"
    sampled = _total(implementations, ("loss", *_GRADIENTS), "not run") > 0
    return "agrees, on a sample" if sampled else "agrees"


def _figures(implementations: Sequence[Report], quantities: Iterable[str]) -> str:
    """Comparisons that agree and, behind a plus, that deviate as the ledger states."""
    agrees, deviates = (_total(implementations, quantities, verdict) for verdict in ("agrees", "deviates"))
    return f"{agrees:,}" + (f" +{deviates:,}" if deviates else "") if agrees + deviates else ""


def _total(implementations: Iterable[Report], quantities: Iterable[str], verdict: str) -> int:
    wanted = tuple(quantities)
    return sum(i["quantities"][quantity][verdict] for i in implementations for quantity in wanted)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m conformance.support", description="Write the table of support.")
    parser.add_argument("file", type=Path, help="Markdown file with the two marks")
    parser.add_argument("--run", type=Path, default=RUN, metavar="FILE", help=f"JSON of a full run; default: {RUN}")
    parser.add_argument("--check", action="store_true", help="only say whether the table is that of the run")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
