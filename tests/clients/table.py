"""Write the table of clients in the documentation from what ``make clients`` found."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

START, END = "<!-- clients: written by `make clients` -->", "<!-- end of clients -->"


PROGRAMS = Path(__file__).parent / "programs"


def _row(result: Mapping[str, Any]) -> str:
    client = ", ".join(f"{package} {number}" for package, number in result.get("versions", {}).items())
    tests = ", ".join(f"{number:,} {outcome}" for outcome, number in result.get("tests", {}).items())
    if tests and not result["tests that differ"]:
        tests += ", as before"
    step = f"{result['step']['ratio']:.2f}" if "step" in result else "-"
    same = "; ".join(result["problems"])
    if not same:
        same = f"same, within {result['difference']:.0e}" if result["difference"] else "identical"
    about = result.get("licence", "-"), result.get("what", "-")
    return f"| {' | '.join((client or result['client'], *about, same, tests or '-', step))} |"


def _lines(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield START
    yield ""
    yield "| client | licence | what runs | figures | its own tests | time of a step, after / before |"
    yield "| --- | --- | --- | --- | --- | --- |"
    yield from map(_row, results)
    yield ""
    for result in results:
        if result.get("excluded"):
            yield f"Left out of {', '.join(result['versions'])} (`{result['client']}.py`):"
            yield ""
            yield from (f"- {what}" for what in result["excluded"])
            yield ""
    yield END


def _result(client: str, folder: Path) -> dict[str, Any]:
    path = folder / client / "result.json"
    if not path.exists():
        return {"client": client, "problems": ["did not run"]}
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table between its markers; return 1 if a client differs or did not run."""
    folder, page = map(Path, sys.argv[1:] if arguments is None else arguments)
    before, _, rest = page.read_text().partition(START)
    _, _, after = rest.partition(END)
    results = [_result(path.stem, folder) for path in sorted(PROGRAMS.glob("*.txt"))]
    page.write_text(before + "\n".join(_lines(results)) + after)
    for result in results:
        print(f"{result['client']}: {'; '.join(result['problems']) or 'the same with both losses'}")
    return 1 if any(result["problems"] for result in results) else 0


if __name__ == "__main__":
    raise SystemExit(main())
