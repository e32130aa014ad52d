"""The comparison of clients reports what differs, and nothing else; ``make clients`` runs the clients themselves."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kldiv_xp.torch import KLDivLoss
from tests.clients import drive, table

RESULT: dict[str, Any] = {
    "client": "a_client",
    "versions": {"a": "1.0", "b": "2.0"},
    "licence": "MIT",
    "what": "ten steps",
    "calls": {"before": 10, "after": 10},
    "difference": 2e-7,
    "problems": [],
}
TESTED = {"tests": {"passed": 3, "skipped": 1}, "calls of tests": [5, 5], "tests that differ": []}


@pytest.mark.parametrize("result", [RESULT, RESULT | TESTED])
def test_a_client_that_gives_the_same_has_no_problem(result: Any) -> None:
    assert drive.problems(result) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"difference": 2e-5}, "figures differ by 2e-05"),
        ({"difference": float("nan")}, "figures differ by nan"),
        ({"calls": {"before": 10, "after": 0}}, "the loss was called"),
        ({"calls": {"before": 10, "after": 9}}, "the loss was not called as often"),
        (TESTED | {"tests that differ": ["test_a"]}, "tests differ: test_a"),
        (TESTED | {"tests": {"failed": 3}}, "no test of the client passes"),
        (TESTED | {"calls of tests": [5, 0]}, "none reaches the loss"),
    ],
)
def test_what_differs_is_a_problem(change: Any, problem: str) -> None:
    assert any(problem in found for found in drive.problems(RESULT | change))


@pytest.mark.parametrize(
    ("before", "after", "difference"),
    [
        ({"a": 1.0}, {"a": 1.0}, 0.0),
        ({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 1.0}, 0.5),
        ({"a": 0.0}, {"a": 0.0}, 0.0),
        ({"a": 0.0}, {"a": 1e-30}, 1.0),
        ({"a": float("nan")}, {"a": 1.0}, float("inf")),
        ({"a": float("inf")}, {"a": 1.0}, float("inf")),
        ({"a": 1.0}, {"b": 1.0}, float("inf")),
    ],
)
def test_figures_are_compared_relatively(before: Any, after: Any, difference: float) -> None:
    assert drive.largest_difference(before, after) == difference


@pytest.mark.parametrize("which", ["before", "after"])
def test_each_loss_takes_the_place_of_the_other_and_is_counted(which: str) -> None:
    own = torch.nn.functional.kl_div, torch.nn.KLDivLoss
    calls = drive.Calls()
    x, y = torch.zeros(2, 3), torch.ones(2, 3)
    with drive.replaced(SimpleNamespace(losses=drive.torch_losses), which, calls):
        torch.nn.functional.kl_div(x, y, reduction="sum")
        module = torch.nn.KLDivLoss(reduction="sum")
        module(x, y)
    assert calls.count == 2
    assert isinstance(module, KLDivLoss) is (which == "after")
    assert (torch.nn.functional.kl_div, torch.nn.KLDivLoss) == own


def test_the_table_has_a_row_for_each_client_and_says_what_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(table, "PROGRAMS", tmp_path)
    differs = RESULT | {"client": "b_client", "problems": ["figures differ by 1"], "excluded": ["this"]}
    raises = {"client": "c_client", "problems": ["ValueError: no"]}
    for result in (RESULT | TESTED | {"step": {"ratio": 1.25}}, differs, raises):
        folder = tmp_path / str(result["client"])
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps(result))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.START}\nold\n{table.END}\nafter\n")
    (tmp_path / "a_client.txt").touch()
    assert table.main([str(tmp_path), str(page)]) == 0
    for name in ("b_client", "c_client", "d_client"):
        (tmp_path / f"{name}.txt").touch()
    assert table.main([str(tmp_path), str(page)]) == 1
    text = page.read_text()
    assert "| a 1.0, b 2.0 | MIT | ten steps | same, within 2e-07 | 3 passed, 1 skipped, as before | 1.25 |" in text
    assert "| a 1.0, b 2.0 | MIT | ten steps | figures differ by 1 | - | - |" in text
    assert "| c_client | - | - | ValueError: no | - | - |" in text
    assert "| d_client | - | - | did not run | - | - |" in text
    assert "Left out of a, b (`b_client.py`):\n\n- this\n" in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "d_client: did not run" in capsys.readouterr().out


@pytest.mark.parametrize("error", [ValueError("no"), ImportError("none")])
def test_what_a_client_raises_is_its_problem(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(_: str) -> Any:
        raise error

    monkeypatch.setattr(drive, "load", load)
    assert drive.run("a_client", tmp_path)["problems"] == [f"{type(error).__name__}: {error}"]
    assert "Traceback" in capsys.readouterr().err


PROGRAMS = sorted(path.stem for path in (drive.HERE / "programs").glob("*.py"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_program_states_its_licence_and_pins_its_packages(name: str) -> None:
    text = (drive.HERE / "programs" / f"{name}.py").read_text()
    first, *pins = (drive.HERE / "programs" / f"{name}.txt").read_text().splitlines()
    (licence,) = re.findall(r'^LICENCE = "(.*)"$', text, re.MULTILINE)
    assert first.startswith("# ")
    assert licence in first
    assert pins
    assert all("==" in pin for pin in pins if not pin.startswith("#"))
