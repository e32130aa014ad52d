"""NumPyro's divergence between categorical distributions, as it is registered."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import distributions, optim
from numpyro.distributions.kl import kl_divergence

from kldiv_xp import kl_div

LICENCE = "Apache-2.0"
WHAT = "`kl_divergence` of `CategoricalProbs`, with gradients, and 20 steps of variational inference"
PACKAGES = ("numpyro", "jax")
KINDS = (distributions.CategoricalProbs, distributions.CategoricalProbs)


class Registered:
    """The registered divergence, as an attribute."""

    @property
    def divergence(self) -> Any:
        return kl_divergence.funcs[KINDS]

    @divergence.setter
    def divergence(self, function: Any) -> None:
        kl_divergence.funcs[KINDS] = function
        kl_divergence._cache.clear()


def _divergence(one: Any, other: Any) -> jax.Array:
    x, y = jnp.broadcast_arrays(other.logits, one.probs)
    return kl_div(x, y, "none").sum(-1)


def losses() -> list[tuple[Any, str, Any]]:
    return [(Registered(), "divergence", _divergence)]


def _arrays() -> tuple[jax.Array, jax.Array, jax.Array]:
    """Two arrays of probabilities, and observations."""
    rng = np.random.default_rng(0)
    x, y = jax.nn.softmax(jnp.asarray(rng.normal(0.0, 2.0, (2, 64, 10)), jnp.float32))
    return x, y, jnp.asarray(rng.normal(size=64), jnp.float32)


def figures() -> dict[str, Any]:
    x, y, _ = _arrays()
    found = {}
    for name, wrap in {
        "Categorical": distributions.Categorical,
        "to_event": lambda p: distributions.Categorical(p).to_event(1),
        "expand": lambda p: distributions.Categorical(p[0]).expand((64,)),
    }.items():

        def total(x: Any, y: Any, wrap: Any = wrap) -> jax.Array:
            return kl_divergence(wrap(x), wrap(y)).sum()

        found[name], gradients = jax.jit(jax.value_and_grad(total, (0, 1)))(x, y)
        found |= {f"{name}, by {n}": jnp.linalg.norm(gradient) for n, gradient in enumerate(gradients)}
    some = jnp.where(x < 0.05, 0.0, x)
    some = some / some.sum(-1, keepdims=True)
    found["some 0"] = kl_divergence(distributions.Categorical(some), distributions.Categorical(y)).sum()
    one, state, given = _inference()
    for number in range(20):
        found[f"loss {number}"], state = one(state, *given)
    return found


def _inference() -> tuple[Any, Any, Any]:
    """A step towards the posterior of a mixture, the state before the first, and what it is given."""
    prior, _, observed = _arrays()
    optimizer = optim.Adam(0.1)

    def loss(logits: jax.Array, prior: jax.Array, observed: jax.Array) -> jax.Array:
        posterior = distributions.Categorical(jax.nn.softmax(logits))
        likelihood = distributions.Normal(jnp.linspace(-2.0, 2.0, 10), 1.0).log_prob(observed[:, None])
        of_prior = kl_divergence(posterior, distributions.Categorical(prior))
        return (of_prior - (posterior.probs * likelihood).sum(-1)).sum()

    @jax.jit
    def step(state: Any, *given: jax.Array) -> tuple[jax.Array, Any]:
        value, gradient = jax.value_and_grad(loss)(optimizer.get_params(state), *given)
        return value, optimizer.update(gradient, state)

    return step, optimizer.init(jnp.zeros(prior.shape)), (prior, observed)


def step() -> Any:
    one, state, given = _inference()
    return lambda: one(state, *given)[0].block_until_ready()
