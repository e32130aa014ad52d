"""Write the table of clients in the documentation from what ``make clients`` found."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

START, END = "<!-- clients: written by `make clients` -->", "<!-- end of clients -->"


def _row(result: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{package} {number}" for package, number in result["versions"].items())
    tests = "-"
    if "tests" in result:
        differ = len(result["tests that differ"])
        tests = f"{result['tests that pass']:,} pass" + (f", {differ:,} differ" if differ else ", as before")
    step = f"{result['step']['ratio']:.2f}" if "step" in result else "-"
    same = "; ".join(result["problems"]) or f"same, within {result['difference']:.0e}"
    return f"| {versions} | {result['licence']} | {result['what']} | {same} | {tests} | {step} |"


def _lines(folder: Path) -> Iterator[str]:
    yield START
    yield ""
    yield "| client | licence | what runs | figures | its own tests | time of a step, after / before |"
    yield "| --- | --- | --- | --- | --- | --- |"
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*/result.json"))]
    yield from map(_row, results)
    yield ""
    for result in results:
        if result.get("excluded"):
            yield f"Left out of {result['client']}:"
            yield ""
            yield from (f"- {what}" for what in result["excluded"])
            yield ""
    yield END


def main() -> None:
    """Write the table between its markers."""
    folder, page = map(Path, sys.argv[1:])
    before, _, rest = page.read_text().partition(START)
    _, _, after = rest.partition(END)
    page.write_text(before + "\n".join(_lines(folder)) + after)


if __name__ == "__main__":
    main()
