"""The implementations whose accuracy is measured: each takes two NumPy arrays, and gives the ``"batchmean"`` loss."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from kldiv_xp import kl_div

Loss = Callable[[Any, Any], float]
"""Of NumPy arrays; bfloat16 numbers come as float32."""

OURS = "kldiv_xp"
"""How the names of ours begin."""
PYTORCH = "torch.nn.functional.kl_div"
"""What the others are held against."""

NUMPY = ("float16", "float32", "float64")
ALL = ("bfloat16", *NUMPY)


@dataclass(frozen=True)
class Implementation:
    """Something that computes the loss."""

    name: str
    modules: tuple[str, ...]
    """What must be installed."""
    dtypes: tuple[str, ...]
    prepare: Callable[[str, bool], Loss]
    """The loss for a dtype and ``log_target``, compiled where it is compiled at all."""

    def not_run(self, dtype: str) -> str | None:
        """Why it cannot be measured."""
        for module in self.modules:
            if find_spec(module) is None:
                return f"{module} is not installed"
        return None if dtype in self.dtypes else f"{self.modules[0]} has no {dtype}"


def implementations() -> Iterator[Implementation]:
    """PyTorch's first, then ours, then the other peers."""
    torch, jax, optax, dask, mlx = ("torch",), ("jax",), ("optax", "jax"), ("dask", "numpy"), ("mlx", "numpy")
    yield Implementation(PYTORCH, torch, ALL, partial(_torch, _torch_kl_div))
    yield Implementation("kldiv_xp on NumPy", ("numpy",), NUMPY, partial(_numpy, _ours))
    yield Implementation("kldiv_xp on PyTorch", torch, ALL, partial(_torch, _ours))
    yield Implementation("kldiv_xp on PyTorch, grad", torch, ALL, partial(_torch, _ours, gradient=True))
    yield Implementation("kldiv_xp on PyTorch, compiled", torch, ALL, partial(_torch, _ours, compiled=True))
    yield Implementation("kldiv_xp on JAX", jax, ALL, partial(_jax, _ours))
    yield Implementation("kldiv_xp on JAX, jitted", jax, ALL, partial(_jax, _ours, jitted=True))
    yield Implementation("kldiv_xp on Dask", dask, NUMPY, _dask)
    yield Implementation("kldiv_xp on MLX", mlx, ("bfloat16", "float16", "float32"), _mlx)
    yield Implementation("kldiv_xp on array-api-strict", ("array_api_strict",), ("float32", "float64"), _strict)
    yield Implementation("Optax kl_divergence", optax, ALL, partial(_jax, _optax))
    yield Implementation("Optax kl_divergence, jitted", optax, ALL, partial(_jax, _optax, jitted=True))
    yield Implementation("jax.numpy by hand, jitted", jax, ALL, partial(_jax, _by_hand_in_jax, jitted=True))
    yield Implementation("NumPy by hand", ("numpy",), NUMPY, partial(_numpy, _by_hand))
    yield Implementation("SciPy rel_entr", ("scipy", "numpy"), NUMPY, partial(_numpy, _scipy))


def _ours(x: Any, y: Any, log_target: bool) -> Any:
    return kl_div(x, y, "batchmean", log_target)


def _torch_kl_div(x: Any, y: Any, log_target: bool) -> Any:
    import torch

    return torch.nn.functional.kl_div(x, y, reduction="batchmean", log_target=log_target)


def _optax(x: Any, y: Any, log_target: bool) -> Any:
    import optax

    function = optax.losses.kl_divergence_with_log_targets if log_target else optax.losses.kl_divergence
    return function(x, y).mean()


def _by_hand(x: Any, y: Any, log_target: bool) -> Any:
    return (np.exp(y) * (y - x) if log_target else y * (np.log(y) - x)).sum() / len(x)


def _by_hand_in_jax(x: Any, y: Any, log_target: bool) -> Any:
    import jax.numpy as jnp

    return (jnp.exp(y) * (y - x) if log_target else y * (jnp.log(y) - x)).sum() / len(x)


def _scipy(x: Any, y: Any, log_target: bool) -> Any:
    from scipy.special import rel_entr

    return rel_entr(np.exp(y) if log_target else y, np.exp(x)).sum() / len(x)


def _numpy(function: Callable[..., Any], _dtype: str, log_target: bool) -> Loss:
    def loss(x: Any, y: Any) -> float:
        with np.errstate(all="ignore"):
            return float(function(x, y, log_target))

    return loss


def _torch(
    function: Callable[..., Any], dtype: str, log_target: bool, *, gradient: bool = False, compiled: bool = False
) -> Loss:
    import torch

    bound: Callable[..., Any] = partial(function, log_target=log_target)
    if compiled:
        torch.compiler.config.recompile_limit = 64  # by default a function is compiled for eight kinds of tensors
        bound = torch.compile(bound, fullgraph=True)

    def loss(x: Any, y: Any) -> float:
        a, b = (torch.from_numpy(values).to(getattr(torch, dtype)) for values in (x, y))
        with nullcontext() if gradient else torch.no_grad():
            return float(bound(a.requires_grad_(gradient), b).item())

    return loss


def _jax(function: Callable[..., Any], dtype: str, log_target: bool, *, jitted: bool = False) -> Loss:
    import jax

    bound: Callable[..., Any] = partial(function, log_target=log_target)
    if jitted:
        bound = jax.jit(bound)

    def loss(x: Any, y: Any) -> float:
        wide: AbstractContextManager[Any] = jax.enable_x64(True) if dtype == "float64" else nullcontext()
        with wide:
            return float(bound(jax.numpy.asarray(x, dtype), jax.numpy.asarray(y, dtype)))

    return loss


def _dask(_dtype: str, log_target: bool) -> Loss:
    da = import_module("dask.array")  # not typed upstream

    def loss(x: Any, y: Any) -> float:
        return float(_ours(da.from_array(x), da.from_array(y), log_target).compute())

    return loss


def _strict(_dtype: str, log_target: bool) -> Loss:
    xp = import_module("array_api_strict")  # not typed upstream

    def loss(x: Any, y: Any) -> float:
        with np.errstate(all="ignore"):
            return float(_ours(xp.asarray(x), xp.asarray(y), log_target))

    return loss


def _mlx(dtype: str, log_target: bool) -> Loss:
    mx = import_module("mlx.core")

    def loss(x: Any, y: Any) -> float:
        a, b = (mx.array(values).astype(getattr(mx, dtype)) for values in (x, y))
        return float(_ours(a, b, log_target).item())

    return loss
