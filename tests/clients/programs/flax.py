"""A student of flax.nnx, which learns from a teacher with the divergence that Optax has."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from kldiv_xp import kl_div

LICENCE = "Apache-2.0"
WHAT = "20 steps of distillation under `nnx.jit` and `nnx.value_and_grad`, by Optax's `kl_divergence`"
PACKAGES = ("flax", "optax", "jax")
TEMPERATURE = 2.0


def losses() -> list[tuple[Any, str, Any]]:
    return [(optax.losses, "kl_divergence", lambda x, y: kl_div(x, y, "none").sum(-1))]


class Classifier(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(16, width, rngs=rngs)
        self.second = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(nnx.relu(self.first(x)))


def _training() -> tuple[Any, Any, Any]:
    """A step, which returns the loss and the length of its gradient, the optimizer, and the student."""
    student, teacher = Classifier(32, nnx.Rngs(0)), Classifier(128, nnx.Rngs(1))
    optimizer = nnx.Optimizer(student, optax.adam(1e-2), wrt=nnx.Param)
    x = jax.random.normal(jax.random.key(2), (256, 16))
    y = nnx.softmax(5.0 * teacher(x) / TEMPERATURE)

    def distance(student: Classifier) -> jax.Array:
        return TEMPERATURE**2 * optax.losses.kl_divergence(nnx.log_softmax(student(x) / TEMPERATURE), y).mean()

    @nnx.jit
    def step(student: Classifier, optimizer: nnx.Optimizer) -> tuple[jax.Array, jax.Array]:
        loss, gradient = nnx.value_and_grad(distance)(student)
        optimizer.update(student, gradient)
        return loss, optax.global_norm(gradient)

    return step, optimizer, student


def figures() -> dict[str, Any]:
    step, optimizer, student = _training()
    found = {}
    for number in range(20):
        found[f"loss {number}"], found[f"gradient {number}"] = step(student, optimizer)
    leaves = jax.tree.leaves(nnx.state(student))
    return found | {f"parameter {number}": jnp.linalg.norm(leaf) for number, leaf in enumerate(leaves)}


def step() -> Any:
    one, optimizer, student = _training()
    return lambda: jax.block_until_ready(one(student, optimizer))
