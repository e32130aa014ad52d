"""What a caller passes, checked and made ready: arrays of one library, on one device, of floating dtype."""

from collections.abc import Iterable
from typing import Any

from array_api_compat import (
    array_namespace,
    is_array_api_obj,
    is_dask_array,
    is_jax_array,
    is_jax_namespace,
    is_numpy_array,
)
from array_api_compat import device as device_of

from kldiv_xp import _dask, _jax, _mlx, _ndonnx, _numpy, _torch
from kldiv_xp._options import type_name
from kldiv_xp._refused import refuse
from kldiv_xp._shapes import may_be_equal, of_equal_shape

Array = Any
DType = Any
Namespace = Any


def take(**given: Any) -> tuple[Namespace, list[Array]]:
    """Arrays that may be computed with together, and their namespace; raise if these may not.

    The keywords are the names of the caller's arguments, for the error messages.
    """
    if all(_torch.is_tensor(x) for x in given.values()):
        for name, x in given.items():
            _torch.refuse_layout(name, x)
        xp, arrays = _torch.namespace(), given
    else:
        xp, arrays = _one_library(given)
    _check_devices(arrays, xp)
    for name, x in arrays.items():
        _check_dtype(name, x.dtype, xp)
    return xp, list(arrays.values())


def of_same_shape(input: Array, target: Array, xp: Namespace) -> Array:
    """The target; raise unless its shape is the input's: broadcasting ``(N, 1)`` against ``(N,)`` is a bug, not a wish.

    Where the sizes are not known yet, its computation raises.
    """
    shape, other = tuple(input.shape), tuple(target.shape)
    if not may_be_equal(shape, other):
        raise ValueError(
            f"input and target must have the same shape, got {shape} and {other};"
            " reshape one, or broadcast it explicitly"
        )
    return of_equal_shape(target, input, xp)


def result_dtype(input: Array, target: Array, xp: Namespace) -> DType:
    """Dtype of the loss: the promoted dtype of the two arrays."""
    if _torch.is_tensor(input):
        return _torch.result_dtype(input, target)
    if _numpy.is_bfloat16(input.dtype, xp) or _numpy.is_bfloat16(target.dtype, xp):
        return _numpy.promoted(input.dtype, target.dtype)
    return xp.result_type(input, target)


def computing_dtype(dtype: DType, xp: Namespace) -> DType:
    """Dtype to compute in: 16 bits are too few for sums, and for the terms that cancel."""
    return xp.float32 if _numpy.is_bfloat16(dtype, xp) or xp.finfo(dtype).bits < 32 else dtype


def adding_dtype(dtype: DType, x: Array, xp: Namespace) -> DType:
    """Dtype to add up in: the terms of close distributions cancel, and NumPy's float32 logarithm errs to one side."""
    computing = computing_dtype(dtype, xp)
    return xp.result_type(computing, xp.float64) if _numpy.computes_in_float64(x, xp) else computing


def _one_library(given: dict[str, Any]) -> tuple[Namespace, dict[str, Array]]:
    for name, x in given.items():
        if is_numpy_array(x):
            _numpy.refuse_subclass(name, x)
            continue
        refuse(name, x)
        if not is_array_api_obj(x):
            raise TypeError(
                f"{name} must be an array (of NumPy, JAX, PyTorch, CuPy, ...), got {type_name(x)};"
                " pass the array that it holds, or make one with the asarray function of your array library"
            )
        if is_dask_array(x):
            _dask.refuse_blocks(name, x)
    types = _listed(map(type_name, given.values()))
    jax_arrays = [x for x in given.values() if is_jax_array(x)]
    if jax_arrays:  # JAX takes NumPy arrays beside its own, so they are taken here
        jnp = array_namespace(*jax_arrays)
        for name, x in given.items():
            if is_numpy_array(x):
                _check_dtype(name, x.dtype, jnp)
                given[name] = jnp.asarray(x)
    for library in (_mlx, _ndonnx):
        if all(library.is_array(x) for x in given.values()):
            return library.namespace(), given
    try:
        return array_namespace(*given.values()), given
    except TypeError:
        raise TypeError(
            f"{_listed(given)} must come from one array library, got {types}; convert them to arrays of one"
        ) from None


def _check_dtype(name: str, dtype: DType, xp: Namespace) -> None:
    if not _is_taken(dtype, xp):
        raise TypeError(
            f"{name} must have a real floating-point dtype of 16 bits or more, got {dtype}; convert it first"
        )


def _is_taken(dtype: DType, xp: Namespace) -> bool:
    if _numpy.is_bfloat16(dtype, xp):
        return True
    try:
        if not xp.isdtype(dtype, "real floating"):
            return False
    except TypeError:  # from NumPy for a dtype of another package, from JAX for a dtype of random keys
        return False
    wide_enough: bool = xp.finfo(dtype).bits >= 16
    return wide_enough


def _check_devices(arrays: dict[str, Array], xp: Namespace) -> None:
    placements = [_placement(x, xp) for x in arrays.values()]
    known = [device for device in placements if device is not None]
    if any(device != known[0] for device in known):
        raise ValueError(
            f"{_listed(arrays)} must be on one device, got {_listed(map(str, placements))}; move them to one"
        )


def _placement(x: Array, xp: Namespace) -> Any:
    if _torch.is_tensor(x):
        return _torch.placement(x)
    if _mlx.is_array(x):  # in memory that all devices share
        return None
    return _jax.placement(x) if is_jax_namespace(xp) else device_of(x)


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}"
