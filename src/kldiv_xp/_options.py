"""The choices that shape the loss, and the check that a caller made one of them."""

from typing import Literal, get_args

Reduction = Literal["none", "mean", "sum", "batchmean"]
Convention = Literal["oneflow", "torch", "limit"]


_REDUCTIONS, _CONVENTIONS = get_args(Reduction), get_args(Convention)


def check_options(reduction: str, log_target: bool, convention: str) -> None:
    """Raise for an option that is not one of the documented choices."""
    _check_choice("reduction", reduction, _REDUCTIONS)
    _check_choice("convention", convention, _CONVENTIONS)
    if not isinstance(log_target, bool):
        raise TypeError(f"log_target must be True or False, got {log_target!r} of type {type_name(log_target)}")


def _check_choice(name: str, given: object, choices: tuple[str, ...]) -> None:
    if not (isinstance(given, str) and given in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {given!r}")


def type_name(x: object) -> str:
    """Type of ``x`` as error messages name it."""
    return f"{type(x).__module__}.{type(x).__qualname__}".removeprefix("builtins.")
