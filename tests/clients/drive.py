"""Run a client of the loss with the loss that it has, and with ``kldiv_xp`` in its place.

``python tests/clients/drive.py NAME --output FILE`` runs ``programs/NAME.py`` in the environment of that client. A
program has these names:

``LICENCE``, ``WHAT``
    The client's licence, and what is run, in words.
``PACKAGES``
    The packages whose versions are stated.
``losses()``
    The places of the client's losses, each with what replaces it: ``(owner, attribute, replacement)``.
``figures()``
    Losses and gradients, or those of a short training run, by name.
``step()``
    A function that makes one step, to be timed. Optional.
``EXCLUDED``
    What is not run, each with the reason. Optional.
``TESTS``
    Arguments for pytest that select the client's own tests. Optional; ``SDIST`` names the source distribution, with its
    version, that has them, if the installed package does not.
"""

import argparse
import importlib
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tarfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # on a shared machine threads wait for each other, and no time is right
HERE = Path(__file__).parent
ROUNDS = 15
SAME = 1e-5
"""Relative difference of figures that counts as none: some hundred roundings of float32, which training adds up."""
LOSS = "KLDIV_XP_CLIENT_LOSS"
"""Environment variable that says which loss the client's own tests take: ``before`` or ``after``."""

_kept: list[Any] = []


class Calls:
    """Counts the calls of replaced losses, so that a client that does not reach them cannot pass.

    A call by another one, as of the function by the module, does not count.
    """

    def __init__(self) -> None:
        self.count = 0
        self._depth = 0

    @contextmanager
    def _one(self) -> Iterator[None]:
        self.count += self._depth == 0
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def counted(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        """The function, counted; a class, whose instances are counted."""
        if isinstance(loss, type):
            return self._counted_class(loss)

        def counted(*args: Any, **kwargs: Any) -> Any:
            with self._one():
                return loss(*args, **kwargs)

        counted.__name__ = counted.__qualname__ = getattr(loss, "__name__", "loss")
        return counted

    def _counted_class(self, kind: type) -> type:
        calls = self

        class Counted(kind):  # type: ignore[misc]
            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                with calls._one():
                    return super().__call__(*args, **kwargs)

        Counted.__name__ = Counted.__qualname__ = kind.__name__
        return Counted


@contextmanager
def replaced(program: Any, which: str, calls: Calls) -> Iterator[None]:
    """The client with one of the losses: its own, or ``kldiv_xp``."""
    places = program.losses()
    originals = [getattr(owner, name) for owner, name, _ in places]
    try:
        for (owner, name, replacement), original in zip(places, originals, strict=True):
            setattr(owner, name, calls.counted(original if which == "before" else replacement))
        yield
    finally:
        for (owner, name, _), original in zip(places, originals, strict=True):
            setattr(owner, name, original)


def torch_losses() -> list[tuple[Any, str, Any]]:
    """PyTorch's function and module, for clients that look them up in ``torch.nn`` when they call them."""
    import torch

    import kldiv_xp.torch

    return [
        (torch.nn.functional, "kl_div", kldiv_xp.torch.kl_div),
        (torch.nn, "KLDivLoss", kldiv_xp.torch.KLDivLoss),
    ]


def with_torchvision() -> None:
    """Let ``import torchvision`` work where its compiled operators, which no client here calls, do not load.

    Those of the package index need a PyTorch with CUDA.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        library: Any = importlib.import_module("torch.library")
        operators = library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(operators)


def load(name: str) -> Any:
    """The program of a client. By path: it often has the name of the package that it imports."""
    spec = importlib.util.spec_from_file_location(f"client_of_{name}", HERE / "programs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = program
    spec.loader.exec_module(program)
    return program


def largest_difference(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Largest relative difference of figures; infinite if they have other names, or one is not finite."""
    if before.keys() != after.keys():
        return float("inf")
    differences = [0.0]
    for name, figure in before.items():
        if figure != after[name]:
            difference = abs(figure - after[name]) / max(abs(figure), abs(after[name]))
            differences.append(difference if difference == difference else float("inf"))
    return max(differences)


def times_of_a_step(program: Any) -> dict[str, float]:
    """Median time of a step with each loss, in seconds, and the median of their ratios; they take turns."""
    calls, steps = Calls(), {}
    for which in ("before", "after"):
        with replaced(program, which, calls):
            steps[which] = program.step()
            steps[which]()
    seconds: dict[str, list[float]] = {"before": [], "after": []}
    for number in range(ROUNDS):
        for which in ("before", "after") if number % 2 else ("after", "before"):
            with replaced(program, which, calls):
                start = time.perf_counter()
                steps[which]()
                seconds[which].append(time.perf_counter() - start)
    ratios = [after / before for before, after in zip(seconds["before"], seconds["after"], strict=True)]
    return {"ratio": statistics.median(ratios), **{which: statistics.median(s) for which, s in seconds.items()}}


def own_tests(name: str, program: Any, which: str, folder: Path) -> dict[str, str]:
    """Outcome of each of the client's own tests with one of the losses."""
    report = folder / f"{name}-{which}.json"
    report.unlink(missing_ok=True)
    if hasattr(program, "SDIST"):
        where, options = _unpacked(program.SDIST, folder), []
    else:  # without this, pytest finds the configuration of kldiv_xp above the folder
        where, options = folder, [f"--config-file={os.devnull}", "--rootdir=."]
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "drive", "-p", "no:cacheprovider", *options, *program.TESTS],
        cwd=where,
        env={**os.environ, LOSS: f"{which} {name} {report}", "PYTHONPATH": str(HERE)},
        check=False,
    )
    outcomes: dict[str, str] = json.loads(report.read_text())
    return outcomes


def _unpacked(sdist: str, folder: Path) -> Path:
    """Folder of a source distribution, downloaded once."""
    package, _, number = sdist.partition("==")
    found = [path for path in folder.glob(f"{package.replace('-', '_')}-{number}*") if path.is_dir()]
    if not found:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", package, sdist],
            cwd=folder,
            check=True,
        )
        (archive,) = folder.glob(f"{package.replace('-', '_')}-{number}.tar.gz")
        with tarfile.open(archive) as contents:
            contents.extractall(folder, filter="data")
        found = [path for path in folder.glob(f"{package.replace('-', '_')}-{number}*") if path.is_dir()]
    return found[0]


# This file is also a plugin of pytest, in the process that runs the client's own tests.
_outcomes: dict[str, str] = {}
_entered: list[Any] = []
_calls = Calls()


def pytest_configure(config: Any) -> None:  # noqa: ARG001
    """Replace the losses."""
    which, name, _ = os.environ[LOSS].split(" ")
    _entered.append(replaced(load(name), which, _calls))
    _entered[0].__enter__()


def pytest_runtest_logreport(report: Any) -> None:
    """Keep what became of a test: of its call, or of what went before if that did not pass."""
    if report.when == "call" or report.outcome != "passed":
        _outcomes[report.nodeid] = report.outcome


def pytest_sessionfinish(session: Any) -> None:  # noqa: ARG001
    """Write the outcomes."""
    _outcomes["calls of the loss"] = str(_calls.count)
    Path(os.environ[LOSS].split(" ")[2]).write_text(json.dumps(_outcomes))


def run(name: str, folder: Path) -> dict[str, Any]:
    """What became of a client; what it raises is its problem."""
    result: dict[str, Any] = {"client": name}
    try:
        program = load(name)
        result |= {
            "versions": {package: version(package) for package in program.PACKAGES},
            "licence": program.LICENCE,
            "what": program.WHAT,
            "excluded": getattr(program, "EXCLUDED", ()),
        }
        result |= _compared(program)
        if hasattr(program, "step"):
            result["step"] = times_of_a_step(program)
        if hasattr(program, "TESTS"):
            result |= _of_own_tests({which: own_tests(name, program, which, folder) for which in ("before", "after")})
    except Exception as error:
        traceback.print_exc()
        return result | {"problems": [f"{type(error).__name__}: {error}"]}
    return result | {"problems": problems(result)}


def _compared(program: Any) -> dict[str, Any]:
    """The figures with both losses, and how often each was called."""
    figures: dict[str, dict[str, float]] = {}
    count: dict[str, int] = {}
    for which in ("before", "after"):
        calls = Calls()
        with replaced(program, which, calls), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            figures[which] = {key: float(value) for key, value in program.figures().items()}
        count[which] = calls.count
    return {"figures": figures, "calls": count, "difference": largest_difference(figures["before"], figures["after"])}


def _of_own_tests(outcomes: Mapping[str, dict[str, str]]) -> dict[str, Any]:
    before, after = outcomes["before"], outcomes["after"]
    return {
        "calls of tests": [int(outcome.pop("calls of the loss")) for outcome in (before, after)],
        "tests": Counter(before.values()),
        "tests that differ": sorted(
            test for test in before.keys() | after.keys() if before.get(test) != after.get(test)
        ),
    }


def problems(result: Mapping[str, Any]) -> list[str]:
    """What is wrong with a result; empty if the client gives the same with both losses."""
    found = []
    if not result["difference"] <= SAME:
        found.append(f"figures differ by {result['difference']:.2g}")
    if not all(result["calls"].values()):
        found.append(f"the loss was called {result['calls']}")
    if len(set(result["calls"].values())) > 1:
        found.append(f"the loss was not called as often: {result['calls']}")
    if result.get("tests that differ"):
        found.append(f"tests differ: {', '.join(result['tests that differ'])}")
    if "tests" in result and not (result["tests"].get("passed") and all(result["calls of tests"])):
        found.append("no test of the client passes, or none reaches the loss")
    return found


def main() -> int:
    """Run a client, write what became of it, and return 1 if it differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("client", choices=sorted(path.stem for path in (HERE / "programs").glob("*.py")))
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="JSON file to write")
    options = parser.parse_args()
    random.seed(0)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.unlink(missing_ok=True)
    result = run(options.client, options.output.parent.resolve())
    options.output.write_text(json.dumps(result, indent=1))
    print(f"{options.client}: {'; '.join(result['problems']) or 'the same with both losses'}")
    return 1 if result["problems"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
