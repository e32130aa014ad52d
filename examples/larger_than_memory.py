"""The loss of 4 GB of log-probabilities and probabilities, on two processes that may hold less than 1 GB each.

    python examples/larger_than_memory.py                     # Dask; each block is generated where it is needed
    python examples/larger_than_memory.py --source zarr       # Dask; from files
    python examples/larger_than_memory.py --engine cubed      # Cubed; from files
    python examples/larger_than_memory.py --loss kl_div_with_logits    # of 4 GB of logits; with any of these

The peak of each process's resident memory is measured and must stay below the limit, and the loss must be the exact
one, up to rounding. Dask is also timed against the same graph in one process, in turns. Linux only: that is where the
kernel says what the peak of a process was. Files go to a temporary directory, which is removed.
"""

import argparse
import math
import statistics
import time
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from kldiv_xp import kl_div, kl_div_with_logits

if TYPE_CHECKING:
    from collections.abc import Callable

WORKERS = 2
CLASSES = 1000
ROWS = 8000
"""Rows in a block: 32 MB in float32. Of blocks of 8 MB, scheduling takes as long as computing."""
PERIOD = 251
"""Rows after which the data repeat themselves, so that the exact loss is known. No block is like the next one."""
LIMIT = 1e9
LOSSES: "dict[str, Callable[..., Any]]" = {"kl_div": kl_div, "kl_div_with_logits": kl_div_with_logits}

Block = np.ndarray[Any, np.dtype[np.float32]]


def main() -> None:
    """Compute the loss with one engine, and say what it took."""
    parser = argparse.ArgumentParser(description="The loss of arrays that are larger than memory.")
    parser.add_argument("--engine", choices=("dask", "cubed"), default="dask")
    parser.add_argument("--loss", choices=tuple(LOSSES), default="kl_div", help="default: kl_div")
    parser.add_argument("--source", choices=("generated", "zarr"), help="default: generated for Dask, zarr for Cubed")
    parser.add_argument("--size", type=float, default=4.0, metavar="GB", help="of both arrays together; default: 4")
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is timed; default: 3")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    if options.engine == "cubed" and options.source == "generated":
        parser.error("--engine cubed reads from files")
    blocks = max(math.ceil(options.size * 1e9 / (2 * 4 * ROWS * CLASSES)), 2)
    from_files = options.engine == "cubed" or options.source == "zarr"
    source = "Zarr files" if from_files else "generated blocks"
    print(f"{2 * 4 * blocks * ROWS * CLASSES / 1e9:.2f} GB of float32 in {blocks} blocks of each array, from {source}")
    with TemporaryDirectory(prefix="larger_than_memory-") as name:
        directory = Path(name)
        if from_files:
            write(directory, options.loss, blocks)
        if options.engine == "cubed":
            values, peaks = with_cubed(directory, options.loss, options.rounds)
        else:
            values, peaks = with_dask(directory if from_files else None, options.loss, blocks, options.rounds)
    check(values, peaks, options.loss, blocks)


def repeated(rows: Any, loss: str, operand: str) -> Block:
    """Rows of an array, by their numbers: what the loss takes as its input or its target."""
    logits = np.random.default_rng(len(operand)).normal(0.0, 2.0, (PERIOD, CLASSES))
    pattern = logits if loss == "kl_div_with_logits" else normalized(logits, operand)
    return np.asarray(pattern.astype(np.float32)[np.asarray(rows) % PERIOD])


def normalized(logits: Any, operand: str) -> Any:
    """Log-probabilities for the input, probabilities for the target."""
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return np.exp(log_probabilities) if operand == "target" else log_probabilities


def exact_loss(loss: str, blocks: int) -> tuple[float, float]:
    """The ``"batchmean"`` loss, and how much rounding may change it: 8 times the size of the terms times epsilon."""
    every_row = np.arange(PERIOD)
    x, y = (repeated(every_row, loss, operand).astype(np.float64) for operand in ("input", "target"))
    if loss == "kl_div_with_logits":
        x, y = normalized(x, "input"), normalized(y, "target")
    counts = np.bincount(np.arange(blocks * ROWS) % PERIOD, minlength=PERIOD)
    terms, sizes = y * (np.log(y) - x), y * (np.abs(np.log(y)) + np.abs(x) + 1)
    value, size = (
        math.fsum(int(n) * math.fsum(row) for n, row in zip(counts, a, strict=True)) / (blocks * ROWS)
        for a in (terms, sizes)
    )
    return value, 8 * float(np.finfo(np.float32).eps) * size


def check(values: list[float], peaks: dict[str, float], loss: str, blocks: int) -> None:
    """Raise unless the losses are right and the memory is within the limit."""
    exact, tolerance = exact_loss(loss, blocks)
    print(f"loss {values[0]!r}, exactly {exact!r}: within {tolerance:.1g}")
    for name, peak in peaks.items():
        print(f"peak memory of {name}: {peak / 1e6:.0f} MB")
    assert all(abs(value - exact) <= tolerance for value in values), values
    assert all(peak < LIMIT for peak in peaks.values()), f"more than {LIMIT / 1e9:.0f} GB"


def with_dask(directory: Path | None, name: str, blocks: int, rounds: int) -> tuple[list[float], dict[str, float]]:
    """Losses, and the peak memory of each worker; prints the times, which are taken in turns."""
    da, distributed = import_module("dask.array"), import_module("distributed")  # not typed upstream

    if directory is None:
        rows = da.arange(blocks * ROWS, chunks=ROWS)
        shape = {"chunks": (rows.chunks[0], (CLASSES,)), "new_axis": 1, "dtype": np.float32}
        x, y = (rows.map_blocks(repeated, name, operand, **shape) for operand in ("input", "target"))
    else:
        x, y = (da.from_zarr(directory / operand) for operand in ("input", "target"))
    loss: Any = LOSSES[name](x, y, "batchmean")  # nothing is computed yet

    with (
        distributed.LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=1,
            memory_limit=int(LIMIT),
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        ready = client.run(peak_memory)  # with the library and NumPy loaded, and nothing computed
        future = client.compute(loss)
        distributed.progress(future)
        values = [float(future.result())]
        print()
        ways: dict[str, Callable[[], Any]] = {
            f"{WORKERS} worker processes of 1 thread": lambda: client.compute(loss).result(),
            "1 process, 1 thread": lambda: loss.compute(scheduler="synchronous"),
            f"1 process, {WORKERS} threads": lambda: loss.compute(scheduler="threads", num_workers=WORKERS),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(1, rounds + 1):
            print(f"timing, round {number} of {rounds}", flush=True)
            for way, compute in ways.items():
                started = time.perf_counter()
                values.append(float(compute()))
                times[way].append(time.perf_counter() - started)
        peaks = client.run(peak_memory)
    for way, taken in times.items():
        spread = f"{min(taken):.1f} to {max(taken):.1f}"
        print(f"{way}: {statistics.median(taken):.1f} s (median of {rounds}; {spread})")
    for number, (before, after) in enumerate(zip(ready.values(), peaks.values(), strict=True), start=1):
        print(f"worker {number}: {before / 1e6:.0f} MB before the first block, {after / 1e6:.0f} MB at its peak")
    return values, {f"worker {number}": peak for number, peak in enumerate(peaks.values(), start=1)}


def with_cubed(directory: Path, name: str, rounds: int) -> tuple[list[float], dict[str, float]]:
    """Losses, and the peak memory of any worker; prints the plan and the times."""
    import cubed
    from cubed.diagnostics.rich import RichProgressBar

    processes = cubed.runtime.create.create_executor("processes", {"max_workers": WORKERS})
    reserved = cubed.measure_reserved_mem(processes, work_dir=str(directory))  # what a process takes to begin with
    spec = cubed.Spec(str(directory), allowed_mem=int(LIMIT), reserved_mem=reserved, executor=processes)
    x, y = (cubed.from_zarr(str(directory / operand), spec=spec) for operand in ("input", "target"))
    loss: Any = LOSSES[name](x, y, "batchmean")
    plan = loss.plan()
    print(
        f"plan: {plan.num_primitive_ops} operations, {plan.num_tasks} tasks, at most"
        f" {plan.max_projected_mem / 1e6:.0f} MB for one, of which {reserved / 1e6:.0f} MB before it begins;"
        f" {plan.total_intermediate_nbytes / 1e6:.2f} MB between operations"
    )
    peaks: list[float] = []

    class Peak(cubed.Callback):  # type: ignore[misc]
        """Notes the memory of the processes that tasks ran in."""

        def on_task_end(self, event: Any) -> None:
            peaks.append(float(event.peak_measured_mem_end or math.inf))

    values, times = [], []
    for number in range(rounds):
        started = time.perf_counter()
        callbacks = [Peak(), RichProgressBar()] if number == 0 else [Peak()]
        values.append(float(loss.compute(callbacks=callbacks)))
        times.append(time.perf_counter() - started)
    spread = f"{min(times):.1f} to {max(times):.1f}"
    print(f"{WORKERS} processes of 1 thread: {statistics.median(times):.1f} s (median of {rounds}; {spread})")
    return values, {"the largest process": max(peaks)}


def write(directory: Path, loss: str, blocks: int) -> None:
    """Write both arrays to files, block by block, uncompressed."""
    import zarr

    for operand in ("input", "target"):
        array = zarr.create_array(
            directory / operand,
            shape=(blocks * ROWS, CLASSES),
            chunks=(ROWS, CLASSES),
            dtype="float32",
            compressors=None,
        )
        for number in range(blocks):
            rows = slice(number * ROWS, (number + 1) * ROWS)
            array[rows] = repeated(np.arange(rows.start, rows.stop), loss, operand)
            print(f"\rwriting {operand}: {number + 1} of {blocks} blocks", end="", flush=True)
        print()


def peak_memory() -> float:
    """Most resident memory that this process ever had, in bytes.

    Not ``ru_maxrss`` of ``getrusage``, in which the parent of a new process counts, too.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * float(next(line for line in lines if line.startswith("VmHWM")).split()[1])


if __name__ == "__main__":
    main()
