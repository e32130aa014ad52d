"""RLax's divergence between categorical distributions, alone and as the penalty of a policy."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rlax
from rlax._src import distributions

from kldiv_xp import kl_div_with_logits

LICENCE = "Apache-2.0"
WHAT = "`categorical_kl_divergence` with temperatures, and 20 steps of a policy with it as a penalty"
PACKAGES = ("rlax", "distrax", "jax")
TESTS = ("--pyargs", "rlax._src.distributions_test", "-k", "categorical_kl")


def _divergence(p_logits: Any, q_logits: Any, temperature: float = 1.0) -> jax.Array:
    teacher, student = jnp.broadcast_arrays(p_logits, q_logits)
    return kl_div_with_logits(student, teacher, "none", temperature=temperature)


def losses() -> list[tuple[Any, str, Any]]:
    return [(owner, "categorical_kl_divergence", _divergence) for owner in (distributions, rlax)]


def _logits() -> tuple[jax.Array, jax.Array]:
    x, y = np.random.default_rng(0).normal(0.0, 2.0, (2, 64, 18))
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


def figures() -> dict[str, Any]:
    x, y = _logits()
    found = {}
    for temperature in (0.5, 1.0, 3.0):
        for name, loss in {
            "categorical_kl_divergence": partial(rlax.categorical_kl_divergence, temperature=temperature),
            "softmax.kl": rlax.softmax(temperature).kl,
            "clipped_entropy_softmax.kl under vmap": jax.vmap(rlax.clipped_entropy_softmax(temperature).kl),
        }.items():
            case = f"{name}, temperature {temperature}"
            total = jax.jit(jax.value_and_grad(lambda *given, loss=loss: loss(*given).sum(), (0, 1)))
            found[case], gradients = total(x, y)
            found |= {f"{case}, by {n}": jnp.linalg.norm(gradient) for n, gradient in enumerate(gradients)}
    one, logits = _step(), x
    for number in range(20):
        found[f"loss {number}"], logits = one(logits, x, y)
    return found | {"logits": jnp.linalg.norm(logits)}


def _step() -> Any:
    """A step of a policy towards more advantage, held to the one that acted."""

    def loss(logits: jax.Array, old: jax.Array, advantages: jax.Array) -> jax.Array:
        actions = jnp.argmax(old + advantages, -1)
        taken = advantages[jnp.arange(len(actions)), actions]
        gain = rlax.policy_gradient_loss(logits, actions, taken, jnp.ones(len(actions)))
        return gain + rlax.categorical_kl_divergence(old, logits).mean()

    @jax.jit
    def step(logits: jax.Array, *others: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(logits, *others)
        return value, logits - 5.0 * gradient

    return step


def step() -> Any:
    one, (old, advantages) = _step(), _logits()
    logits = 0.5 * old
    return lambda: jax.block_until_ready(one(logits, old, advantages))
