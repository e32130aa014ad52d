"""What the benchmarks promise of how they measure. Nothing here depends on how long anything takes."""

import gc
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from subprocess import CalledProcessError, TimeoutExpired
from typing import Any

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import processes
from benchmarks import run as runs
from benchmarks.contender import FLOOR, OURS, TORCH, Contender, Group, NotRunError, reason
from benchmarks.groups import GROUPS, load
from benchmarks.groups.numpy import NumPy
from benchmarks.plots import write_plots
from benchmarks.results import Measured, Results, ratio
from benchmarks.run import Budget, measure_workload
from benchmarks.timing import Rounds, Times, loops_for, measure
from benchmarks.workload import LARGEST, SIZES, SMALLEST, Workload, grid, operands


class Clock:
    """A clock that only contenders set forward, and that remembers who did."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []
        self.collecting: list[bool] = []

    def __call__(self) -> float:
        return self.now

    def contender(self, name: str, seconds: float) -> Contender:
        def call() -> float:
            self.now += seconds
            self.calls.append(name)
            self.collecting.append(gc.isenabled())
            return seconds

        return Contender(name, lambda: call)


def test_each_round_measures_all_with_the_same_number_of_calls() -> None:
    clock = Clock()
    contenders = [clock.contender("a", 1e-3), clock.contender("b", 2e-4), clock.contender("c", 3e-4)]
    times = measure(contenders, Rounds(6, 6), clock=clock)
    assert times.loops == 3  # of the fastest, as many as the clock needs
    assert {name: len(seconds) for name, seconds in times.seconds.items()} == {"a": 6, "b": 6, "c": 6}
    assert times.seconds["a"] == pytest.approx([1e-3] * 6)
    measured = clock.calls[-6 * 3 * 3 :]
    rounds = [measured[9 * number : 9 * number + 9] for number in range(6)]
    assert all(Counter(calls) == {"a": 3, "b": 3, "c": 3} for calls in rounds)
    assert len(set(map(tuple, rounds))) > 1  # the order changes
    assert not any(clock.collecting[-6 * 3 * 3 :])
    assert gc.isenabled()


def test_who_cannot_run_is_left_out_with_the_reason() -> None:
    def missing() -> Callable[[], object]:
        import there_is_no_such_package.inside  # type: ignore[import-not-found]  # noqa: F401

        raise AssertionError

    def fails() -> object:
        raise ValueError("no such dtype\nand more")

    contenders = [Contender(OURS, lambda: lambda: 1.0), Contender("a", missing), Contender("b", lambda: fails)]
    times = measure(contenders, Rounds(1, 1))
    assert times.not_run == {"a": "there_is_no_such_package is not installed", "b": "ValueError: no such dtype"}
    assert list(times.seconds) == [OURS]
    assert times.values == {OURS: 1.0}


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 3), (0.25, 5), (9.0, 10)])
def test_rounds_end_with_the_time_but_not_before_the_least(seconds: float, rounds: int) -> None:
    clock = Clock()
    spent = []

    def more(least: float) -> float:
        spent.append(least)
        return seconds

    times = measure([clock.contender("a", 0.1)], Rounds(3, 10, more), clock=clock)
    assert len(times.seconds["a"]) == rounds
    assert spent == [pytest.approx(0.3)]


def test_the_slowest_limits_the_loop_of_all() -> None:
    assert loops_for([1e-5]) == 50
    assert loops_for([1e-6, 2e-3]) == 25
    assert loops_for([1e-6, 1.0]) == 1
    assert loops_for([]) == 1


class Simulated(NumPy):
    """A group of which it is known how long it takes to prepare and to run."""

    def __init__(self, name: str, clock: Clock, prepare: float, per_element: float) -> None:
        super().__init__(name)
        self.clock, self.prepare, self.per_element = clock, prepare, per_element

    def contenders(self, workload: Workload) -> Iterator[Contender]:
        self.clock.now += self.prepare
        yield self.clock.contender(OURS, self.per_element * workload.elements)


@pytest.mark.parametrize(("prepare", "per_element"), [(0.0, 1e-7), (2.0, 1e-8), (4.0, 1e-8)])
def test_all_workloads_have_their_least_rounds_before_any_has_more(prepare: float, per_element: float) -> None:
    clock = Clock()
    groups = [Simulated("slow", clock, prepare, per_element), Simulated("fast", clock, prepare / 2, per_element / 9)]
    steps: list[tuple[Group, Workload]] = [(group, Workload(shape)) for shape in SIZES[::-1] for group in groups]
    budget = Budget(steps, 45.0, clock)
    for number, (group, workload) in enumerate(steps):
        started = clock()
        [contender] = group.contenders(workload)
        times = measure([contender], Rounds(5, 10**6, partial(budget.more, number, started)), clock=clock)
        assert len(times.seconds[OURS]) >= 5
    assert clock() == pytest.approx(45.0, rel=0.05)  # all is used, and no more


def test_the_largest_sizes_come_first_and_the_usual_before_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    order = []

    def measured(group: Group, workload: Workload, *_: Any, **__: Any) -> Measured:
        order.append(workload)
        return Measured(group.name, workload, Times(1, {}))

    monkeypatch.setattr(runs, "measure_workload", measured)
    runs.run(False, ["NumPy"], [])
    assert order == sorted(order, key=lambda workload: (not workload.usual, -workload.elements))
    assert order[0].shape == LARGEST
    assert {workload.dtype for workload in order} == {"float16", "float32", "float64"}


def test_ratios_are_taken_within_a_round() -> None:
    found = ratio([1.0, 20.0, 3.0, 4.0, 5.0], [2.0, 40.0, 3.0, 8.0, 1.0])
    assert found == (0.5, 0.5, 1.0)
    assert str(found) == "0.5 (0.5 to 1)"
    assert ratio([1.0], [4.0]).upper == 0.25


def test_no_ratio_of_what_did_not_run() -> None:
    measured = Measured("NumPy", Workload((2, 3)), Times(1, {OURS: [6.0, 8.0], FLOOR: [3.0, 4.0]}))
    assert measured.ratio(OURS, FLOOR) == (2, 2, 2)
    assert measured.ratio(OURS, TORCH) is None
    assert measured.peers == []


def test_the_grid_has_all_sizes_modes_dtypes_and_targets() -> None:
    workloads = list(grid())
    assert len(set(workloads)) == len(workloads)
    assert SIZES[0] == SMALLEST == (8, 16)
    assert SIZES[-1] == LARGEST == (1024, 32000)
    assert {(w.shape, w.gradient) for w in workloads if w.usual} == {
        (shape, gradient) for shape in SIZES for gradient in (False, True)
    }
    for wanted in (
        {"dtype": "float64"},
        {"dtype": "float16"},
        {"dtype": "bfloat16"},
        {"log_target": True},
        {"reduction": "none"},
    ):
        matching = {w.shape for w in workloads if all(getattr(w, k) == v for k, v in wanted.items())}
        assert len(matching) > 1
    assert set(grid(quick=True)) < set(workloads)
    for sizes in ([(2, 3)], [(2, 3), (4, 5)]):
        chosen = list(grid(sizes))
        assert len(set(chosen)) == len(chosen)
        assert {w.shape for w in chosen} == set(sizes)


def test_the_arrays_are_distributions_in_memory_that_is_shared() -> None:
    x, y = operands(Workload((4, 5)))
    _, log_y = operands(Workload((4, 5), log_target=True))
    assert x.dtype == y.dtype == np.float32
    for probabilities in (np.exp(x), y, np.exp(log_y)):
        np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-6)
    assert operands(Workload((4, 5), gradient=True))[0] is x
    assert operands(Workload((4, 5), "float64"))[0].dtype == np.float64


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize(
    "workload",
    [
        Workload((8, 16)),
        Workload((8, 16), gradient=True),
        Workload((4, 5), log_target=True),
        Workload((4, 5), reduction="none"),
        Workload((4, 5), "float64"),
        Workload((4, 5), "float16"),
    ],
    ids=str,
)
def test_all_contenders_of_a_group_compute_the_same_loss(name: str, workload: Workload) -> None:
    try:
        group = load(name)
    except (ImportError, NotRunError) as error:
        pytest.skip(reason(error))
    measured = measure_workload(group, workload, Rounds(1, 1))
    assert measured.times.not_run == {}
    assert measured.ours[0] == OURS
    assert measured.peers
    assert measured.ratio(OURS, FLOOR)
    x, y = (a.astype(np.float64) for a in operands(workload))
    exact = (np.exp(y) * (y - x) if workload.log_target else y * (np.log(y) - x)).sum()
    for contender, value in measured.times.values.items():
        expected = exact if workload.reduction == "none" else exact / workload.shape[0]
        assert value == pytest.approx(expected, rel=1e-3 if workload.dtype == "float16" else 1e-5), contender


def test_what_is_not_installed_is_left_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "benchmarks.groups.torch", raising=False)
    for name in ("torch", "scipy.special", "cupy"):
        monkeypatch.setitem(sys.modules, name, None)
    results = runs.run(True, ["NumPy", "PyTorch", "PyTorch CUDA", "CuPy"], [(2, 3)], rounds=1)
    assert results.not_run["PyTorch"] == results.not_run["PyTorch CUDA"] == "torch is not installed"
    assert results.not_run["CuPy"] == "cupy is not installed"
    assert results.measured[0].peers == ["NumPy formula"]
    assert set(results.measured[0].times.not_run.values()) == {"torch is not installed", "scipy is not installed"}


@pytest.mark.skipif(sys.platform != "linux", reason="the peak memory of a process is read from /proc")
def test_the_peak_of_memory_sees_what_was_allocated_and_freed() -> None:
    def allocate() -> None:
        np.ones(32 * processes.MIB // 8)  # gone when the call ends

    assert 31 <= processes.peak_of(allocate) <= 36
    assert processes.peak_of(lambda: None) <= 4


def test_a_new_process_says_what_it_found_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes.run("-c", "print('noise'); print(1.5)") == 1.5
    with pytest.raises(CalledProcessError):
        processes.run("-c", "raise ValueError('no')")
    monkeypatch.setattr(processes, "LONGEST", 0.5)
    with pytest.raises(TimeoutExpired):
        processes.run("-c", "import time; time.sleep(60)")


def test_imports_are_measured_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "ROUNDS", 1)
    [found] = processes.measure_imports()
    assert list(found.figures) == ["kldiv_xp", "array_api_compat", "numpy"]
    assert all(len(times) == 1 and times[0] > 0 for times in found.figures.values())


def test_the_command_writes_tables_data_and_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, plots = tmp_path / "new" / "found.json", tmp_path / "plots"
    given = ["--quick", "--group", "NumPy", "--group", "CuPy", "--size", "8x16", "--size", "4x4", "--rounds", "2"]
    assert command.main([*given, "--json", str(data), "--plots", str(plots)]) == 0
    printed = capsys.readouterr().out
    assert "scipy.special.rel_entr" in printed
    assert "…" not in printed
    assert str(data) in printed
    found = json.loads(data.read_text())
    assert {"CPU", "commit", "numpy", "torch"} <= set(found["machine"])
    assert found["threads"]["NumPy"].startswith("1 thread, ours in ")
    first = next(m for m in found["measured"] if m["workload"]["shape"] == [8, 16])
    assert (first["group"], first["workload"]["dtype"]) == ("NumPy", "float32")
    assert len(first["times"]["seconds"][OURS]) == 2
    assert {r["theirs"] for r in first["ratios"]} >= {TORCH, FLOOR}
    assert (plots / "numpy.svg").read_text().count("<svg") == 1


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--json", "directory"], "cannot write directory: it is a directory"),
        (["--json", "file/found.json"], "cannot write file/found.json: file is not a directory"),
        (["--plots", "file"], "file is not a directory"),
        (["--plots", "plots"], "cannot write plots/numpy.svg: it is a directory"),
        (["--plots", "new", "--json", "new/numpy.svg"], "cannot write new/numpy.svg: this command also writes"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_measured(
    given: list[str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for directory in ("directory", "plots/numpy.svg"):
        Path(directory).mkdir(parents=True)
    Path("file").touch()
    monkeypatch.setattr(command, "run", lambda *_: pytest.fail("it measures"))
    with pytest.raises(SystemExit) as refused:
        command.main(given)
    assert refused.value.code == 2
    assert reason in capsys.readouterr().err


def test_a_plot_has_no_line_over_what_was_not_measured(tmp_path: Path) -> None:
    def at(shape: tuple[int, ...], *names: str) -> Measured:
        seconds = {name: [1e-6, 2e-6] for name in names}
        return Measured("NumPy", Workload(shape), Times(1, seconds))

    lines = [at((1, 2), OURS, "ours now and then"), at((3, 4), OURS), at((5, 6), OURS, "ours now and then")]
    [path] = write_plots(Results({}, {}, {"NumPy": "1 thread"}, measured=lines), tmp_path)
    assert "ours now and then" in path.read_text()


def test_unknown_groups_and_sizes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for given in (["--group", "OneFlow"], ["--size", "8by16"], ["--rounds", "0"]):
        with pytest.raises(SystemExit):
            command.main(given)
    assert "invalid size value: '8by16'" in capsys.readouterr().err
