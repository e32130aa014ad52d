"""Optax's divergences, along axes and with masks."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.losses._classification as of_optax

from kldiv_xp import kl_div

LICENCE = "Apache-2.0"
WHAT = "`kl_divergence`, `kl_divergence_with_log_targets` and `generalized_kl_divergence`, with gradients"
PACKAGES = ("optax", "jax")
EXCLUDED = ("the gradient by a target of 0, which is NaN from Optax and 0 from kldiv_xp",)
TESTS = ("--pyargs", "optax.losses._classification_test", "-k", "KLDivergence")


def _in_place_of_optax(log_target: bool) -> Callable[..., Any]:
    def loss(log_predictions: Any, targets: Any, axis: Any = -1, where: Any = None) -> Any:
        x, y = jnp.broadcast_arrays(log_predictions, targets)
        # Optax, too, gives NaN for a negative target, and for a target of 0 where the prediction is infinite.
        return kl_div(x, y, "none", log_target, where=where, convention="torch").sum(axis)

    return loss


def losses() -> list[tuple[Any, str, Any]]:
    places = {"kl_divergence": False, "kl_divergence_with_log_targets": True}
    return [
        (owner, name, _in_place_of_optax(log_target))
        for name, log_target in places.items()
        for owner in (of_optax, optax.losses, *([optax] if hasattr(optax, name) else []))
    ]


def _arrays() -> tuple[jax.Array, jax.Array, jax.Array]:
    """Log-probabilities, probabilities without zeros, and a mask."""
    rng = np.random.default_rng(0)
    x, y = (jax.nn.log_softmax(jnp.asarray(z, jnp.float32)) for z in rng.normal(0.0, 2.0, (2, 16, 3, 40)))
    return x, jnp.exp(y), jnp.asarray(rng.random(x.shape) < 0.7)


def _of(case: str, loss: Callable[..., Any], x: Any, y: Any) -> dict[str, Any]:
    """The sum of squares of losses, and the lengths of its gradients."""
    value, gradients = jax.jit(jax.value_and_grad(lambda *given: (loss(*given) ** 2).sum(), (0, 1)))(x, y)
    lengths = {f"{case}, by argument {n}": jnp.linalg.norm(by.ravel()) for n, by in enumerate(gradients)}
    return {case: value, **lengths}


def figures() -> dict[str, Any]:
    x, y, mask = _arrays()
    found = {}
    for name in ("kl_divergence", "kl_divergence_with_log_targets", "generalized_kl_divergence"):
        loss = getattr(optax.losses, name)
        target = jnp.log(y) if "log_targets" in name else y
        for axis in (-1, 0, (0, 1), None):
            for where in (None, mask, mask[0, :, :1]):
                case = f"{name}, axis {axis}, mask {None if where is None else where.shape}"
                found |= _of(case, partial(loss, axis=axis, where=where), x, target)
    with_zeros = _of("kl_divergence, some targets 0", lambda x, _: optax.losses.kl_divergence(x, y * mask), x, y)
    return found | {case: figure for case, figure in with_zeros.items() if "argument 1" not in case}


def step() -> Any:
    logits, y, _ = _arrays()
    gradient = jax.jit(jax.grad(lambda z: optax.losses.kl_divergence(jax.nn.log_softmax(z), y).mean()))
    return lambda: gradient(logits).block_until_ready()
