"""What is asked of the loss, and the check that a caller asked for something that there is."""

from typing import Literal, NamedTuple, get_args

Reduction = Literal["none", "mean", "sum", "batchmean"]
Convention = Literal["oneflow", "torch", "limit"]

_REDUCTIONS, _CONVENTIONS = get_args(Reduction), get_args(Convention)


class Options(NamedTuple):
    """The choices that shape the loss; :func:`kldiv_xp.kl_div` says what they mean."""

    reduction: Reduction
    log_target: bool
    convention: Convention


def checked(reduction: Reduction, log_target: bool, convention: Convention) -> Options:
    """The options; raise for one that is not among the documented choices."""
    _check_choice("reduction", reduction, _REDUCTIONS)
    _check_choice("convention", convention, _CONVENTIONS)
    if not isinstance(log_target, bool):
        raise TypeError(f"log_target must be True or False, got {log_target!r} of type {type_name(log_target)}")
    return Options(reduction, log_target, convention)


def _check_choice(name: str, given: object, choices: tuple[str, ...]) -> None:
    if not (isinstance(given, str) and given in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {given!r}")


def type_name(x: object) -> str:
    """Type of ``x`` as error messages name it."""
    return f"{type(x).__module__}.{type(x).__qualname__}".removeprefix("builtins.")
