"""The divergences from logits beside the composition that they replace: ``python -m benchmarks.from_logits``.

All calls of a row run in turns in one process. A ratio is the median of the composition's times over ours, with the
quartiles of the ratio from round to round: above 1, ours is faster. Memory is the peak of a process of its own, beyond
what the arguments take. The accuracy is the relative error of the mean against the exact value, in float64 or longer.
"""

import argparse
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.special import rel_entr, softmax

from conformance.vectors import in_use
from kldiv_xp import js_div_with_logits, kl_div_with_logits, kl_div_with_logits_value_and_grad

SHAPES = ((1024, 32000), (8192, 1000), (64, 1000), (8, 16))
TEMPERATURE = 2.0
SECONDS = 4.0
"""Time for the rounds of a row, at least; there are at least ``ROUNDS``."""
ROUNDS = 5
MOST_ROUNDS = 500
NOISE = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)

Call = Callable[[], Any]
ours = partial(kl_div_with_logits, temperature=TEMPERATURE)


def logits(shape: tuple[int, int], noise: float = 1.0) -> tuple[Any, Any]:
    """Logits of student and teacher in float32, which differ by noise."""
    rng = np.random.default_rng(0)
    teacher = 3 * rng.standard_normal(shape, np.float32)
    return teacher + np.float32(noise) * rng.standard_normal(shape, np.float32), teacher


def in_torch(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The composition in PyTorch, in the dtype of the logits."""
    functional = torch.nn.functional
    log_q, p = functional.log_softmax(x / TEMPERATURE, -1), functional.softmax(y / TEMPERATURE, -1)
    return functional.kl_div(log_q, p, reduction="batchmean")


def jensen_shannon_in_torch(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The Jensen-Shannon divergence as TRL composes it, of logarithms of both distributions and of their mixture."""
    functional = torch.nn.functional
    both = torch.stack([functional.log_softmax(z / TEMPERATURE, -1) for z in (x, y)])
    mixture = torch.logsumexp(both - math.log(2.0), 0)
    halves = [functional.kl_div(mixture, z, reduction="batchmean", log_target=True) / 2.0 for z in both]
    return halves[0] + halves[1]


def in_jax(x: Any, y: Any) -> Any:
    """The composition in JAX."""
    log_q, log_p = (jax.nn.log_softmax(z / TEMPERATURE, -1) for z in (x, y))
    return (jax.nn.softmax(y / TEMPERATURE, -1) * (log_p - log_q)).sum() / x.shape[0]


def in_numpy(x: Any, y: Any) -> Any:
    """The composition in SciPy."""
    return rel_entr(softmax(y / TEMPERATURE, axis=-1), softmax(x / TEMPERATURE, axis=-1)).sum() / x.shape[0]


def floor(x: torch.Tensor, y: torch.Tensor) -> None:
    """Two float32 exponentials for each pair of logits, in a buffer in the cache, and reading both arrays twice."""
    buffer = torch.empty(2**16)
    for logits_of_one in (x, y):
        logits_of_one.amax(-1)
        blocks: Any = logits_of_one.reshape(-1).split(len(buffer))  # type: ignore[no-untyped-call]
        for block in blocks:
            torch.exp(block, out=buffer[: len(block)])


def differentiated(loss: Callable[[Any, Any], Any], x: torch.Tensor, y: torch.Tensor) -> Any:
    """Forward and backward, by the student's logits."""
    leaf = x.detach().requires_grad_()
    loss(leaf, y).backward()
    return leaf.grad


def rows(shape: tuple[int, int], device: str) -> Iterator[tuple[str, Call, Call]]:
    """What is compared on a device: its name, our call, and that of the composition."""
    x, y = logits(shape)
    a, b = (torch.from_numpy(z).to(device) for z in (x, y))
    divergence = partial(js_div_with_logits, temperature=TEMPERATURE)
    yield "PyTorch, forward", partial(ours, a, b), partial(in_torch, a, b)
    composed = partial(differentiated, in_torch, a, b)
    yield "PyTorch, forward and backward", partial(differentiated, ours, a, b), composed
    yield (
        "PyTorch, Jensen-Shannon",
        partial(differentiated, divergence, a, b),
        partial(differentiated, jensen_shannon_in_torch, a, b),
    )
    yield (
        "PyTorch, bfloat16",
        partial(differentiated, ours, a.bfloat16(), b.bfloat16()),
        partial(differentiated, in_torch, a.bfloat16(), b.bfloat16()),
    )
    if device == "cuda":
        own, other = (torch.compile(loss) for loss in (ours, in_torch))
        yield "PyTorch compiled", partial(differentiated, own, a, b), partial(differentiated, other, a, b)
    if device == "cpu":
        yield "PyTorch, forward: floor / ours", partial(ours, a, b), partial(floor, a, b)
        gradient = partial(kl_div_with_logits_value_and_grad, x, y, temperature=TEMPERATURE)
        yield "NumPy with the gradient, beside PyTorch", gradient, composed
        yield "NumPy, beside SciPy", partial(ours, x, y), partial(in_numpy, x, y)
    c, d = (jax.device_put(z, jax.devices(device)[0]) for z in (x, y))
    ready: Any = jax.block_until_ready
    for name, transform in (
        ("forward", lambda loss: loss),
        ("gradient by the student", jax.value_and_grad),
        ("both gradients", lambda loss: jax.value_and_grad(loss, (0, 1))),
    ):
        pair = [jax.jit(transform(loss)) for loss in (ours, in_jax)]
        mine, theirs = (lambda step=step: ready(step(c, d)) for step in pair)
        yield f"JAX jitted, {name}", mine, theirs


def compare(mine: Call, theirs: Call) -> tuple[float, float, float, int]:
    """Median and quartiles of the ratio of two calls in turns, and the number of rounds."""
    mine(), theirs()
    ratios: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(ratios) < ROUNDS or (time.perf_counter() < end and len(ratios) < MOST_ROUNDS):
        pair = [_seconds(call) for call in ((mine, theirs) if len(ratios) % 2 else (theirs, mine))]
        own, other = pair if len(ratios) % 2 else pair[::-1]
        ratios.append(other / own)
    low, median, high = statistics.quantiles(ratios, n=4)
    return median, low, high, len(ratios)


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    result = call()
    if getattr(result, "is_cuda", False):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def temporary_memory(shape: tuple[int, int]) -> tuple[float, float]:
    """MiB of temporaries of JAX's programs for both gradients: ours, and the composition's."""
    like: Any = jax.ShapeDtypeStruct
    x = like(shape, np.float32)
    programs: list[Any] = [jax.jit(jax.value_and_grad(loss, (0, 1))).lower(x, x).compile() for loss in (ours, in_jax)]
    mine, theirs = (float(program.memory_analysis().temp_size_in_bytes) / 2**20 for program in programs)
    return mine, theirs


def extra_memory(what: str, device: str, results: Any) -> None:
    """MiB that a call takes at its peak beyond its arguments; on the CPU, Linux only."""
    x, y = (torch.from_numpy(z).to(device) for z in logits(SHAPES[0]))
    small = x[:8, :64].clone(), y[:8, :64].clone()  # with which little memory is kept for later calls
    loss = in_torch if "composition" in what else ours
    run = partial(differentiated, loss) if "backward" in what else loss
    run(*small)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        arguments = torch.cuda.memory_allocated()
        run(x, y)
        results.put((torch.cuda.max_memory_allocated() - arguments) / 2**20)
        return
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    run(x, y)
    results.put(_status("VmHWM") - before)


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def exact(x: Any, y: Any) -> float:
    """The mean divergence, in extended precision, of terms that do not cancel."""
    total = np.longdouble(0)
    for a, b in zip(x, y, strict=True):
        q, p = (z.astype(np.longdouble) / TEMPERATURE for z in (a, b))
        difference = p - q
        q, p = (np.exp(z - z.max()) for z in (q, p))
        q, p = q / q.sum(), p / p.sum()
        mean = (p * difference).sum()
        total += np.log1p((p * (np.expm1(mean - difference) - (mean - difference))).sum())
    return float(total / len(x))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.from_logits", description=__doc__)
    parser.add_argument("--only", choices=("speed", "memory", "accuracy"), help="one table alone")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where PyTorch and JAX compute")
    options = parser.parse_args()
    only, device = options.only, options.device
    console = Console(width=140)
    console.print(f"torch {torch.__version__} on {torch.get_num_threads()} threads, jax {jax.__version__}")
    if device == "cuda":
        console.print(torch.cuda.get_device_name(), highlight=False)
    console.print("vectors:", ", ".join(in_use(os.environ)), highlight=False)
    if only in (None, "speed"):
        table = Table("float32, temperature 2", *map(str, SHAPES), title="composition / ours: median (quartiles)")
        cells: dict[str, list[str]] = {}
        for shape in SHAPES:
            for name, mine, theirs in rows(shape, device):
                median, low, high, _ = compare(mine, theirs)
                cells.setdefault(name, []).append(f"{median:.2f} ({low:.2f} to {high:.2f})")
                console.print(f"{shape}: {name}: {cells[name][-1]}", highlight=False)
        for name, each in cells.items():
            table.add_row(name, *each)
        console.print(table)
    if only in (None, "memory"):
        spawn = multiprocessing.get_context("spawn")
        for what in ("forward", "forward and backward", "composition forward", "composition forward and backward"):
            results = spawn.Queue()
            process = spawn.Process(target=extra_memory, args=(what, device, results))
            process.start()
            console.print(f"PyTorch, {SHAPES[0]}, {what}: {results.get():.0f} MiB beyond the arguments")
            process.join()
        programs = temporary_memory(SHAPES[0])
        console.print("JAX, both gradients: {:.0f} MiB of temporaries; composition {:.0f} MiB".format(*programs))
    if only in (None, "accuracy"):
        table = Table("relative error of the mean", "noise", "NumPy", "PyTorch", "composed", "JAX", "composed")
        for shape in ((10, 100), (100, 1000), (1000, 10000)):
            for noise in NOISE:
                x, y = logits(shape, noise)
                wanted, (a, b) = exact(x, y), (torch.from_numpy(z).to(device) for z in (x, y))
                jitted = jax.jit(in_jax)
                values = (
                    ours(x, y),
                    ours(a, b),
                    in_torch(a, b),
                    ours(jax.device_put(x), jax.device_put(y)),
                    jitted(x, y),
                )
                errors = [f"{abs(float(value) / wanted - 1):.1e}" for value in values]
                table.add_row(str(shape), f"{noise:g}", *errors)
        console.print(table)


if __name__ == "__main__":
    main()
