"""The options of the losses, and their checks."""

import math
from itertools import product
from numbers import Real
from typing import Literal, NamedTuple, get_args

Reduction = Literal["none", "mean", "sum", "batchmean"]
Convention = Literal["oneflow", "torch", "limit"]

_REDUCTIONS, _CONVENTIONS = get_args(Reduction), get_args(Convention)


class Options(NamedTuple):
    """The options of the loss; :func:`kldiv_xp.kl_div` documents them."""

    reduction: Reduction
    log_target: bool
    convention: Convention


_ALL = {given: Options(*given) for given in product(_REDUCTIONS, (False, True), _CONVENTIONS)}


def checked(reduction: Reduction, log_target: bool, convention: Convention) -> Options:
    """Options of a call; raise for an undocumented choice."""
    try:
        options = _ALL.get((reduction, log_target, convention))
    except TypeError:  # a value that cannot be hashed is no choice
        options = None
    if options is None or options.log_target is not log_target:  # 1 == True and 0 == False
        _check_choice("reduction", reduction, _REDUCTIONS)
        _check_choice("convention", convention, _CONVENTIONS)
        raise TypeError(f"log_target must be True or False, got {log_target!r} of type {type_name(log_target)}")
    return options


class LogitsOptions(NamedTuple):
    """The options of a divergence between softmaxes; :func:`kldiv_xp.js_div_with_logits` documents them."""

    beta: float
    """Share of ``p`` in the mixture, below 1; 0 is ``KL(p || q)``."""
    exchanged: bool
    """Whether input and target are exchanged: a share of 1 is ``KL(q || p)``."""
    reduction: Reduction
    temperature: float
    axis: int


def checked_from_logits(beta: float, reduction: Reduction, temperature: float, axis: int) -> LogitsOptions:
    """Options of a call from logits; raise for a value out of range. The array decides whether it has the axis."""
    _check_choice("reduction", reduction, _REDUCTIONS)
    if not (_is_real(temperature) and 0.0 < temperature < math.inf):
        raise ValueError(f"temperature must be a positive finite number, got {temperature!r}; 1.0 changes nothing")
    if not (_is_real(beta) and 0.0 <= beta <= 1.0):
        raise ValueError(f"beta must be a number from 0 to 1, got {beta!r}; 0.5 is the symmetric divergence")
    if type(axis) is not int:
        raise TypeError(f"axis must be an int, got {axis!r} of type {type_name(axis)}; the losses take one axis")
    exchanged = beta == 1.0
    return LogitsOptions(0.0 if exchanged else float(beta), exchanged, reduction, float(temperature), axis)


def _is_real(number: object) -> bool:
    return type(number) is float or isinstance(number, Real)  # the first alone is quick


def _check_choice(name: str, given: object, choices: tuple[str, ...]) -> None:
    if not (isinstance(given, str) and given in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {given!r}")


def type_name(x: object) -> str:
    """Name of the type of ``x`` for error messages."""
    return f"{type(x).__module__}.{type(x).__qualname__}".removeprefix("builtins.")
