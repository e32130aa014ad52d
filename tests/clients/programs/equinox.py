"""A student of Equinox, which learns from a teacher with the divergence that Optax has."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from kldiv_xp import kl_div

LICENCE = "Apache-2.0"
WHAT = "20 steps of distillation under `filter_jit` and `filter_value_and_grad`, by Optax's `kl_divergence`"
PACKAGES = ("equinox", "optax", "jax")


def losses() -> list[tuple[Any, str, Any]]:
    return [(optax.losses, "kl_divergence", lambda x, y: kl_div(x, y, "sum"))]


def _training() -> tuple[Any, Any]:
    """A step of a student with the state of its optimizer, and both before the first step."""
    keys = jax.random.split(jax.random.key(0), 3)
    student, teacher = eqx.nn.MLP(16, 10, 32, 2, key=keys[0]), eqx.nn.MLP(16, 10, 128, 2, key=keys[1])
    optimizer = optax.adam(1e-2)
    x = jax.random.normal(keys[2], (256, 16))
    y = jax.nn.softmax(20.0 * jax.vmap(teacher)(x))

    @eqx.filter_value_and_grad
    def distance(student: eqx.nn.MLP) -> jax.Array:
        predictions = jax.nn.log_softmax(jax.vmap(student)(x))
        return jax.vmap(lambda *sample: optax.losses.kl_divergence(*sample))(predictions, y).mean()

    @eqx.filter_jit
    def step(student: eqx.nn.MLP, state: Any) -> Any:
        loss, gradient = distance(student)
        updates, state = optimizer.update(gradient, state)
        return (eqx.apply_updates(student, updates), state), loss, optax.global_norm(gradient)

    return step, (student, optimizer.init(eqx.filter(student, eqx.is_array)))


def figures() -> dict[str, Any]:
    step, states = _training()
    found = {}
    for number in range(20):
        states, found[f"loss {number}"], found[f"gradient {number}"] = step(*states)
    leaves = jax.tree.leaves(eqx.filter(states[0], eqx.is_array))
    return found | {f"parameter {number}": jnp.linalg.norm(leaf) for number, leaf in enumerate(leaves)}


def step() -> Any:
    one, states = _training()
    return lambda: jax.block_until_ready(one(*states)[1:])
