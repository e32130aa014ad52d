"""The edge grids of the page. Implementations with the same deviations from the reference share one map."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from conformance.build_corpus import special_values
from conformance.elements import Elements
from conformance.ledger import Mask
from conformance.record import Values
from conformance.report.contents import QUANTITIES, Run, convention, foreign_first
from conformance.run import Grids
from conformance.statement import errors_in
from conformance.tolerance import tolerance

DTYPES = ("float32", "float64")
KINDS = ("target", "log_target")
ALWAYS_SHOWN = "kldiv_xp numpy ["
"""Start of the labels of ``kldiv_xp`` that the page shows at first; its other backends are hidden."""


@dataclass(frozen=True)
class Map:
    """Values of several implementations with the same classes of values; the values are those of the first."""

    names: list[str]
    values: Values
    differs: Mask
    """Where the values differ from the reference by more than the tolerance."""

    @property
    def foreign(self) -> bool:
        """Whether the map includes a foreign implementation."""
        return any(convention(name) is None for name in self.names)

    @property
    def shown(self) -> bool:
        """Whether the page shows the map at first."""
        return self.foreign or any(name.startswith(ALWAYS_SHOWN) for name in self.names)


@dataclass(frozen=True)
class GridView:
    """All maps of one quantity over one grid, and the implementations without such values.

    The map of the reference comes first, then those with foreign implementations, then those of ``kldiv_xp`` alone.
    Maps with fewer differing values come first.
    """

    maps: list[Map] = field(default_factory=list)
    without: list[str] = field(default_factory=list)


def grids_as_json(run: Run) -> dict[str, Any]:
    """Axes and maps of every grid for which the reference has values, with the special values in ascending order."""
    views = {
        f"{dtype}/{kind}/{quantity}": {
            "maps": [
                {
                    "names": one.names,
                    "shown": which == 0 or one.shown,
                    "values": " ".join(_number(value) for value in one.values.flat),
                    "differs": "".join("01"[int(mark)] for mark in one.differs.flat),
                }
                for which, one in enumerate(view.maps)
            ],
            "without": view.without,
        }
        for dtype, kind, quantity, view in _views(run)
    }
    axes = {dtype: [axis_label(value) for value in special_values(dtype)[_ascending(dtype)]] for dtype in DTYPES}
    return {"axes": axes, "views": views}


def axis_label(value: float) -> str:
    """Short name of a special value."""
    if np.isnan(value):
        return "NaN"
    sign = "\N{MINUS SIGN}" if np.signbit(value) else ""
    if np.isinf(value):
        return f"{sign}∞"
    mantissa, _, exponent = f"{abs(value):.1g}".partition("e")
    return f"{sign}{mantissa}e{int(exponent)}" if exponent else f"{sign}{mantissa}"


def _views(run: Run) -> Iterator[tuple[str, str, str, GridView]]:
    for dtype, kind, quantity in product(DTYPES, KINDS, QUANTITIES):
        case = f"edge/grid/{dtype}/{kind}/none"
        reference = _grid(run.grids, case, dtype, quantity)
        if reference is not None:
            yield dtype, kind, quantity, _view(run, case, dtype, quantity, reference)


def _view(run: Run, case: str, dtype: str, quantity: str, reference: Values) -> GridView:
    order = np.ix_(_ascending(dtype), _ascending(dtype))
    bound = _tolerance(dtype, quantity, log_target="/log_target/" in case)[order]
    wanted = reference[order]
    first = Map([run.reference], wanted, np.zeros(wanted.shape, np.bool_))
    maps, without = {_pattern(first, wanted): first}, []
    for judgement in foreign_first(run.judgements):
        values = _grid(judgement.grids, case, dtype, quantity)
        if values is None:
            without.append(judgement.label)
        else:
            one = Map([judgement.label], values[order], _differs(values[order], wanted, bound))
            maps.setdefault(_pattern(one, wanted), Map([], one.values, one.differs)).names.append(judgement.label)
    others = sorted(list(maps.values())[1:], key=lambda one: (not one.foreign, int(one.differs.sum())))
    return GridView([first, *others], without)


def _grid(grids: Grids, case: str, dtype: str, quantity: str) -> Values | None:
    """Values over a grid; ``None`` unless they are one real floating-point number for each pair of special values."""
    values, size = grids.get(case, {}).get(quantity), len(special_values(dtype))
    if values is None or values.shape != (size, size) or values.dtype.kind != "f":
        return None
    return values.astype(np.float64)


def _differs(values: Values, wanted: Values, bound: Values) -> Mask:
    with np.errstate(all="ignore"):
        differs: Mask = errors_in(values, wanted, bound) > 1
    return differs


def _pattern(one: Map, wanted: Values) -> bytes:
    """Classes of the values. Agreeing values get the reference's class, so that rounding to zero makes no new map."""
    values = np.where(one.differs, one.values, wanted)
    classes = np.select([np.isnan(values), values == 0, np.isposinf(values), np.isneginf(values)], [1, 2, 3, 4])
    return (classes * 2 + one.differs).astype(np.uint8).tobytes()


def _tolerance(dtype: str, quantity: str, *, log_target: bool) -> Values:
    values = special_values(dtype).astype(np.float64)
    y, x = np.meshgrid(values, values, indexing="ij")
    with np.errstate(all="ignore"):
        return tolerance(Elements(x, y, log_target, dtype, "none", 1, dtype, dtype), quantity)


def _ascending(dtype: str) -> npt.NDArray[np.intp]:
    values = special_values(dtype)
    return np.lexsort((~np.signbit(values), values))  # NaN is last, and minus zero before zero


def _number(value: float) -> str:
    return f"{value:.5g}"
