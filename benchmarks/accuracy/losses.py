"""The implementations whose accuracy is measured: each takes two NumPy arrays, and gives the ``"batchmean"`` loss."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from kldiv_xp import kl_div

Loss = Callable[[Any, Any], float]
"""Of NumPy arrays; bfloat16 numbers come as float32."""

OURS = "kldiv_xp"
"""The names of ours begin with it."""
PYTORCH = "torch.nn.functional.kl_div"
"""What the others are compared with."""


class Implementation(NamedTuple):
    """A way to compute the loss. ``prepare`` takes dtype and ``log_target``; what it imports may be missing."""

    name: str
    dtypes: str
    prepare: Callable[[str, bool], Loss]


def implementations() -> list[Implementation]:
    """PyTorch's first, then ours, then the other peers."""
    numpy, every = "float16 float32 float64", "bfloat16 float16 float32 float64"
    return [
        Implementation(PYTORCH, every, partial(_torch, name="torch")),
        Implementation(f"{OURS} on NumPy", numpy, partial(_numpy, name=OURS)),
        Implementation(f"{OURS} on PyTorch", every, partial(_torch, name=OURS)),
        Implementation(f"{OURS} on PyTorch, compiled", every, partial(_torch, name=OURS, compiled=True)),
        Implementation(f"{OURS} on JAX, jitted", every, partial(_jax, name=OURS)),
        Implementation(f"{OURS} on MLX", "bfloat16 float16 float32", _mlx),
        Implementation("Optax kl_divergence, jitted", every, partial(_jax, name="optax")),
        Implementation("NumPy by hand", numpy, partial(_numpy, name="by hand")),
        Implementation("SciPy rel_entr", numpy, partial(_numpy, name="scipy")),
    ]


def _ours(log_target: bool) -> Callable[[Any, Any], Any]:
    return partial(kl_div, reduction="batchmean", log_target=log_target)


def _numpy(_dtype: str, log_target: bool, name: str) -> Loss:
    def by_hand(x: Any, y: Any) -> Any:
        return (np.exp(y) * (y - x) if log_target else y * (np.log(y) - x)).sum() / len(x)

    def scipy(x: Any, y: Any) -> Any:
        return import_module("scipy.special").rel_entr(np.exp(y) if log_target else y, np.exp(x)).sum() / len(x)

    function = {OURS: _ours(log_target), "by hand": by_hand, "scipy": scipy}[name]

    def loss(x: Any, y: Any) -> float:
        with np.errstate(all="ignore"):
            return float(function(x, y))

    return loss


def _torch(dtype: str, log_target: bool, name: str, *, compiled: bool = False) -> Loss:
    import torch

    theirs = partial(torch.nn.functional.kl_div, reduction="batchmean", log_target=log_target)
    function: Any = _ours(log_target) if name == OURS else theirs
    if compiled:
        torch.compiler.config.recompile_limit = 64  # by default a function is compiled for eight kinds of tensors
        function = torch.compile(function, fullgraph=True)
    return lambda x, y: float(function(*(torch.from_numpy(a).to(getattr(torch, dtype)) for a in (x, y))))


def _jax(dtype: str, log_target: bool, name: str) -> Loss:
    import jax

    def optax(x: Any, y: Any) -> Any:
        from optax import losses

        return (losses.kl_divergence_with_log_targets if log_target else losses.kl_divergence)(x, y).mean()

    function = jax.jit(_ours(log_target) if name == OURS else optax)

    def loss(x: Any, y: Any) -> float:
        with jax.enable_x64(dtype == "float64"):
            return float(function(*(jax.numpy.asarray(a, dtype) for a in (x, y))))

    return loss


def _mlx(dtype: str, log_target: bool) -> Loss:
    mx, function = import_module("mlx.core"), _ours(log_target)
    return lambda x, y: float(function(*(mx.array(a).astype(getattr(mx, dtype)) for a in (x, y))).item())
