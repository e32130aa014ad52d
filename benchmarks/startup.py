"""What a process pays once: importing the library, and the first call, in which compilers compile.

``python -m benchmarks.startup GROUP CONTENDER`` is one first call.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from tempfile import TemporaryDirectory

from benchmarks import child
from benchmarks.contender import OURS
from benchmarks.groups import group_named
from benchmarks.results import Entry
from benchmarks.workload import Workload

IMPORTED = ("kldiv_xp", "array_api_compat", "numpy", "torch")
"""The first is compared with each of the others."""
PAIRS = {"kldiv_xp": 21, "array_api_compat": 21, "numpy": 21, "torch": 3}
FIRST = Workload((32, 128))
TORCH = "torch.nn.functional.kl_div"
OPTAX = "optax.losses.kl_divergence"
FIRST_CALLS = [
    ("NumPy", (OURS, "NumPy formula"), 5),
    ("PyTorch", (OURS, TORCH), 3),
    ("JAX eager", (OURS, OPTAX), 3),
    ("JAX jitted", (OURS, OPTAX), 3),
    ("PyTorch", (f"{OURS} compiled", f"{TORCH} compiled"), 2),
]
"""Group, contenders, and how many processes each gets: a call of ``torch.compile`` takes some ten seconds."""


def measure_imports(*, quick: bool, advance: Callable[[str], None]) -> Iterator[Entry]:
    """Seconds of an import in a process of its own, in turns with the others."""
    there = [name for name in IMPORTED if find_spec(name) and not (quick and name == "torch")]
    seconds: dict[str, list[float]] = {name: [] for name in there}
    with TemporaryDirectory(prefix="kldiv_xp-benchmarks-") as bytecode:
        # Installed packages have bytecode, whatever an environment says of writing it.
        compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": bytecode}
        for number in range(-1, 7 if quick else max(PAIRS.values())):
            advance(f"import: round {number + 1}")
            for name in there if number % 2 else there[::-1]:
                if number < PAIRS[name]:
                    program = (
                        "import json, time; started = time.perf_counter();"
                        f" import {name}; print(json.dumps(time.perf_counter() - started))"
                    )
                    taken = child.run(["-c", program], compiled)
                    if number >= 0:  # the first is a warm-up, which compiles to bytecode
                        seconds[name].append(taken)
    for name in IMPORTED[1:]:
        entry = Entry("import", "kldiv_xp", name, "s")
        if name in there:
            yield replace(entry, ours=seconds["kldiv_xp"][: len(seconds[name])], theirs=seconds[name])
        else:
            yield replace(entry, not_run=_why_not(name))


def measure_first_calls(advance: Callable[[str], None]) -> Iterator[Entry]:
    """Seconds of the first call in a process, imports apart, with the compilers' caches off."""
    for group, names, repetitions in FIRST_CALLS:
        entry = Entry(group, *names, "s")
        if reason := group_named(group).not_run():
            yield replace(entry, not_run=reason)
            continue
        seconds: dict[str, list[float]] = {name: [] for name in names}
        try:
            for number in range(repetitions):
                for name in names if number % 2 else names[::-1]:
                    advance(f"first call: {group}, {name}")
                    seconds[name].append(_first_call(group, name))
        except child.ChildError as error:
            yield replace(entry, not_run=str(error))
        else:
            yield replace(entry, ours=seconds[names[0]], theirs=seconds[names[1]])


def _first_call(group: str, name: str) -> float:
    with TemporaryDirectory(prefix="kldiv_xp-benchmarks-") as empty:
        no_caches = {
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
            "TORCHINDUCTOR_CACHE_DIR": empty,
        }
        taken: float = child.run(["-m", __spec__.name, group, name], no_caches)
    return taken


def _why_not(name: str) -> str:
    return "not measured in a quick run" if find_spec(name) else f"{name} is not installed"


def main(arguments: Sequence[str]) -> None:
    """Time one first call in this process, and print the seconds."""
    group_name, contender = arguments
    group = group_named(group_name)
    with group.context(FIRST):
        call = next(c for c in group.contenders(FIRST) if c.name == contender).prepare()
        started = time.perf_counter()
        call()
        print(json.dumps(time.perf_counter() - started))


if __name__ == "__main__":
    main(sys.argv[1:])
