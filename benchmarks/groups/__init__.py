"""Groups of contenders: one for each library and way of calling it. A device is a parameter of the same code."""

from importlib import import_module
from typing import Any

from benchmarks.contender import Group

GROUPS: dict[str, tuple[str, dict[str, Any]]] = {
    "NumPy": ("numpy.NumPy", {}),
    "PyTorch": ("torch.Torch", {}),
    "JAX eager": ("jax.JAX", {"jitted": False}),
    "JAX jitted": ("jax.JAX", {"jitted": True}),
    "CuPy": ("numpy.NumPy", {"library": "cupy"}),
    "PyTorch CUDA": ("torch.Torch", {"device": "cuda"}),
    "JAX CUDA eager": ("jax.JAX", {"device": "cuda", "jitted": False}),
    "JAX CUDA jitted": ("jax.JAX", {"device": "cuda", "jitted": True}),
}
"""Class and options of each group. The library is imported with the group."""


def load(name: str) -> Group:
    """Group of this name. Raises ``ImportError`` without its library, and ``NotRunError`` without its device."""
    path, options = GROUPS[name]
    module, _, class_name = path.partition(".")
    group: Group = getattr(import_module(f"benchmarks.groups.{module}"), class_name)(name, **options)
    return group
