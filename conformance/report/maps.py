"""The maps of the documentation: what conventions and frameworks give at the special values, as SVG images.

``python -m conformance.report.maps docs/images`` draws them, from what is installed and the committed recordings.
"""

import argparse
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from conformance.implementations import reference
from conformance.output import check_outputs, command, write_text
from conformance.record import load_corpus
from conformance.report.contents import QUANTITIES, Run, convention
from conformance.report.grids import grids_as_json
from conformance.run import grids_of, judge_implementation, known_implementations

DTYPE, KIND = "float32", "target"
DRAWN = {"loss": "edges-loss.svg", "target": "edges-gradient-by-target.svg"}
"""The quantities, with the names of their files."""
PANELS = (
    ("kldiv_xp numpy [oneflow]", "kldiv_xp numpy [torch]", "kldiv_xp numpy [limit]"),
    ("oneflow.nn.KLDivLoss ", "torch.nn.KLDivLoss 2", "optax.losses.kl_divergence "),
    ("torch.nn.KLDivLoss 1", "scipy.special.rel_entr ", "keras.losses.kl_divergence "),
)
"""How the labels of the implementations begin, row by row."""

CELL, GAP, LEFT, TOP = 11, 16, 64, 40
"""Sizes in pixels: of a cell, between the panels, and of the margins that hold target labels and titles."""
CLASSES = {
    "zero": ("#e4e7eb", "zero"),
    "number": ("#a9cdf0", "another number"),
    "inf": ("#f39a34", "∞"),
    "ninf": ("#9273cf", "\N{MINUS SIGN}∞"),
    "nan": ("#8f0f43", "NaN"),
}
"""Colour and name of each class of values."""
OF_VALUE = {"nan": "nan", "inf": "inf", "-inf": "ninf", "0": "zero", "-0": "zero"}

Panel = tuple[str, Sequence[str], str]
"""Label of an implementation, its values, and ``1`` for each that is not the reference's, else ``0``."""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the maps, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m conformance.report.maps", description="Draw the maps of the special values as SVG images."
    )
    parser.add_argument("folder", type=Path, help="where to write them")
    folder = parser.parse_args(arguments).folder
    check_outputs(parser, [folder / name for name in DRAWN.values()], [])
    grids = grids_as_json(_run())
    for quantity, name in DRAWN.items():
        panels = _panels(grids["views"][f"{DTYPE}/{KIND}/{quantity}"]["maps"])
        write_text(folder / name, "\n".join(_image(QUANTITIES[quantity], grids["axes"][DTYPE], panels)) + "\n")
        print(folder / name)
    return 0


def _run() -> Run:
    """The implementations of the panels over the one grid."""
    known = known_implementations()
    wanted = tuple(start for row in PANELS for start in row)
    cases = [case for case in load_corpus().cases if case.id == f"edge/grid/{DTYPE}/{KIND}/none"]
    judgements = [judge_implementation(i, cases) for label, i in known.items() if label.startswith(wanted)]
    return Run(judgements, ("edge",), reference().label, load_corpus().digest, grids=grids_of(reference()))


def _panels(maps: Sequence[dict[str, object]]) -> Iterator[Iterator[Panel | None]]:
    """Rows of panels; ``None`` for an implementation that has no such values."""
    by_label = {
        str(name): (str(name), str(one["values"]).split(" "), str(one["differs"]))
        for one in maps
        for name in _listed(one["names"])
    }
    for row in PANELS:
        yield (next((panel for label, panel in by_label.items() if label.startswith(start)), None) for start in row)


def _listed(names: object) -> Sequence[object]:
    return names if isinstance(names, list) else []


def _image(quantity: str, axis: Sequence[str], rows: Iterator[Iterator[Panel | None]]) -> Iterator[str]:
    side = CELL * len(axis)
    columns, lines = len(PANELS[0]), len(PANELS)
    width = LEFT + columns * (side + GAP)
    height = lines * (side + TOP) + 96
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="system-ui, Segoe UI, Helvetica Neue, Arial, sans-serif" font-size="11" fill="#22262c">'
    )
    yield f"<title>The {quantity} at the special values: targets by inputs</title>"
    lines_between = "".join(f"M0 {i * CELL - 0.5}h{side}M{i * CELL - 0.5} 0v{side}" for i in range(1, len(axis)))
    yield f'<defs><path id="lines" stroke="#fff" d="{lines_between}"/></defs>'
    yield f'<rect width="{width}" height="{height}" rx="6" fill="#fff"/>'
    for line, row in enumerate(rows):
        top = TOP + line * (side + TOP)
        yield _labels(axis, LEFT - 6, top + CELL - 2, 0, CELL)
        for column, (panel, start) in enumerate(zip(row, PANELS[line], strict=True)):
            left = LEFT + column * (side + GAP)
            yield f'<g transform="translate({left} {top})">'
            yield from _panel(start, panel, len(axis))
            yield "</g>"
    bottom = lines * (side + TOP) + 4
    for column in range(columns):
        left = LEFT + column * (side + GAP)
        places = enumerate(axis)
        yield "".join(
            f'<text transform="translate({left + i * CELL + 9} {bottom}) rotate(-90)" text-anchor="end"'
            f' font-size="9">{label}</text>'
            for i, label in places
        )
    yield f'<text x="{LEFT - 6}" y="{bottom + 8}" text-anchor="end" fill="#5c6570" font-size="9">input →</text>'
    yield f'<text x="{LEFT - 6}" y="{TOP - 6}" text-anchor="end" fill="#5c6570" font-size="9">target ↓</text>'
    yield from _key(bottom + 60)
    yield "</svg>"


def _labels(axis: Sequence[str], x: int, y: int, across: int, down: int) -> str:
    return "".join(
        f'<text x="{x + i * across}" y="{y + i * down}" text-anchor="end" font-size="9">{label}</text>'
        for i, label in enumerate(axis)
    )


def _panel(start: str, panel: Panel | None, size: int) -> Iterator[str]:
    side = CELL * size
    if panel is None:
        yield f'<text y="-8" font-weight="600">{escape(start.strip())}</text>'
        yield f'<rect width="{side}" height="{side}" fill="none" stroke="#dde1e6"/>'
        yield f'<text x="{side // 2}" y="{side // 2}" text-anchor="middle" fill="#5c6570">no gradient</text>'
        return
    label, values, differs = panel
    yield f'<text y="-8" font-weight="600">{escape(_title(label))}</text>'
    kinds = [OF_VALUE.get(value, "number") for value in values]
    for kind, (colour, _) in CLASSES.items():
        path = "".join(_bars([found == kind for found in kinds], size))
        if path:
            yield f'<path fill="{colour}" d="{path}"/>'
    yield '<use href="#lines"/>'
    marked = [divmod(at, size) for at, mark in enumerate(differs) if mark == "1"]
    if marked:
        path = "".join(f"M{j * CELL + 4} {i * CELL + 5}h2" for i, j in marked)
        yield f'<path stroke="#fff" stroke-width="4" stroke-linecap="round" d="{path}"/>'
        yield f'<path stroke="#111" stroke-width="2" stroke-linecap="round" d="{path}"/>'


def _title(label: str) -> str:
    name = convention(label)
    return f'kldiv_xp, convention="{name}"' if name else label


def _bars(wanted: Sequence[bool], size: int) -> Iterator[str]:
    """The wanted cells as parts of a path: neighbours in a row are one bar."""
    for i in range(size):
        j = 0
        for found, run in groupby(wanted[i * size : (i + 1) * size]):
            length = len(list(run))
            if found:
                yield f"M{j * CELL} {i * CELL}h{length * CELL}v{CELL}h{-length * CELL}z"
            j += length


def _key(y: int) -> Iterator[str]:
    x = LEFT
    for colour, name in CLASSES.values():
        yield f'<rect x="{x}" y="{y}" width="11" height="11" fill="{colour}"/>'
        yield f'<text x="{x + 16}" y="{y + 10}">{name}</text>'
        x += 40 + 6 * len(name)
    yield f'<path stroke="#111" stroke-width="2" stroke-linecap="round" d="M{x + 4} {y + 6}h2"/>'
    yield f'<text x="{x + 14}" y="{y + 10}">differs from {escape(reference().label)}</text>'


if __name__ == "__main__":
    raise SystemExit(main())
