"""What may go wrong in ``kldiv_xp``, on NumPy: mistakes that the suite must catch."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pkgutil import resolve_name
from typing import Any
from unittest.mock import patch

import numpy as np

from conformance.implementations.kldiv_xp import numpy, paths
from conformance.record import Implementation

Mutation = Callable[..., Any]


def _negate(function: Mutation) -> Mutation:
    return lambda *args, **in_place: -function(*args, **in_place)


def _one_more_row(function: Mutation) -> Mutation:
    def averaged(backend: Any, value: Any, elements: Any, reduction: str, *options: Any) -> Any:
        if reduction == "batchmean" and elements.ndim:
            return value / (elements.shape[0] + 1)
        return function(backend, value, elements, reduction, *options)

    return averaged


def _one_more_row_counted(function: Mutation) -> Mutation:
    return lambda backend, x, reduction: function(backend, x, reduction) + (reduction == "batchmean" and x.ndim > 0)


def _rows_for_mean(function: Mutation) -> Mutation:
    return lambda backend, value, elements, reduction, *options: function(
        backend, value, elements, "batchmean" if reduction == "mean" else reduction, *options
    )


def _rows_counted_for_mean(function: Mutation) -> Mutation:
    return lambda backend, x, reduction: function(backend, x, "batchmean" if reduction == "mean" else reduction)


def _no_edge(_: object) -> Mutation:
    return lambda *args: None


def _clamped_edge(_: object) -> Mutation:
    """Zero for all that is smaller than OneFlow's bound of the logarithm."""
    return lambda x, y, options, xp: None if options.log_target else y < 1e-20


def _edge_with_nan(function: Mutation) -> Mutation:
    """The accident of old PyTorch: NaN > 0 is false."""
    return lambda x, y, options, xp: function(x, y, options, xp) if options.log_target else ~(y > 0)


def _same_dtype(_: object) -> Mutation:
    return lambda backend, dtype, *x: dtype


def _always(dtype: str) -> Callable[[object], Mutation]:
    return lambda _: lambda *args: np.dtype(dtype)


def _added_up_in(dtype: str) -> Callable[[Mutation], Mutation]:
    def added_up_in(function: Mutation) -> Mutation:
        def added_up(backend: Any, x: Any, y: Any, options: Any) -> Any:
            with patch.object(backend, "float64", np.dtype(dtype)):
                return function(backend, x, y, options)

        return added_up

    return added_up_in


def _without_one(function: Mutation) -> Mutation:
    return lambda x, y, argnum, weight, *options: function(x, y, argnum, weight, *options) - argnum * weight


def _swapped(function: Mutation) -> Mutation:
    return lambda x, y, *options, **in_place: function(y, x, *options)


def _ignores_log_target(function: Mutation) -> Mutation:
    return lambda x, y, options, xp, **in_place: function(x, y, options._replace(log_target=False), xp)


def _binary_logarithm(_: object) -> Mutation:
    return lambda x, y, options, xp, **in_place: xp.exp(y) * (y - x) if options.log_target else y * (xp.log2(y) - x)


def _summed_in_float16(function: Mutation) -> Mutation:
    return lambda backend, value, elements, *options: function(
        backend, elements.sum(dtype=np.float16), elements, *options
    )


def _few_summed_in_float16(function: Mutation) -> Mutation:
    def of_few(*args: Any) -> Any:
        elements, _, on_edge = function(*args)
        return elements, elements.sum(dtype=np.float16).item(), on_edge

    return of_few


def _block_summed_in_float16(function: Mutation) -> Mutation:
    def write_elements(self: Any, out: Any, *args: Any) -> Any:
        _, on_edge = function(self, out, *args)
        return out.sum(dtype=np.float16).item(), on_edge

    return write_elements


def _crash(_: object) -> Mutation:
    """An error, but not the promised one."""

    def crash(shape: Any, other: Any) -> None:
        if shape != other:
            raise ZeroDivisionError

    return crash


def _of_formulas(name: str, mutate: Callable[[Mutation], Mutation]) -> dict[str, Callable[[Mutation], Mutation]]:
    return {f"_formulas.{name}": mutate, f"backends._blocks.{name}": mutate}


def _computing_in(dtype: str) -> dict[str, Callable[[Mutation], Mutation]]:
    return {**dict.fromkeys(_COMPUTING, _always(dtype)), f"{_BLOCKS}._added_up": _added_up_in(dtype)}


_PLAIN, _BLOCKS, _NUMPY = "backends._standard.Backend", "backends._blocks.InBlocks", "backends.numpy.NumPy"
_COMPUTING = (f"{_NUMPY}.computing_dtype", "backends._on_numpy.OnNumPy.adding_dtype")

MUTATIONS: dict[str, dict[str, Callable[[Mutation], Mutation]]] = {
    "a sign": _of_formulas("loss_off_edge", _negate),
    "a sign of the gradients": _of_formulas("derivative_off_edge", _negate),
    "a batch too large by one": {f"{_PLAIN}.averaged": _one_more_row, f"{_BLOCKS}.counted": _one_more_row_counted},
    "mean over the batch only": {f"{_PLAIN}.averaged": _rows_for_mean, f"{_BLOCKS}.counted": _rows_counted_for_mean},
    "a dropped mask": _of_formulas("edge_of", _no_edge),
    "a mask too wide": _of_formulas("edge_of", _clamped_edge),
    "a NaN target swallowed": _of_formulas("edge_of", _edge_with_nan),
    "float16 accumulation": {
        f"{_PLAIN}.averaged": _summed_in_float16,
        f"{_BLOCKS}._of_few": _few_summed_in_float16,
        f"{_BLOCKS}._write_elements": _block_summed_in_float16,
    },
    "float16 not widened": dict.fromkeys(_COMPUTING, _same_dtype),
    "computed in float16": _computing_in("float16"),
    "computed in float32": _computing_in("float32"),
    "a result of another dtype": {f"{_NUMPY}.result_dtype": _always("float64")},
    "a missing term of the gradient": _of_formulas("derivative_off_edge", _without_one),
    "swapped arguments": _of_formulas("loss_off_edge", _swapped),
    "log_target ignored": _of_formulas("loss_off_edge", _ignores_log_target),
    "a crash for a refusal": {"backends._standard.check_shapes": _crash},
    "a binary logarithm": _of_formulas("loss_off_edge", _binary_logarithm),
}
"""By name: the functions that are replaced, in the plain formulas and in the blocks."""

UNSEEN = (("float16 not widened", "kldiv_xp numpy"),)
"""What cannot be seen: in blocks, whose sums are numbers of Python, float16 would be good enough for its tolerance."""


def paths_of(convention: str) -> tuple[Implementation, Implementation]:
    """NumPy arrays, in blocks and by the plain formulas."""
    return numpy.KLDivXP(convention), paths.NumPy(convention, "plain", paths.plain)


@contextmanager
def mutated(mutation: str) -> Iterator[None]:
    """``kldiv_xp`` with a mutation."""
    with ExitStack() as stack:
        for name, mutate in MUTATIONS[mutation].items():
            owner_name, _, function = f"kldiv_xp.{name}".rpartition(".")
            owner = resolve_name(owner_name)
            stack.enter_context(patch.object(owner, function, mutate(getattr(owner, function))))
        yield
