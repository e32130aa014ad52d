"""What the three students share: the images, the teacher, the weights to begin with, and the order of the batches."""

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Regime:
    """How a student is trained; chosen before any held-out image was looked at.

    The loss is that of Hinton, Vinyals and Dean, https://arxiv.org/abs/1503.02531: the divergence from the teacher's
    softened probabilities, times the temperature squared, and with a small weight that from the labels. The divergence
    from a one-hot label is the usual cross-entropy.
    """

    temperature: float = 4.0
    teacher_weight: float = 0.9
    teacher_width: int = 256
    student_width: int = 16
    epochs: int = 60
    batch_size: int = 32
    learning_rate: float = 0.1


class Weights(NamedTuple):
    """Weights of a network of two layers, with ReLU between them."""

    hidden: Any
    hidden_bias: Any
    output: Any
    output_bias: Any


@dataclass(frozen=True)
class Problem:
    """All that a training run depends on, as NumPy arrays of float64."""

    regime: Regime
    images: Array
    labels: Array  # one-hot
    teacher: Array  # logits
    initial: Weights
    batches: list[list[int]]  # the images of each step, over all epochs
    held_out_images: Array
    held_out_labels: NDArray[np.int64]


@cache
def pose(regime: Regime, seed: int) -> Problem:
    """Problem of one seed, which decides the split, the teacher, the initial weights and the batches."""
    images, digits = load_digits(return_X_y=True)
    seen, held_out, seen_digits, held_out_digits = train_test_split(
        images / 16, digits, train_size=1280, random_state=seed, stratify=digits
    )
    teacher = MLPClassifier((regime.teacher_width,), max_iter=1000, random_state=seed).fit(seen, seen_digits)
    rng = np.random.default_rng(seed)
    return Problem(
        regime,
        images=seen,
        labels=np.eye(10)[seen_digits],
        teacher=_logits_of(teacher, seen),
        initial=_initial_weights(rng, seen.shape[1], regime.student_width, 10),
        batches=_batches(rng, len(seen), regime),
        held_out_images=held_out,
        held_out_labels=held_out_digits,
    )


def held_out_accuracy(problem: Problem, weights: Weights) -> float:
    """Share of the held-out images whose digit the student gets right."""
    best = _predict(problem.held_out_images, weights).argmax(axis=-1)
    return float(np.mean(best == problem.held_out_labels))


def held_out_nll(problem: Problem, weights: Weights) -> float:
    """Mean negative log-likelihood of the held-out digits, in nats, at temperature 1."""
    log_p = log_softmax(_predict(problem.held_out_images, weights), axis=-1)
    return float(-np.mean(np.take_along_axis(log_p, problem.held_out_labels[:, None], axis=-1)))


def _predict(images: Array, weights: Weights) -> Array:
    hidden = np.maximum(images @ weights.hidden + weights.hidden_bias, 0.0)
    logits: Array = hidden @ weights.output + weights.output_bias
    return logits


def _logits_of(teacher: MLPClassifier, images: Array) -> Array:
    weights = Weights(teacher.coefs_[0], teacher.intercepts_[0], teacher.coefs_[1], teacher.intercepts_[1])
    return _predict(images, weights)


def _initial_weights(rng: np.random.Generator, inputs: int, width: int, classes: int) -> Weights:
    hidden = rng.standard_normal((inputs, width)) * np.sqrt(2 / inputs)
    output = rng.standard_normal((width, classes)) * np.sqrt(1 / width)
    return Weights(hidden, np.zeros(width), output, np.zeros(classes))


def _batches(rng: np.random.Generator, count: int, regime: Regime) -> list[list[int]]:
    size = regime.batch_size
    whole = count - count % size
    orders = [rng.permutation(count)[:whole] for _ in range(regime.epochs)]
    batches: list[list[int]] = np.concatenate(orders).reshape(-1, size).tolist()
    return batches
