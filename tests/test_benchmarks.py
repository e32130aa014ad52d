"""What the benchmarks promise of how they measure. Nothing here depends on how long anything takes."""

import gc
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import child, flatness, memory
from benchmarks.contender import OURS, Contender, Role, fastest, ours, part, peer
from benchmarks.flatness import measure_flatness
from benchmarks.groups import Group, all_groups
from benchmarks.groups.numpy import NumPy
from benchmarks.machine import Others
from benchmarks.report.plots import write_plots
from benchmarks.results import FLOOR, Entry, Measured, Results
from benchmarks.run import measure_workload
from benchmarks.statistics import number, ratio
from benchmarks.targets import judge
from benchmarks.timing import Rounds, Times, loops_for, measure, orders
from benchmarks.workload import LARGEST, SIZES, SMALLEST, Workload, grid, operands, quick_grid

TORCH = "torch.nn.functional.kl_div"


class Clock:
    """A clock that only contenders set forward, and that remembers who did."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []
        self.collecting: list[bool] = []

    def __call__(self) -> float:
        return self.now

    def contender(self, name: str, seconds: float, role: Role = Role.PEER) -> Contender:
        def call() -> None:
            self.now += seconds
            self.calls.append(name)
            self.collecting.append(gc.isenabled())

        return Contender(name, role, lambda: call)


@pytest.mark.parametrize("count", range(1, 8))
def test_everyone_follows_everyone_else_equally_often(count: int) -> None:
    names = [str(i) for i in range(count)]
    rounds = list(islice(orders(names), 2 * count))
    assert all(sorted(order) == names for order in rounds)
    neighbours = Counter(pair for order in rounds for pair in pairwise(order))
    assert set(neighbours.values()) <= {2}
    assert len(neighbours) == count * (count - 1)


def test_each_round_measures_all_with_the_same_number_of_calls() -> None:
    clock = Clock()
    contenders = [clock.contender("a", 1e-3), clock.contender("b", 2e-4), clock.contender("c", 3e-4)]
    times = measure(contenders, Rounds(6, 6), clock=clock)
    assert times.loops == 3  # of the fastest, as many as the clock needs
    assert {name: len(seconds) for name, seconds in times.seconds.items()} == {"a": 6, "b": 6, "c": 6}
    assert times.seconds["a"] == pytest.approx([1e-3] * 6)
    measured = clock.calls[-6 * 3 * 3 :]
    for number_of_round in range(6):
        assert Counter(measured[9 * number_of_round : 9 * number_of_round + 9]) == {"a": 3, "b": 3, "c": 3}
    assert not any(clock.collecting[-6 * 3 * 3 :])
    assert gc.isenabled()


def test_who_cannot_run_is_left_out_with_the_reason() -> None:
    def missing() -> Callable[[], object]:
        import there_is_no_such_package.inside  # type: ignore[import-not-found]  # noqa: F401

        raise AssertionError

    def fails() -> object:
        raise ValueError("no such dtype\nand more")

    contenders = [ours(lambda: lambda: 1.0), peer("missing", missing), peer("fails", lambda: fails)]
    times = measure(contenders, Rounds(1, 1), float)
    assert times.not_run == {
        "missing": "there_is_no_such_package is not installed",
        "fails": "ValueError: no such dtype",
    }
    assert list(times.seconds) == [OURS]
    assert times.values == {OURS: 1.0}


def test_rounds_end_with_the_time_but_not_before_the_least() -> None:
    rounds = Rounds(least=3, most=10, seconds=1.0)
    assert not rounds.enough(2, 100.0)
    assert rounds.enough(3, 0.9)  # one more would take longer than there is
    assert not rounds.enough(3, 0.5)
    assert rounds.enough(10, 0.0)


def test_the_slowest_limits_the_loop_of_all() -> None:
    assert loops_for([1e-5]) == 50
    assert loops_for([1e-6, 2e-3]) == 25
    assert loops_for([1e-6, 1.0]) == 1
    assert loops_for([]) == 1


def test_ratios_are_taken_within_a_round() -> None:
    found = ratio([1.0, 20.0, 3.0, 4.0, 5.0], [2.0, 40.0, 3.0, 8.0, 1.0])
    assert (found.median, found.lower, found.upper) == (0.5, 0.5, 1.0)
    assert (found.least, found.most, found.rounds) == (0.5, 5.0, 5)
    assert str(found) == "0.5 (0.5 to 1.00)"
    assert ratio([1.0], [4.0]).upper == 0.25
    assert [number(v) for v in (0.01234, 1.5, 31.41, 12345.6)] == ["0.0123", "1.50", "31.4", "12,346"]


def test_the_floor_is_the_sum_of_its_parts_or_nothing() -> None:
    roles = {OURS: Role.OURS, "floor: log": Role.PART, "floor: read": Role.PART}
    seconds = {OURS: [6.0, 8.0], "floor: log": [1.0, 1.0], "floor: read": [2.0, 3.0]}
    measured = Measured("NumPy", Workload((2, 3)), roles, Times(1, seconds))
    assert measured.seconds(FLOOR) == [3.0, 4.0]
    assert measured.ratio(OURS, FLOOR) == ratio([2.0, 2.0], [1.0, 1.0])
    del seconds["floor: read"]
    assert measured.ratio(OURS, FLOOR) is None
    assert measured.ratio(OURS, TORCH) is None


def test_a_part_of_the_floor_is_the_fastest_of_its_candidates() -> None:
    calls = [lambda: time.sleep(0.02), lambda: None]
    assert fastest(calls) is calls[1]
    assert part("log", lambda: calls).role == Role.PART


def test_the_grid_has_all_sizes_modes_dtypes_and_targets() -> None:
    workloads = list(grid())
    assert len(set(workloads)) == len(workloads)
    assert SIZES[0] == (8, 16)
    assert SIZES[-1] == (1024, 32000)
    assert {(w.shape, w.gradient) for w in workloads if w == Workload(w.shape, gradient=w.gradient)} == {
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
    assert set(quick_grid()) < set(workloads)
    assert {w.shape for w in grid([(2, 3)])} == {(2, 3)}


def test_the_arrays_are_distributions_in_memory_that_is_shared() -> None:
    x, y = operands(Workload((4, 5)))
    _, log_y = operands(Workload((4, 5), log_target=True))
    assert x.dtype == y.dtype == np.float32
    for probabilities in (np.exp(x), y, np.exp(log_y)):
        np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-6)
    assert operands(Workload((4, 5), gradient=True))[0] is x
    assert operands(Workload((4, 5), "float64"))[0].dtype == np.float64


def groups_here() -> Iterator[Any]:
    for group in all_groups(compiled=False):
        reason = group.not_run()
        yield pytest.param(group, id=group.name, marks=[pytest.mark.skip(reason=reason)] if reason else [])


@pytest.mark.parametrize("group", list(groups_here()))
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
def test_all_contenders_of_a_group_compute_the_same_loss(group: Group, workload: Workload) -> None:
    measured = measure_workload(group, workload, Rounds(1, 1))
    assert measured.times.not_run == {}
    assert measured.ours[0] == OURS
    assert measured.peers
    assert measured.has(FLOOR)
    x, y = (a.astype(np.float64) for a in operands(workload))
    exact = (np.exp(y) * (y - x) if workload.log_target else y * (np.log(y) - x)).sum()
    for name, value in measured.times.values.items():
        expected = exact if workload.reduction == "none" else exact / workload.shape[0]
        assert value == pytest.approx(expected, rel=1e-3 if workload.dtype == "float16" else 1e-5), name


def test_what_is_not_installed_is_left_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "scipy.special", "optax", "cupy"):
        monkeypatch.setitem(sys.modules, name, None)
    reasons = {group.name: group.not_run() for group in all_groups()}
    assert reasons["PyTorch"] == reasons["PyTorch CUDA"] == "torch is not installed"
    assert reasons["CuPy"] == "cupy is not installed"
    assert reasons["NumPy"] is None
    measured = measure_workload(NumPy(), Workload((2, 3)), Rounds(1, 1))
    assert measured.peers == ["NumPy formula"]
    assert set(measured.times.not_run.values()) == {"torch is not installed", "scipy is not installed"}


@pytest.mark.skipif(memory.unavailable() is not None, reason="the peak memory of a process is read from /proc")
def test_the_peak_of_memory_sees_what_was_allocated_and_freed() -> None:
    def allocate() -> None:
        np.ones(32 * memory.MIB // 8)  # gone when the call ends

    assert 31 <= memory.peak_of(allocate) <= 36
    assert memory.peak_of(lambda: None) <= 4


def test_a_new_process_says_what_it_found_or_why_it_failed() -> None:
    assert child.run(["-c", "print('noise'); print('[1.5]')"]) == [1.5]
    with pytest.raises(child.ChildError, match="ValueError: no"):
        child.run(["-c", "raise ValueError('no')"])


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
def test_no_process_is_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(child, "LONGEST", 1.0)
    started = tmp_path / "pid"
    program = (
        "import pathlib, subprocess, sys, time; sleeper = subprocess.Popen([sys.executable, '-c', 'import time;"
        f" time.sleep(60)']); pathlib.Path({str(started)!r}).write_text(str(sleeper.pid)); time.sleep(60)"
    )
    with pytest.raises(child.ChildError, match="longer than 1 s"):
        child.run(["-c", program])
    state = Path(f"/proc/{started.read_text()}/stat")
    for _ in range(100):  # who has lost its parent is gone once the system has looked after it
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError("a process is left")


def test_the_time_per_element_is_held_against_the_median_of_the_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flatness, "AT_LEAST", 40_000)
    entries = list(measure_flatness([NumPy()], lambda _: None, rounds=Rounds(2, 2), elements=(10_000, 20_000, 40_000)))
    assert [e.name for e in entries] == ["10,000 elements", "20,000 elements", "40,000 elements"]
    assert all(len(e.ours) == 2 and e.ratio for e in entries)
    for together in zip(*(e.ours for e in entries), strict=True):
        assert sorted(together)[1] in {middle for e in entries for middle in e.theirs}


def test_what_other_programs_take_is_seen() -> None:
    others = Others()
    if others.share() is None:
        pytest.skip("this system does not tell what programs take")
    program = "import time; started = time.process_time()\nwhile time.process_time() < started + 0.3: pass"
    subprocess.run([sys.executable, "-c", program], check=True)
    own = others.share()
    stranger = subprocess.Popen([sys.executable, "-c", program])
    state = Path(f"/proc/{stranger.pid}/stat")
    while state.read_text().rpartition(")")[2].split()[0] != "Z":  # done, and not yet counted among the children
        time.sleep(0.02)
    both = others.share()
    stranger.wait()
    assert own is not None
    assert both is not None
    assert 0 <= own < both <= 1


def results(seconds: dict[str, list[float]], **found: Any) -> Results:
    """Results of NumPy at the largest size."""
    roles = {name: Role.OURS if name == OURS else Role.PEER for name in seconds}
    measured = [Measured("NumPy", Workload(LARGEST), roles, Times(1, seconds))]
    return Results({}, {"quick": False}, {"NumPy": "1 thread"}, measured=measured, **found)


def verdicts(found: Results) -> dict[str, str]:
    return {judged.promise: judged.verdict for judged in judge(found)}


@pytest.mark.parametrize(("theirs", "verdict"), [(3.1, "met"), (2.9, "falls short")])
def test_targets_are_judged_from_what_was_measured(theirs: float, verdict: str) -> None:
    found = verdicts(results({OURS: [1.0] * 3, TORCH: [theirs] * 3}, not_run={"CuPy": "no CUDA device"}))
    assert found[f"NumPy, {LARGEST} forward: 3x as fast as {TORCH}"] == verdict
    assert found[f"NumPy, {LARGEST} forward: 5x as fast as scipy.special.rel_entr"] == "not measured in this run"
    assert found[f"CuPy, {LARGEST} forward: share of the measured bandwidth"] == "not run: no CUDA device"


@pytest.mark.parametrize(("mib", "verdict"), [(7.9, "met"), (8.1, "falls short")])
def test_targets_of_memory_are_judged_by_its_peak(mib: float, verdict: str) -> None:
    entry = Entry("NumPy", "forward", TORCH, "MiB", [mib], [376.0])
    found = verdicts(results({OURS: [1.0]}, memory=[entry]))
    assert found[f"NumPy, {LARGEST} forward: at most 8 MiB of extra memory"] == verdict
    not_run = verdicts(results({OURS: [1.0]}, memory=[replace(entry, ours=(), not_run="no /proc")]))
    assert not_run[f"NumPy, {LARGEST} forward: at most 8 MiB of extra memory"] == "not run: no /proc"


def test_a_target_of_every_size_is_judged_at_the_worst() -> None:
    def jitted(shape: tuple[int, ...], mine: float) -> Measured:
        roles = {OURS: Role.OURS, "a": Role.PEER, "b": Role.PEER}
        return Measured("JAX jitted", Workload(shape), roles, Times(1, {OURS: [mine], "a": [1.0], "b": [2.0]}))

    found = Results({}, {}, measured=[jitted(SMALLEST, 1.2), jitted(LARGEST, 1.0)])
    judged = next(j for j in judge(found) if j.promise.startswith("JAX jitted, every size, forward:"))
    assert judged.met is False
    assert judged.measured == "1.20 (1.20 to 1.20) at (8, 16), against a, the worst of 2 sizes"


def test_the_command_writes_tables_data_and_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, plots = tmp_path / "new" / "found.json", tmp_path / "plots"
    given = ["--quick", "--group", "NumPy", "--group", "CuPy", "--size", "8x16", "--size", "4x4", "--rounds", "2"]
    assert command.main([*given, "--json", str(data), "--plots", str(plots)]) == 0
    printed = capsys.readouterr().out
    assert "scipy.special.rel_entr" in printed
    assert "…" not in printed
    assert "not measured in a quick run" in printed
    assert str(data) in printed
    found = json.loads(data.read_text())
    assert {"numpy", "torch"} <= set(found["machine"]["packages"])
    assert found["threads"]["NumPy"].startswith("1 thread, ours in ")
    first = found["measured"][0]
    assert (first["group"], first["shape"], first["dtype"]) == ("NumPy", [8, 16], "float32")
    assert len(first["contenders"][OURS]["seconds_per_call"]) == 2
    assert {r["theirs"] for r in first["ratios"]} >= {TORCH, FLOOR}
    assert {"promise", "measured", "met", "verdict"} == set(found["targets"][0])
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
        return Measured("NumPy", Workload(shape), dict.fromkeys(names, Role.OURS), Times(1, seconds))

    lines = [at((1, 2), OURS, "ours now and then"), at((3, 4), OURS), at((5, 6), OURS, "ours now and then")]
    [path] = write_plots(Results({}, {}, {"NumPy": "1 thread"}, measured=lines), tmp_path)
    assert "ours now and then" in path.read_text()


def test_unknown_groups_and_sizes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for given in (["--group", "OneFlow"], ["--size", "8by16"], ["--rounds", "0"]):
        with pytest.raises(SystemExit):
            command.main(given)
    assert "'8by16' is no size; write it as 8x16" in capsys.readouterr().err
