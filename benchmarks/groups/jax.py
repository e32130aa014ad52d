"""JAX, eager and jitted, on the CPU and on CUDA."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from benchmarks import formula
from benchmarks.contender import Call, Contender, ours, part, peer, reason
from benchmarks.machine import usable_cpus
from benchmarks.plain import plain
from benchmarks.workload import Workload, operands
from kldiv_xp import kl_div

BUFFERS = (4096, 16384, 262144)
"""Elements of buffers that stay in a cache."""
MOST_EAGER_WITH_GRADIENT = 1 << 17
"""Elements up to which gradients are taken eagerly; who trains on more jits the step."""

Function = Callable[..., Any]


class JAX:
    """Arrays of JAX, in memory of its own, each function called as it is or inside ``jax.jit``."""

    def __init__(self, device: str = "cpu", *, jitted: bool) -> None:
        self.name = " ".join(["JAX", *["CUDA"] * (device == "cuda"), "jitted" if jitted else "eager"])
        self.device = device
        self.jitted = jitted

    def not_run(self) -> str | None:
        """Why nothing of this group can be run here."""
        try:
            import jax
        except ImportError as error:
            return reason(error)
        try:
            jax.devices(self.device)
        except RuntimeError:
            return "no CUDA device" if self.device == "cuda" else f"no device {self.device!r}"
        return None

    def threads(self) -> str:
        """Threads that this group computes in, in words."""
        import jax

        # XLA does not say: it takes one thread for each CPU that the process may use.
        return f"up to {usable_cpus()} threads" if self.device == "cpu" else str(jax.devices("cuda")[0].device_kind)

    def takes(self, workload: Workload) -> bool:
        """Whether this group computes such a workload."""
        return self.jitted or not workload.gradient or workload.elements <= MOST_EAGER_WITH_GRADIENT

    @contextmanager
    def context(self, workload: Workload) -> Iterator[None]:
        """Switched on while the group computes: without it float64 becomes float32."""
        import jax

        with ExitStack() as stack:
            stack.enter_context(jax.enable_x64(workload.dtype == "float64"))
            if jax.default_backend() != {"cuda": "gpu"}.get(self.device, self.device):
                stack.enter_context(jax.default_device(jax.devices(self.device)[0]))
            yield

    def contenders(self, workload: Workload) -> Iterator[Contender]:
        """Ours and the peers, on the same memory."""
        import jax.numpy as jnp

        x, y = self._place(workload)

        def prepare(function: Function) -> Callable[[], Call]:
            return lambda: self._forward_or_both(function, workload, x, y)

        options: Any = {"reduction": workload.reduction, "log_target": workload.log_target}
        yield ours(prepare(lambda x, y: kl_div(x, y, **options)))
        if not self.jitted:
            yield ours(prepare(plain(workload)), "plain")
        if workload.reduction == "batchmean":  # the sum over each row is all that Optax offers
            name = "optax.losses.kl_divergence" + "_with_log_targets" * workload.log_target
            yield peer(name, lambda: prepare(optax_loss(workload))())
        yield peer("jax.numpy formula", prepare(lambda x, y: formula.loss(x, y, workload, jnp)))

    def floor(self, workload: Workload) -> Iterator[Contender]:
        """The least that any formula has to do."""
        import jax
        import jax.numpy as jnp

        x, y = self._place(workload)

        def jitted(function: Callable[..., Any], *arguments: Any) -> Call:
            compiled = jax.jit(function)
            return lambda: [array.block_until_ready() for array in jax.tree.leaves(compiled(*arguments))]

        if self.device == "cuda":
            # A copy reads and writes as much as is read of both arrays.
            yield part("copy", lambda: [lambda: jnp.copy(x).block_until_ready()])
        else:
            name = "exp" if workload.log_target else "log"
            yield part(name, lambda: [jitted(partial(over_buffer, name, x.size), _start(y, size)) for size in BUFFERS])
            yield part("read", lambda: [jitted(partial(map_both, f), x, y) for f in (jnp.sum, jnp.max)])
        if workload.gradient or workload.reduction == "none":
            yield part("write", lambda: [jitted(lambda: jnp.zeros(x.shape, x.dtype))])

    def value(self, result: Any) -> float:
        """The loss that a contender returned, as a number."""
        return float(result.astype("float32").sum())

    def _place(self, workload: Workload) -> tuple[Any, Any]:
        import jax
        import jax.numpy as jnp

        device = jax.devices(self.device)[0]
        x, y = (
            jax.device_put(jnp.asarray(a, dtype=workload.dtype, copy=True), device).block_until_ready()
            for a in operands(workload)
        )
        return x, y

    def _forward_or_both(self, function: Function, workload: Workload, x: Any, y: Any) -> Call:
        import jax

        if not workload.gradient:
            forward = jax.jit(function) if self.jitted else function
            return lambda: forward(x, y).block_until_ready()
        differentiated = jax.value_and_grad(function)
        both = jax.jit(differentiated) if self.jitted else differentiated

        def call() -> Any:
            loss, gradient = both(x, y)
            gradient.block_until_ready()
            return loss.block_until_ready()

        return call


def optax_loss(workload: Workload) -> Function:
    """Optax's loss of a workload, averaged over the batch."""
    import optax

    rows = optax.losses.kl_divergence_with_log_targets if workload.log_target else optax.losses.kl_divergence
    return lambda x, y: rows(x, y).mean()


def map_both(function: Function, x: Any, y: Any) -> tuple[Any, Any]:
    """``function`` of each of two arrays."""
    return function(x), function(y)


def _start(y: Any, size: int) -> Any:
    """Positive numbers around 1, in float32 at least: as many as the buffer has, or ``y`` if that is fewer."""
    import jax.numpy as jnp

    return jnp.linspace(0.5, 4.0, min(size, y.size), dtype=jnp.promote_types(y.dtype, jnp.float32))


def over_buffer(name: str, elements: int, buffer: Any) -> Any:
    """The logarithm or the exponential of ``elements`` elements, over a buffer of fewer.

    Each pass takes the result of the one before, so that the compiler cannot take it out of the loop; both functions
    lead to a fixed point, and stay with ordinary numbers.
    """
    import jax
    import jax.numpy as jnp

    step = {"log": lambda _, a: jnp.log(a) + 2, "exp": lambda _, a: jnp.exp(-a)}[name]
    return jax.lax.fori_loop(0, -(-elements // buffer.size), step, buffer)
