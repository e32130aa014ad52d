"""What the library promises of its speed, judged from what was measured."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.contender import OURS
from benchmarks.results import FLOOR, TIME_WAS_UP, Measured, Results
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
    """Every promise of speed and memory, with what the run found."""
    missing = "not measured in a quick run" if results.options.get("quick") else "not measured in this run"
    if TIME_WAS_UP in results.not_run.values():
        missing = f"not run: {TIME_WAS_UP}"
    judged = []
    for group, promise, found in _promises(results):
        why_not = f"not run: {results.not_run[group]}" if group in results.not_run else missing
        judged.append(Judged(f"{group}, {promise}", *(found or (why_not, None))))
    return judged


Verdict = tuple[str, bool | None]
"""The figure in words, and whether the promise is kept."""
Found = tuple[float, str, str]
"""A ratio, the same with its spread, and where it was measured."""


def _promises(results: Results) -> Iterator[tuple[str, str, Verdict | None]]:
    def at(group: str, shape: Any, gradient: bool = False) -> list[Measured]:
        return results.find(group, shape=shape, gradient=gradient, **USUAL)

    numpy, torch, both = at("NumPy", LARGEST), at("PyTorch", LARGEST), at("PyTorch", LARGEST, gradient=True)
    large, large_both = f"{LARGEST} forward", f"{LARGEST} forward and backward"
    yield "NumPy", f"{large}: 3x as fast as {TORCH}", _faster(numpy, TORCH, 3)
    yield "NumPy", f"{large}: 5x as fast as {SCIPY}", _faster(numpy, SCIPY, 5)
    yield "NumPy", f"{large}: at most 2.5x the floor", _slower(numpy, FLOOR, 2.5)
    yield "PyTorch", f"{large}: 3x as fast as {TORCH}", _faster(torch, TORCH, 3)
    yield "PyTorch", f"{large_both}: 1.4x as fast as {TORCH}", _faster(both, TORCH, 1.4)
    for gradient, limit, mode in ((False, 1.3, "forward"), (True, 1.2, "forward and backward")):
        found = _slower(at("PyTorch", SMALLEST, gradient), TORCH, limit)
        yield "PyTorch", f"{SMALLEST} {mode}: at most {limit}x the time of {TORCH}", found
    found = _faster(results.find("JAX eager", gradient=False, **USUAL), OPTAX, 4)
    yield "JAX eager", f"every size, forward: 4x as fast as {OPTAX}", found
    for gradient, mode in ((False, "forward"), (True, "forward and backward")):
        found = _best_peer(results.find("JAX jitted", gradient=gradient, **USUAL), 1.05)
        yield "JAX jitted", f"every size, {mode}: within 5 % of the best peer's time", found
    yield "NumPy", f"{SMALLEST} forward: not slower than {TORCH}", _slower(at("NumPy", SMALLEST), TORCH, 1)
    for group in ("NumPy", "PyTorch"):
        yield group, f"{large}: at most 8 MiB of extra memory", _memory(results, group, "forward", 8)
    found = _memory(results, "PyTorch", "forward and backward", WITH_GRADIENT_MIB)
    yield "PyTorch", f"{large_both}: the gradient (125 MiB) and at most 16 MiB", found
    for group in ("NumPy", "PyTorch"):
        yield group, "time per element, 10^5 to 10^8 elements: within 25 % of flat", _flat(results, group)
    yield "import kldiv_xp", "at most 1.5x the time of import array_api_compat", _import(results)
    yield "accuracy", "no row worse than twice PyTorch's error", ("see python -m benchmarks accuracy", None)
    cuda, cupy = at("PyTorch CUDA", LARGEST), at("CuPy", LARGEST)
    yield "PyTorch CUDA", f"{large}: 1.5x as fast as {TORCH}", _faster(cuda, TORCH, 1.5)
    yield "PyTorch CUDA", f"{large}: share of the measured bandwidth", _share(cuda)
    yield "CuPy", f"{large}: share of the measured bandwidth", _share(cupy)


def _faster(measured: Sequence[Measured], theirs: str, factor: float) -> Verdict | None:
    """Our speed, in units of theirs, where we are the slowest."""
    ratios = list(_ratios(measured, [theirs]))
    worst = _worst(ratios, 1 / factor)
    return worst and (f"{number(1 / max(ratios)[0])}x as fast; ours / theirs {worst[0]}", worst[1])


def _slower(measured: Sequence[Measured], theirs: str, factor: float) -> Verdict | None:
    """Our time, in units of theirs, where we are the slowest."""
    return _worst(list(_ratios(measured, [theirs])), factor)


def _best_peer(measured: Sequence[Measured], factor: float) -> Verdict | None:
    """Our time, in units of that of the best peer at each size, at the worst size."""
    worst = [max(_ratios([m], m.peers), default=None) for m in measured]
    return _worst([found for found in worst if found is not None], factor)


def _worst(ratios: Sequence[Found], most: float) -> Verdict | None:
    """The largest ratio, and whether it is small enough."""
    if not ratios:
        return None
    value, text, where = max(ratios)
    return text + (f"{where}, the worst of {len(ratios)} sizes" if len(ratios) > 1 else ""), value <= most


def _share(measured: Sequence[Measured]) -> Verdict | None:
    """How close to the floor our time is; nothing is promised of it."""
    for m in measured:
        if (found := m.ratio(OURS, FLOOR)) is not None:
            return f"{1 / found.median:.0%}", None
    return None


def _ratios(measured: Iterable[Measured], peers: Sequence[str]) -> Iterator[Found]:
    """Median of our time over theirs, with its spread, and at which size, for each size and peer."""
    measured = list(measured)
    for m in measured:
        for peer in peers:
            if (found := m.ratio(OURS, peer)) is not None:
                yield found.median, str(found), f" at {m.workload.shape}" + f", against {peer}" * (len(peers) > 1)


def _memory(results: Results, group: str, mode: str, limit: float) -> Verdict | None:
    for entry in results.memory:
        if entry.group == group and entry.name == mode and entry.against == TORCH:
            if entry.not_run is not None:
                return f"not run: {entry.not_run}", None
            peak = max(entry.ours)
            return f"{peak:.1f} MiB", peak <= limit
    return None


def _flat(results: Results, group: str) -> Verdict | None:
    ratios = [e.ratio.median for e in results.flatness if e.group == group and e.ratio is not None]
    if not ratios:
        return None
    text = f"{number(min(ratios))} to {number(max(ratios))} of the median of the sizes"
    return text, min(ratios) >= 0.75 and max(ratios) <= 1.25


def _import(results: Results) -> Verdict | None:
    for entry in results.imports:
        if entry.against == "array_api_compat":
            return (str(entry.ratio), entry.ratio.median <= 1.5) if entry.ratio else (f"not run: {entry.not_run}", None)
    return None
