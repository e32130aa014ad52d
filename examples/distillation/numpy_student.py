"""The student in NumPy: the gradient of the loss in closed form, and the chain rule by hand."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from examples.distillation.problem import Problem, Regime, Weights
from kldiv_xp import kl_div_value_and_grad, kl_div_with_logits_value_and_grad

Array = NDArray[np.float64]


def loss_and_gradient(logits: Array, teacher: Array, labels: Array, regime: Regime) -> tuple[float, Array]:
    """Loss of the student's ``logits``, and its gradient by them."""
    t, weight = regime.temperature, regime.teacher_weight
    # The chain rule multiplies the gradient by `cotangent`; the loss itself comes back without it.
    soft, by_soft = kl_div_with_logits_value_and_grad(logits, teacher, temperature=t, cotangent=weight * t**2)
    log_p = log_softmax(logits, axis=-1)
    hard, by_hard = kl_div_value_and_grad(log_p, labels, "batchmean", cotangent=1 - weight)
    loss = weight * t**2 * soft + (1 - weight) * hard
    return float(loss), by_soft + through_log_softmax(by_hard, log_p)


def through_log_softmax(gradient: Any, log_p: Array) -> Array:
    """Gradient by the logits, from that by their log-softmax."""
    by_logits: Array = gradient - np.exp(log_p) * gradient.sum(axis=-1, keepdims=True)
    return by_logits


def train(problem: Problem, batches: Iterable[list[int]]) -> tuple[list[float], Weights]:
    """Loss of each step, and the weights in the end."""
    weights, regime = problem.initial, problem.regime
    losses = []
    for batch in batches:
        images = problem.images[batch]
        hidden = np.maximum(images @ weights.hidden + weights.hidden_bias, 0.0)
        logits = hidden @ weights.output + weights.output_bias
        loss, by_logits = loss_and_gradient(logits, problem.teacher[batch], problem.labels[batch], regime)
        by_hidden = np.where(hidden > 0, by_logits @ weights.output.T, 0.0)
        gradients = Weights(images.T @ by_hidden, by_hidden.sum(axis=0), hidden.T @ by_logits, by_logits.sum(axis=0))
        weights = Weights(*(w - regime.learning_rate * g for w, g in zip(weights, gradients, strict=True)))
        losses.append(loss)
    return losses, weights
