"""Distrax's divergence between categorical distributions, as it is registered."""

from typing import Any

import distrax
import jax
import jax.numpy as jnp
import numpy as np
from distrax._src.distributions import categorical
from tensorflow_probability.substrates.jax.distributions import kullback_leibler

from kldiv_xp import kl_div_with_logits

LICENCE = "Apache-2.0"
WHAT = "`kl_divergence` and `cross_entropy` of `Categorical`, `Softmax` and `Independent`, and of a policy"
PACKAGES = ("distrax", "tfp-nightly", "jax")
EXCLUDED = (
    "probabilities that round to 0 where the student's are 0: the replacement sets them to 0, as Distrax does, because"
    " kldiv_xp gives an infinite divergence",
)
TESTS = (
    "--pyargs",
    "distrax._src.distributions.categorical_test",
    "distrax._src.distributions.softmax_test",
    "-k",
    "kl",
)


class Registered:
    """The divergence between two kinds of distributions, as an attribute."""

    def __init__(self, kinds: tuple[type, type]) -> None:
        self.registry, self.kinds = kullback_leibler._DIVERGENCES, kinds

    @property
    def divergence(self) -> Any:
        return self.registry[self.kinds]

    @divergence.setter
    def divergence(self, function: Any) -> None:
        self.registry[self.kinds] = function


def _divergence(one: Any, other: Any, *_: Any, **__: Any) -> jax.Array:
    teacher, student = one.logits_parameter(), other.logits_parameter()
    if teacher.shape[-1] != student.shape[-1]:
        raise ValueError("the distributions have different numbers of categories")
    # To Distrax, a probability that rounds to 0 is one of 0. To kldiv_xp only a logit of -inf is impossible, and the
    # divergence from a student that makes another class impossible is infinite.
    teacher = jnp.where(jax.nn.softmax(teacher) == 0.0, -jnp.inf, teacher)
    teacher, student = jnp.broadcast_arrays(teacher, student)
    return kl_div_with_logits(student, teacher, "none")


def losses() -> list[tuple[Any, str, Any]]:
    theirs = categorical._kl_divergence_categorical_categorical
    registered = kullback_leibler._DIVERGENCES.items()
    return [(Registered(kinds), "divergence", _divergence) for kinds, function in registered if function is theirs]


def _logits() -> tuple[jax.Array, jax.Array]:
    x, y = np.random.default_rng(0).normal(0.0, 2.0, (2, 64, 18))
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


def _pairs(x: jax.Array, y: jax.Array) -> dict[str, tuple[Any, Any]]:
    kinds = {
        "Categorical": distrax.Categorical,
        "Softmax": lambda z: distrax.Softmax(z, 0.5),
        "Independent": lambda z: distrax.Independent(distrax.Categorical(z), reinterpreted_batch_ndims=1),
    }
    return {
        **{name: (kind(x), kind(y)) for name, kind in kinds.items()},
        "of probabilities": (distrax.Categorical(probs=jax.nn.softmax(x)), distrax.Categorical(y)),
        "broadcast": (distrax.Categorical(x[:1]), distrax.Categorical(y)),
    }


def figures() -> dict[str, Any]:
    x, y = _logits()
    found = {}
    for what in ("kl_divergence", "cross_entropy"):
        for name in _pairs(x, y):

            def total(x: Any, y: Any, name: str = name, what: str = what) -> Any:
                one, other = _pairs(x, y)[name]
                return getattr(one, what)(other).sum()

            value, gradients = jax.jit(jax.value_and_grad(total, (0, 1)))(x, y)
            found[f"{what}, {name}"] = value
            found |= {f"{what}, {name}, by {n}": jnp.linalg.norm(gradient) for n, gradient in enumerate(gradients)}
    impossible = jnp.where(x > 2.0, -jnp.inf, x)
    found["impossible classes"] = distrax.Categorical(impossible).kl_divergence(distrax.Categorical(y)).sum()
    one, other = jnp.asarray([0.0, 1.0, -200.0]), jnp.asarray([0.5, 0.0, -jnp.inf])
    found["almost impossible class"] = distrax.Categorical(one).kl_divergence(distrax.Categorical(other))

    one, logits = _step(), x
    for number in range(20):
        found[f"loss {number}"], logits = one(logits, x, y)
    return found | {"logits": jnp.linalg.norm(logits)}


def _step() -> Any:
    """A step of a policy towards more reward, held to an old one."""

    def loss(logits: jax.Array, old: jax.Array, reward: jax.Array) -> jax.Array:
        policy = distrax.Categorical(logits)
        return (distrax.Categorical(old).kl_divergence(policy) - (policy.probs * reward).sum(-1)).mean()

    @jax.jit
    def step(logits: jax.Array, *others: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(logits, *others)
        return value, logits - 10.0 * gradient

    return step


def step() -> Any:
    one, (old, reward) = _step(), _logits()
    logits = 0.5 * old
    return lambda: jax.block_until_ready(one(logits, old, reward))
