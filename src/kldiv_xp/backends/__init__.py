"""The array libraries, and the look-up of the library of an array."""

from functools import cache
from importlib import import_module

from array_api_compat import is_array_api_obj

from kldiv_xp._arguments import listed
from kldiv_xp._options import type_name
from kldiv_xp.backends._standard import Array, Backend
from kldiv_xp.backends.torch import TracedTorch

_LIBRARIES = (
    "torch.Torch",
    "numpy.NumPy",
    "jax.JAX",
    "mlx.MLX",
    "ndonnx.NDOnnx",
    "dask.Dask",
    "cubed.Cubed",
    "array_api_strict.Strict",
    "sparse.Sparse",
    "autograd.Autograd",
    "blosc2.Blosc2",
    "marray.MArray",
)
_found: dict[type, Backend] = {}
_made: dict[object, Backend] = {}
"""By the library, or the namespace of one without its own file: two types of arrays of one library share a backend."""


def find(input: Array, target: Array, where: Array = None, cotangent: Array = None) -> Backend:
    """Backend for the arrays of a call; raise unless one library can compute with all of them."""
    if TracedTorch.traces(input, target, where, cotangent):
        return TracedTorch.of(input)  # torch.compile would guard on the table, and compile again when it grows
    backend = _found.get(type(input))
    if backend is not None and backend is _found.get(type(target)) and where is None is cotangent:
        return backend
    given = {"input": input, "target": target}
    given |= {name: x for name, x in (("where", where), ("cotangent", cotangent)) if x is not None}
    backends = [_found.get(type(x)) or _backend_of(name, x) for name, x in given.items()]
    for backend in backends:
        if all(other is backend or backend.converts(other) for other in backends):
            return backend
    for backend, (name, x) in zip(backends, given.items(), strict=True):
        backend.accepted(name, x)  # the error for an unsuitable array says more than the one below
    types = listed(map(type_name, given.values()))
    raise TypeError(f"{listed(given)} must come from one array library, got {types}; convert them to arrays of one")


def _backend_of(name: str, x: Array) -> Backend:
    kind = type(x)
    library = next((library for library in _libraries() if library.owns(kind)), None)
    if library is None:
        if not is_array_api_obj(x):
            raise TypeError(
                f"{name} must be an array (of NumPy, JAX, PyTorch, CuPy, ...), got {type_name(x)};"
                " pass the array that it holds, or make one with the asarray function of your array library"
            )
        library = Backend
    backend = library.of(x)
    # Another thread may have made one meanwhile.
    _found[kind] = backend = _made.setdefault(backend.xp if library is Backend else library, backend)
    return backend


@cache
def _libraries() -> tuple[type[Backend], ...]:
    """The classes in ``_LIBRARIES``, imported with the first array and not with the package."""
    names = (name.split(".") for name in _LIBRARIES)
    return tuple(getattr(import_module(f"{__name__}.{module}"), kind) for module, kind in names)
