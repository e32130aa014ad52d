"""Checks of arguments for every library: shapes, ``argnums``, ``cotangent``.

A lazy library may know some sizes only after computing: such a size is ``None`` or NaN. The functions here compare the
known sizes. A backend's ``of_equal_shape`` handles the others.
"""

from collections.abc import Iterable
from numbers import Real
from typing import Any, Protocol

from kldiv_xp._options import Reduction

Shape = tuple[Any, ...]


class ArrayLike(Protocol):
    """What a type checker asks of an array: lists and numbers do not have it."""

    @property
    def shape(self) -> Any:
        """Sizes."""

    @property
    def dtype(self) -> Any:
        """Type of the elements."""


def all_known(sizes: Shape) -> bool:
    """Whether all sizes are known without computing."""
    return all(size is not None and size == size for size in sizes)  # NaN is not equal to itself


def check_shapes(shape: Shape, other: Shape, *, of_probabilities: bool = True) -> None:
    """Raise if input and target differ in shape: broadcasting ``(N, 1)`` against ``(N,)`` is a bug."""
    if not _may_be_equal(shape, other):
        what = "reshape one, or broadcast it explicitly"
        axes = {axis for axis in (1, len(shape) - 1) if 0 <= axis < len(shape) and shape[axis] != 1}
        if of_probabilities and any(other == shape_of_rows(shape, axis) for axis in axes):
            what = f"convert class indices to one-hot probabilities, or {what}"
        raise ValueError(f"input and target must have the same shape, got {shape} and {other}; {what}")


def check_axis(axis: int, shape: Shape) -> int:
    """Axis of the classes, counted from 0; raise for an input of ``shape`` that has no such axis."""
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"axis={axis} must be an axis of the input, whose shape is {shape}")
    return axis % len(shape)


def shape_of_rows(shape: Shape, axis: int | None) -> Shape:
    """``shape`` without the axis of the classes, if there is one."""
    return shape if axis is None else shape[:axis] + shape[axis + 1 :]


def check_where(where: Shape, shape: Shape, of: str = "the input's shape") -> None:
    """Raise for a mask that does not broadcast against ``shape``."""
    pairs = list(zip(where[::-1], shape[::-1], strict=False))
    if len(where) > len(shape) or not all(size == 1 or _may_be_equal((size,), (other,)) for size, other in pairs):
        raise ValueError(
            f"where must broadcast against {of} {shape}, got {where}; give it a size of 1 along the axes"
            " that it does not depend on"
        )


def check_cotangent(cotangent: Any, reduction: Reduction, shape: Shape) -> None:
    """Raise unless ``cotangent`` has the shape of the loss, which is ``shape`` if it is not reduced."""
    if cotangent is None and reduction != "none":
        return
    wanted = shape if reduction == "none" else ()
    given = None if cotangent is None else tuple(getattr(cotangent, "shape", ()))
    if given is None or not _may_be_equal(given, wanted):
        raise ValueError(
            f"cotangent must have the loss's shape, {wanted} for reduction={reduction!r}; got"
            f" {'no cotangent' if given is None else given}. An array of ones gives the derivative itself"
        )


def is_number(cotangent: object) -> bool:
    """Whether the upstream gradient is a number or missing, rather than an array."""
    return cotangent is None or isinstance(cotangent, Real)


def wanted_gradients(argnums: object) -> tuple[int, ...]:
    """Arguments to differentiate by: 0 for the input, 1 for the target."""
    wanted = argnums if isinstance(argnums, tuple) else (argnums,)
    if not wanted or any(type(i) is not int or i not in (0, 1) for i in wanted) or len(set(wanted)) < len(wanted):
        raise ValueError(f"argnums must be 0 (input), 1 (target) or (0, 1); got {argnums!r}")
    return wanted


def listed(names: Iterable[str]) -> str:
    """Names joined for a sentence: ``a, b and c``."""
    *first, last = names
    return f"{', '.join(first)} and {last}"


def _may_be_equal(shape: Shape, other: Shape) -> bool:
    """Whether two shapes are equal in all sizes that both know."""
    if shape == other:
        return True
    pairs = zip(shape, other, strict=False)
    return len(shape) == len(other) and all(not all_known(sizes) or sizes[0] == sizes[1] for sizes in pairs)
