"""JAX, eager and jitted, on the CPU and on CUDA."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.contender import OURS, Call, Contender, Function, Group, NotRunError
from benchmarks.formula import by_hand, plain
from benchmarks.machine import usable_cpus
from benchmarks.workload import Workload, operands
from kldiv_xp import kl_div

BUFFER = 16384
"""Elements of a buffer that stays in a cache."""


class JAX(Group):
    """Arrays of JAX, in memory of its own, each function called as it is or inside ``jax.jit``."""

    def __init__(self, name: str, device: str = "cpu", *, jitted: bool) -> None:
        try:
            self.device = jax.devices(device)[0]
        except RuntimeError:
            raise NotRunError("no CUDA device") from None
        self.cuda = device == "cuda"
        self.name, self.jitted = name, jitted
        # XLA does not tell its threads: one for each CPU that the process may use.
        self.threads = self.device.device_kind if self.cuda else f"up to {usable_cpus()} threads"

    @contextmanager
    def context(self, workload: Workload) -> Iterator[None]:
        x64 = jax.enable_x64(workload.dtype == "float64")  # without it float64 becomes float32
        with x64, jax.default_device(self.device):
            yield

    def place(self, workload: Workload) -> tuple[Any, Any]:
        x, y = (jnp.asarray(a, dtype=workload.dtype, copy=True) for a in operands(workload))
        return x, y

    def losses(self, workload: Workload, x: Any, y: Any) -> Iterator[Contender]:
        def prepare(loss: Function) -> Call:
            function = jax.value_and_grad(loss) if workload.gradient else loss
            return waiting(jax.jit(function) if self.jitted else function, x, y)

        def optax() -> Call:
            from optax import losses

            rows = losses.kl_divergence_with_log_targets if workload.log_target else losses.kl_divergence
            return prepare(lambda x, y: rows(x, y).mean())

        yield Contender(OURS, partial(prepare, partial(kl_div, **workload.options)))
        if not self.jitted:
            yield Contender(f"{OURS} plain", partial(prepare, plain(workload)))
        if workload.reduction == "batchmean":  # the sum over each row is all that Optax offers
            yield Contender("optax.losses.kl_divergence", optax)
        yield Contender("jax.numpy formula", partial(prepare, by_hand(workload, jnp)))

    def floor(self, workload: Workload, x: Any, y: Any) -> Iterator[Call]:
        if self.cuda:
            yield waiting(jnp.copy, x)
        else:
            function = partial(over_buffer, workload.log_target, x.size)
            dtype = jnp.promote_types(y.dtype, jnp.float32)
            yield waiting(jax.jit(function), jnp.linspace(0.5, 4.0, min(BUFFER, y.size), dtype=dtype))
            yield waiting(jax.jit(lambda x, y: (x.sum(), y.sum())), x, y)
        if workload.writes:
            yield waiting(jax.jit(lambda: jnp.zeros(x.shape, x.dtype)))

    def value(self, result: Any) -> float:
        loss = result[0] if isinstance(result, tuple) else result
        return float(loss.astype("float32").sum())


def waiting(function: Callable[..., Any], *arguments: Any) -> Call:
    """Call of ``function``, and waiting for all that it returns."""

    def call() -> Any:
        result = function(*arguments)
        for array in result if isinstance(result, tuple) else (result,):
            array.block_until_ready()
        return result

    return call


def over_buffer(log_target: bool, elements: int, buffer: Any) -> Any:
    """The logarithm or the exponential of ``elements`` elements, over a buffer of fewer."""
    # Each pass takes the result of the one before, so that the compiler cannot take it out of the loop; both functions
    # lead to a fixed point, and stay with ordinary numbers.
    step = (lambda _, a: jnp.exp(-a)) if log_target else (lambda _, a: jnp.log(a) + 2)
    return jax.lax.fori_loop(0, -(-elements // buffer.size), step, buffer)
