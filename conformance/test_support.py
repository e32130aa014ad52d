"""The table of what is supported says what the run found, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

from conformance.judge import Comparison, Verdict
from conformance.report.contents import Run
from conformance.report.json import render_json
from conformance.run import Judgement, Support
from conformance.support import BEGIN, BEGIN_SHORT, END, main, short_table, table

VERDICTS = [Verdict.AGREES, Verdict.AGREES, Verdict.DEVIATES]


def judgement(
    name: str, *verdicts: Verdict, not_run: str | None = None, quantity: str = "loss", group: str = "random"
) -> Judgement:
    comparisons = tuple(Comparison(f"case/{i}", group, quantity, verdict) for i, verdict in enumerate(verdicts))
    support = Support(name, "autodiff", lazy=True, distributed="2 processes")
    return Judgement(f"kldiv_xp {name} [torch]", f"{name} 1.2", not_run, comparisons, support=support)


def report(*judgements: Judgement) -> Any:
    return json.loads(render_json(Run(judgements, ("random", "refused"), "torch.nn.KLDivLoss", "0" * 64)))


def rows(*judgements: Judgement) -> list[str]:
    return table(report(*judgements)).splitlines()[2:]


def test_a_row_adds_up_the_conventions_of_a_library() -> None:
    assert rows(judgement("dask", *VERDICTS), judgement("dask", *VERDICTS)) == [
        "| dask | 1.2 | 4 +2 |  |  | yes | 2 processes | agrees |"
    ]


def test_a_row_of_the_short_table_adds_up_the_ways_of_a_library_that_a_user_chooses() -> None:
    torch = [judgement(name, *VERDICTS) for name in ("torch", "torch.func", "torch, plain", "torch cuda")]
    absent = [judgement("torch DTensor", not_run="no processes"), judgement("dpnp", not_run="dpnp is not installed")]
    assert short_table(report(*torch, *absent)).splitlines()[2:] == [
        "| dpnp | 1.2 |  | autodiff |  | *not run*: dpnp is not installed |",
        "| torch | 1.2 | `torch`, `torch.func`, `torch cuda` | autodiff | 6 +3 | agrees; `torch DTensor` *not run* |",
    ]


def test_gradients_say_how_they_were_had() -> None:
    assert "| autodiff: 2 +1 |" in rows(judgement("jax", *VERDICTS, quantity="target"))[0]


@pytest.mark.parametrize(
    ("verdicts", "says"),
    [
        ([Verdict.AGREES], "agrees"),
        ([Verdict.AGREES, Verdict.NOT_RUN], "agrees, on a sample"),
        ([Verdict.AGREES, Verdict.DIFFERS], "**1 differ**"),
        ([Verdict.UNSUPPORTED], "*unsupported*"),
        ([], "*unsupported*"),
    ],
)
def test_the_verdict_hides_nothing(verdicts: list[Verdict], says: str) -> None:
    assert rows(judgement("jax", *verdicts))[0].endswith(f"| {says} |")


def test_what_was_not_run_has_no_figures_and_a_reason() -> None:
    (row,) = rows(judgement("cupy", not_run="no CUDA device"))
    assert row.endswith("|  |  |  | yes | 2 processes | *not run*: no CUDA device |")


def test_what_differs_is_told_even_if_another_convention_was_not_run() -> None:
    (row,) = rows(judgement("cupy", not_run="no CUDA device"), judgement("cupy", Verdict.DIFFERS))
    assert row.endswith("| **1 differ** |")


def test_a_refusal_is_not_counted_as_a_number() -> None:
    assert rows(judgement("jax", *VERDICTS, group="refused")) == [
        "| jax | 1.2 |  |  | 2 +1 | yes | 2 processes | *unsupported* |"
    ]


def test_foreign_implementations_are_left_to_the_report() -> None:
    assert rows(Judgement("oneflow.nn.KLDivLoss 0.9.0", "oneflow 0.9.0", None, ())) == []


def test_the_check_fails_until_the_table_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme, run = tmp_path / "README.md", tmp_path / "run.json"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    run.write_text(json.dumps(report(judgement("jax", *VERDICTS))))
    arguments = [str(readme), "--run", str(run)]
    assert main([*arguments, "--check"]) == 1
    assert "+| jax | 1.2 |" in capsys.readouterr().out
    assert main(arguments) == 0
    assert main([*arguments, "--check"]) == 0
    assert readme.read_text().startswith("before\n")
    assert readme.read_text().endswith(f"{END}\nafter\n")


def test_each_file_gets_the_table_that_it_has_marks_for(tmp_path: Path) -> None:
    short, full, run = tmp_path / "short.md", tmp_path / "full.md", tmp_path / "run.json"
    run.write_text(json.dumps(report(judgement("jax", *VERDICTS))))
    short.write_text(f"{BEGIN_SHORT}\n{END}\n")
    full.write_text(f"{BEGIN}\n{END}\n")
    assert main([str(short), str(full), "--run", str(run)]) == 0
    assert "| jax | 1.2 | `jax` |" in short.read_text()
    assert "| jax | 1.2 | 2 +1 |" in full.read_text()


def test_a_file_without_the_marks_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run.json"
    run.write_text(json.dumps(report()))
    run.with_suffix(".md").write_text("no table\n")
    with pytest.raises(SystemExit) as refused:
        main([str(run.with_suffix(".md")), "--run", str(run)])
    assert refused.value.code == 2
    assert "run.md has no place for the table" in capsys.readouterr().err


def test_a_missing_run_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main([str(tmp_path / "README.md"), "--run", str(tmp_path / "none.json")])
    assert refused.value.code == 2
    assert "none.json: run `make conformance` first" in capsys.readouterr().err


@pytest.mark.parametrize(("verdict", "status"), [(Verdict.AGREES, 0), (Verdict.DIFFERS, 1)])
def test_the_check_passes_where_another_processor_agrees_and_fails_where_it_differs(
    verdict: Verdict, status: int, tmp_path: Path
) -> None:
    readme, run = tmp_path / "README.md", tmp_path / "run.json"
    readme.write_text(f"{BEGIN}\n{END}\n")
    run.write_text(json.dumps(report(judgement("jax", Verdict.AGREES, Verdict.DEVIATES, Verdict.DEVIATES))))
    assert main([str(readme), "--run", str(run)]) == 0
    run.write_text(json.dumps(report(judgement("jax", Verdict.AGREES, verdict, Verdict.DEVIATES))))
    assert main([str(readme), "--run", str(run), "--check"]) == status
