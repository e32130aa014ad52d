"""What the library promises of its speed, judged from what was measured."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.contender import OURS
from benchmarks.results import FLOOR, Measured, Results
from benchmarks.statistics import number
from benchmarks.workload import LARGEST, SMALLEST

TORCH = "torch.nn.functional.kl_div"
SCIPY = "scipy.special.rel_entr"
OPTAX = "optax.losses.kl_divergence"
USUAL: dict[str, Any] = {"dtype": "float32", "log_target": False, "reduction": "batchmean"}
WITH_GRADIENT_MIB = 1024 * 32000 * 4 / 2**20 + 16
"""The gradient itself, and a little."""


@dataclass(frozen=True)
class Judged:
    """One promise, the figure that was measured, and whether it is kept; None where it was not measured."""

    promise: str
    measured: str
    met: bool | None

    @property
    def verdict(self) -> str:
        """What was found, in a word or two."""
        return {True: "met", False: "falls short", None: self.measured}[self.met]


def judge(results: Results) -> list[Judged]:
    """Every promise that a run can show, in the order of the issue that made them."""
    missing = "not measured in a quick run" if results.options.get("quick") else "not measured in this run"
    return [Judged(promise, *(found or (missing, None))) for promise, found in _judgements(results)]


Found = tuple[str, bool | None] | None


def _judgements(results: Results) -> Iterator[tuple[str, Found]]:
    def at(group: str, shape: Any, gradient: bool = False) -> list[Measured]:
        return results.find(group, shape=shape, gradient=gradient, **USUAL)

    numpy = at("NumPy", LARGEST)
    large = "float32, (1024, 32000), batchmean"
    yield f"NumPy, {large}, forward: 3x as fast as {TORCH}", _faster(numpy, TORCH, 3)
    yield f"NumPy, {large}, forward: 5x as fast as {SCIPY}", _faster(numpy, SCIPY, 5)
    yield f"NumPy, {large}, forward: at most 2.5x the floor", _slower(numpy, FLOOR, 2.5)
    yield f"PyTorch, {large}, forward: 3x as fast as {TORCH}", _faster(at("PyTorch", LARGEST), TORCH, 3)
    both = at("PyTorch", LARGEST, gradient=True)
    yield f"PyTorch, {large}, forward and backward: 1.4x as fast as {TORCH}", _faster(both, TORCH, 1.4)
    small = "PyTorch, (8, 16)"
    yield f"{small}, forward: at most 1.3x the time of {TORCH}", _slower(at("PyTorch", SMALLEST), TORCH, 1.3)
    both = at("PyTorch", SMALLEST, gradient=True)
    yield f"{small}, forward and backward: at most 1.2x the time of {TORCH}", _slower(both, TORCH, 1.2)
    eager = results.find("JAX eager", gradient=False, **USUAL)
    yield f"JAX eager, every size, forward: 4x as fast as {OPTAX}", _faster(eager, OPTAX, 4)
    for gradient in (False, True):
        jitted = results.find("JAX jitted", gradient=gradient, **USUAL)
        mode = "forward and backward" if gradient else "forward"
        yield f"JAX jitted, every size, {mode}: within 5 % of the best peer's time", _best_peer(jitted, 1.05)
    yield f"NumPy, (8, 16), forward: not slower than {TORCH}", _slower(at("NumPy", SMALLEST), TORCH, 1)
    for group in ("NumPy", "PyTorch"):
        yield f"{group}, {large}, forward: at most 8 MiB of extra memory", _memory(results, group, "forward", 8)
    yield (
        f"PyTorch, {large}, forward and backward: the gradient (125 MiB) and at most 16 MiB",
        _memory(results, "PyTorch", "forward and backward", WITH_GRADIENT_MIB),
    )
    for group in ("NumPy", "PyTorch"):
        yield f"{group}, time per element, 10^5 to 10^8 elements: within 25 % of flat", _flat(results, group)
    yield "import kldiv_xp: at most 1.5x the time of import array_api_compat", _import(results)
    yield "accuracy: no row worse than twice PyTorch's error", ("see python -m benchmarks accuracy", None)
    for group, theirs, factor in (("PyTorch CUDA", TORCH, 1.5), ("CuPy", TORCH, 1.0)):
        found: Found = _faster(at(group, LARGEST), theirs, factor)
        if group in results.not_run:
            found = (f"not run: {results.not_run[group]}", None)
        yield f"{group}, {large}, forward: {factor:g}x as fast as {theirs}", found


def _faster(measured: Sequence[Measured], theirs: str, factor: float) -> Found:
    """Our speed, in units of theirs, where we are the slowest."""
    ratios = list(_ratios(measured, [theirs]))
    if not ratios:
        return None
    value, text, where = max(ratios)
    return f"{number(1 / value)}x as fast; ours / theirs {text}{where}", 1 / value >= factor


def _slower(measured: Sequence[Measured], theirs: str, factor: float) -> Found:
    """Our time, in units of theirs."""
    ratios = list(_ratios(measured, [theirs]))
    if not ratios:
        return None
    value, text, where = max(ratios)
    return f"{text}{where}", value <= factor


def _best_peer(measured: Sequence[Measured], factor: float) -> Found:
    """Our time, in units of that of the best peer at each size, at the worst size."""
    worst = [max(_ratios([m], m.peers), default=None) for m in measured]
    ratios = [found for found in worst if found is not None]
    if not ratios:
        return None
    value, text, where = max(ratios)
    return f"{text}{where}", value <= factor


def _ratios(measured: Iterable[Measured], peers: Sequence[str]) -> Iterator[tuple[float, str, str]]:
    """Median of our time over theirs, with its spread, and at which size, for each size and peer."""
    measured = list(measured)
    for m in measured:
        for peer in peers:
            if (found := m.ratio(OURS, peer)) is not None:
                where = f" at {m.workload.shape}" if len(measured) > 1 or len(peers) > 1 else ""
                against = f" against {peer}" if len(peers) > 1 else ""
                yield found.median, str(found), where + against


def _memory(results: Results, group: str, mode: str, limit: float) -> Found:
    for entry in results.memory:
        if entry.group == group and entry.name == f"{OURS}, {mode}":
            if entry.not_run is not None:
                return f"not run: {entry.not_run}", None
            peak = max(entry.values)
            return f"{peak:.1f} MiB", peak <= limit
    return None


def _flat(results: Results, group: str) -> Found:
    ratios = [e.ratio.median for e in results.flatness if e.group == group and e.ratio is not None]
    if not ratios:
        return None
    text = f"{number(min(ratios))} to {number(max(ratios))} of the median of the sizes"
    return text, min(ratios) >= 0.75 and max(ratios) <= 1.25


def _import(results: Results) -> Found:
    for entry in results.imports:
        if entry.against == "array_api_compat":
            return (str(entry.ratio), entry.ratio.median <= 1.5) if entry.ratio else (f"not run: {entry.not_run}", None)
    return None
