"""The student in JAX: a pure function, a jitted step, an Optax optimizer, and the losses as static arguments."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.distillation.problem import Problem, Regime, Weights
from kldiv_xp import KLDivLoss, KLDivWithLogitsLoss

Array = jax.Array


def predict(weights: Weights, images: Array) -> Array:
    """Logits of ``images``."""
    hidden = jax.nn.relu(images @ weights.hidden + weights.hidden_bias)
    logits: Array = hidden @ weights.output + weights.output_bias
    return logits


@partial(jax.jit, static_argnames=("from_teacher", "from_labels", "regime"))
def step(
    weights: Weights,
    state: Any,
    images: Array,
    teacher: Array,
    labels: Array,
    *,
    from_teacher: KLDivWithLogitsLoss,
    from_labels: KLDivLoss,
    regime: Regime,
) -> tuple[Weights, Any, Array]:
    """Weights and state of the optimizer after one step, and the loss before it."""

    def loss_of(weights: Weights) -> Array:
        t, logits = regime.temperature, predict(weights, images)
        soft: Array = from_teacher(logits, teacher)
        hard: Array = from_labels(jax.nn.log_softmax(logits), labels)
        return regime.teacher_weight * t**2 * soft + (1 - regime.teacher_weight) * hard

    loss, gradients = jax.value_and_grad(loss_of)(weights)
    updates, state = optax.sgd(regime.learning_rate).update(gradients, state)
    weights = optax.apply_updates(weights, updates)
    return weights, state, loss


def train(problem: Problem, batches: Iterable[list[int]]) -> tuple[list[float], Weights]:
    """Loss of each step, and the weights in the end."""
    with jax.enable_x64(True):
        regime, weights = problem.regime, jax.tree.map(jnp.asarray, problem.initial)
        state = optax.sgd(regime.learning_rate).init(weights)
        from_teacher = KLDivWithLogitsLoss(temperature=regime.temperature)
        run = partial(step, from_teacher=from_teacher, from_labels=KLDivLoss("batchmean"), regime=regime)
        losses = []
        for batch in batches:
            data = (problem.images[batch], problem.teacher[batch], problem.labels[batch])
            weights, state, loss = run(weights, state, *data)
            losses.append(loss)  # not its value, for which the host would have to wait
        return [float(loss) for loss in losses], Weights(*map(np.asarray, weights))
