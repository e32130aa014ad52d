"""What is asked of the loss, and the check that a caller asked for something that there is."""

from itertools import product
from typing import Literal, NamedTuple, get_args

Reduction = Literal["none", "mean", "sum", "batchmean"]
Convention = Literal["oneflow", "torch", "limit"]

_REDUCTIONS, _CONVENTIONS = get_args(Reduction), get_args(Convention)


class Options(NamedTuple):
    """The choices that shape the loss; :func:`kldiv_xp.kl_div` says what they mean."""

    reduction: Reduction
    log_target: bool
    convention: Convention


_ALL = {options: options for options in map(Options._make, product(_REDUCTIONS, (False, True), _CONVENTIONS))}


def checked(reduction: Reduction, log_target: bool, convention: Convention) -> Options:
    """The options; raise for one that is not among the documented choices."""
    try:
        options = _ALL[reduction, log_target, convention]  # type: ignore[index]
    except (KeyError, TypeError):  # what cannot be hashed is no choice either
        options = None
    if options is None or options.log_target is not log_target:  # 1 and 0 are equal to True and False
        _check_choice("reduction", reduction, _REDUCTIONS)
        _check_choice("convention", convention, _CONVENTIONS)
        raise TypeError(f"log_target must be True or False, got {log_target!r} of type {type_name(log_target)}")
    return options


def _check_choice(name: str, given: object, choices: tuple[str, ...]) -> None:
    if not (isinstance(given, str) and given in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {given!r}")


def type_name(x: object) -> str:
    """Type of ``x`` as error messages name it."""
    return f"{type(x).__module__}.{type(x).__qualname__}".removeprefix("builtins.")
