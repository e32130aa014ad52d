"""What is particular to NumPy. Imported with the library, so it must not import numpy itself."""

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any


def quiet(xp: Any) -> AbstractContextManager[Any]:
    """Context without floating-point warnings, for a library that computes with NumPy: what is NaN is meant to be."""
    if xp.__name__ not in ("numpy", "array_api_compat.numpy", "array_api_strict", "sparse"):
        return nullcontext()
    errstate: AbstractContextManager[Any] = sys.modules["numpy"].errstate(all="ignore")
    return errstate


def is_array(x: object) -> bool:
    return isinstance(x, sys.modules["numpy"].ndarray)


def refuse_subclass(name: str, x: Any) -> None:
    """Raise for a subclass with semantics of its own, such as a masked array, which array functions would strip."""
    np = sys.modules["numpy"]
    if not (type(x) in (np.ndarray, np.memmap) or isinstance(x, np.generic)):
        raise TypeError(
            f"{name} is a {type(x).__module__}.{type(x).__qualname__}, a subclass of numpy.ndarray whose meaning would"
            " be lost; pass a plain numpy.ndarray, such as the filled() array of a masked one"
        )
