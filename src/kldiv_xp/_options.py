"""The options of the loss, and their checks."""

from itertools import product
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


def _check_choice(name: str, given: object, choices: tuple[str, ...]) -> None:
    if not (isinstance(given, str) and given in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {given!r}")


def type_name(x: object) -> str:
    """Name of the type of ``x`` for error messages."""
    return f"{type(x).__module__}.{type(x).__qualname__}".removeprefix("builtins.")
