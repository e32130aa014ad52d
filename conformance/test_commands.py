"""What the commands read stays as it is, and what they cannot write is refused before the work, in a sentence."""

import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import conformance.__main__ as conformance
from conformance import build_corpus, export_onnx, record, support
from conformance.output import OutputError, replacing, write_text
from conformance.report import html
from conformance.run import Judgement, Question, _known, judge_all
from conformance.test_recordings import SOME

Main = Callable[[Sequence[str]], int]

DOCUMENTATION = ["-g", "documentation", "--processes", "1"]
ADAPTER = """
import pathlib
from conformance.record import Implementation, Outcome
class Refuses(Implementation):
    def version(self): return '1.0'
    def compute(self, case):
        pathlib.Path('worked').touch()
        raise ValueError
def implementations():
    yield Refuses('refuses', 'none')
"""
in_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no such files elsewhere")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a recording, other names of what commands read, and what is in the way of a file."""
    monkeypatch.chdir(tmp_path)
    Path("in.npz").write_bytes(SOME.read_bytes())
    Path("symbolic.json").symlink_to("in.npz")
    Path("hard.json").hardlink_to("in.npz")
    Path("committed.html").symlink_to(SOME)
    Path("corpus.html").symlink_to(record.CORPUS)
    Path("loop.html").symlink_to("loop.html")
    Path("directory.json").mkdir()
    Path("README.md").write_text(f"{support.BEGIN}\n{support.END}\n")
    Path("run.json").write_text('{"implementations": []}')
    Path("adapter.py").write_text(ADAPTER)
    return tmp_path


def contents(directory: Path) -> dict[str, bytes | None]:
    files = {str(path.relative_to(directory)): path for path in directory.rglob("*") if not path.is_symlink()}
    return {name: path.read_bytes() if path.is_file() else None for name, path in files.items()}


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*_: Any, **__: Any) -> Any:
        pytest.fail("it works before it checks where to write")

    monkeypatch.setattr(conformance, "judge_all", work)
    monkeypatch.setattr(build_corpus, "build", work)
    monkeypatch.setattr(export_onnx, "model", work)


def refusal(main: Main, arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence with which a command refuses its arguments."""
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def recorder(arguments: Sequence[str]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["record.py", *arguments])
        return record.main()


REFUSED = {
    "its own input": ("report in.npz --output in.npz", "named like a recording"),
    "a recording that is not read": ("report --output in.npz", "named like a recording"),
    "a symbolic link to the input": ("judge in.npz --write symbolic.json", "reads it as in.npz"),
    "a hard link to the input": ("judge in.npz --write hard.json", "reads it as in.npz"),
    "the input by a detour": ("report in.npz --output directory.json/../symbolic.json", "reads it as in.npz"),
    "the input by another name": ("judge symbolic.json --write hard.json", "reads it as symbolic.json"),
    "the corpus": ("report in.npz --output corpus.html", "reads it as .*corpus.npz"),
    "a committed recording": ("report in.npz --output committed.html", "reads it as .*recordings"),
    "the page's template": (f"report --output {html.HERE / 'template.html.j2'}", "reads it as .*template"),
    "a ledger": (f"report --output {html.HERE.parent / 'ledger' / 'oneflow.py'}", "reads it as .*oneflow.py"),
    "a directory": ("report in.npz --output directory.json", "it is a directory"),
    "a directory among files": ("judge in.npz --write a.html --write directory.json", "it is a directory"),
    "no name": ("report in.npz --output=", "it is a directory"),
    "a file as a directory": ("report in.npz --output in.npz/report.html", "in.npz is not a directory"),
    "a file above": ("judge in.npz --write in.npz/below/report.html", "in.npz is not a directory"),
    "a link to itself": ("judge in.npz --write loop.html", "symbolic links"),
    "a long name": (f"judge in.npz --write {'a' * 300}.html", "name too long"),
    "the same file twice": ("judge in.npz --write a.json --write a.json", "also writes a.json"),
    "the same file by a detour": ("run --write a.json --write directory.json/../a.json", "also writes a.json"),
    "the same file where case does not count": ("run --write a.json --write A.json", "also writes a.json"),
}


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("kind", REFUSED)
def test_a_report_that_cannot_be_written_is_refused_at_once(
    kind: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, reason = REFUSED[kind]
    before = contents(place)
    said = refusal(conformance.main, arguments.split(" "), capsys)
    assert re.search(f"error: .*{reason}.*; (choose another path|name a file for the report)$", said)
    assert contents(place) == before


@in_linux
@pytest.mark.usefixtures("no_work", "place")
@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (conformance.main, ["judge", "in.npz", "--write", "/proc/report.html"]),
        (conformance.main, ["report", "in.npz", "--output", "/dev/null/report.html"]),
        (build_corpus.main, ["--output", "/proc/corpus.npz"]),
        (export_onnx.main, ["--output", "/proc/models"]),
        (recorder, ["adapter.py", "--output", "/proc/recordings"]),
        (recorder, ["adapter.py", "--output", "/proc"]),
    ],
)
def test_where_nobody_can_write_nothing_is_begun(
    main: Main, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search("error: cannot write (into )?/", refusal(main, arguments, capsys))
    assert not Path("worked").exists()


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("main", "arguments", "reason"),
    [
        (build_corpus.main, "--output directory.json", "it is a directory"),
        (build_corpus.main, "--output in.npz/corpus.npz", "in.npz is not a directory"),
        (export_onnx.main, "--output in.npz", "in.npz is not a directory"),
        (support.main, "README.md --run README.md", "reads it as README.md"),
        (support.main, "README.md --run directory.json/../README.md", "reads it as "),
        (support.main, "missing.md --run run.json", "cannot read missing.md: No such file"),
        (support.main, "directory.json --run run.json", "cannot read directory.json: Is a directory"),
        (support.main, "in.npz --run run.json", "cannot read in.npz: 'utf-8' codec"),
        (support.main, "README.md --run directory.json", "cannot read directory.json: Is a directory"),
        (support.main, "README.md --run adapter.py", "adapter.py is no report of a run"),
    ],
)
def test_the_other_commands_refuse_likewise(
    main: Main, arguments: str, reason: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(place)
    assert reason in refusal(main, arguments.split(" "), capsys)
    assert contents(place) == before


@pytest.mark.parametrize("report", ["null", "[]", "{}", '{"implementations": 1}', '{"implementations": [{}]}'])
def test_what_is_no_report_of_a_run_makes_no_table(
    report: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("run.json").write_text(report)
    assert "run.json is no report of a run" in refusal(support.main, ["README.md", "--run", "run.json"], capsys)


def recording_by(name: str) -> Callable[[Path], object]:
    return lambda place: (place / "out" / "refuses-1.0.npz").hardlink_to(place / name)


@pytest.mark.parametrize(
    ("obstruct", "arguments", "reason"),
    [
        (lambda place: None, "adapter.py --output in.npz", "cannot write into in.npz: File exists"),
        (lambda place: None, "adapter.py --output in.npz/below", "cannot write into in.npz/below: Not a directory"),
        (lambda place: (place / "out/refuses-1.0.npz").mkdir(), "adapter.py --output out", "it is a directory"),
        (recording_by("adapter.py"), "adapter.py --output out", "reads it as adapter.py"),
        (recording_by("corpus.npz"), "adapter.py --corpus corpus.npz --output out", "reads it as corpus.npz"),
        (lambda place: None, "adapter.py --corpus in.npz --output out", "in.npz is not a corpus of this suite"),
        (lambda place: None, "adapter.py --corpus README.md --output out", "README.md is not a corpus of this suite"),
        (
            lambda place: (place / "adapter.py").write_text(f"{ADAPTER}    yield Refuses('refuses!', 'none')"),
            "adapter.py --output out",
            "refuses 1.0 and refuses! 1.0 would both be written to out/refuses-1.0.npz",
        ),
    ],
)
def test_the_recorder_refuses_before_it_records(
    obstruct: Callable[[Path], object],
    arguments: str,
    reason: str,
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("corpus.npz").write_bytes(record.CORPUS.read_bytes())
    Path("out").mkdir()
    obstruct(place)
    before = contents(place)
    assert reason in refusal(recorder, arguments.split(" "), capsys)
    assert contents(place) == before, "a recording was begun"


@pytest.mark.usefixtures("place")
def test_the_recorder_replaces_a_recording_of_the_same_name(capsys: pytest.CaptureFixture[str]) -> None:
    recording = Path("new/out/refuses-1.0.npz")
    assert recorder(["adapter.py", "--output", "new/out"]) == 0
    first = recording.stat().st_ino
    assert recorder(["adapter.py", "--output", "new/out"]) == 0
    assert recording.stat().st_ino != first
    assert list(recording.parent.iterdir()) == [recording]
    assert stat.S_IMODE(recording.stat().st_mode) == stat.S_IMODE(Path("adapter.py").stat().st_mode)


@pytest.mark.usefixtures("place")
def test_a_recording_that_fails_leaves_the_old_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def disk_is_full(file: Any, **_: Any) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    Path("refuses-1.0.npz").write_text("old")
    monkeypatch.setattr(np, "savez_compressed", disk_is_full)
    before = set(Path().iterdir()) | {Path("worked")}
    assert recorder(["adapter.py"]) == 2
    assert "error: cannot write refuses-1.0.npz: No space left on device" in capsys.readouterr().err
    assert Path("refuses-1.0.npz").read_text() == "old"
    assert set(Path().iterdir()) == before


@pytest.fixture(autouse=True)
def forget_recordings() -> None:
    _known.cache_clear()  # other tests have other files of these names


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("obstacle", "reason"),
    [
        (Path.mkdir, "Is a directory"),
        pytest.param(lambda path: path.symlink_to("/dev/full"), "No space left on device", marks=in_linux),
        pytest.param(lambda path: path.symlink_to("/proc/report.html"), "No such file or directory", marks=in_linux),
    ],
)
def test_a_report_that_fails_after_the_work_leaves_the_verdict_and_the_other_reports(
    obstacle: Callable[[Path], object],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def while_something_comes_in_the_way(question: Question, **options: Any) -> list[Judgement]:
        obstacle(Path("bad.html"))
        return judge_all(question, **options)

    monkeypatch.setattr(conformance, "judge_all", while_something_comes_in_the_way)
    reports = ["--write", "bad.html", "--write", "new/good.json"]
    assert conformance.main(["judge", "in.npz", *DOCUMENTATION, *reports]) == 2
    printed = capsys.readouterr()
    assert "passes: Nothing differs" in printed.out
    assert "json: new/good.json" in printed.out
    assert "html:" not in printed.out
    assert printed.err == f"error: cannot write bad.html: {reason}\n"
    assert '"passes": true' in Path("new/good.json").read_text()
    assert not list(Path().glob(".*"))


@pytest.mark.usefixtures("place")
def test_a_recording_that_goes_while_it_is_judged_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without_the_file(question: Question, **options: Any) -> list[Judgement]:
        Path("in.npz").unlink()
        return judge_all(question, **options)

    monkeypatch.setattr(conformance, "judge_all", without_the_file)
    assert "in.npz: cannot be read" in refusal(conformance.main, ["judge", "in.npz", *DOCUMENTATION], capsys)


@pytest.mark.usefixtures("place")
def test_a_minus_sign_is_the_standard_output_with_nothing_else_on_it(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["report", "in.npz", *DOCUMENTATION, "--format", "markdown", "--output"]
    assert conformance.main([*arguments, "-"]) == 0
    printed = capsys.readouterr()
    assert "passes: Nothing differs" in printed.err
    assert conformance.main([*arguments, "report.md"]) == 0
    assert printed.out == Path("report.md").read_text(encoding="utf-8")


def test_the_command_exits_with_zero_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "new" / "report.json"
    status = conformance.main(["-i", "kldiv_xp numpy", "-i", "dpnp", *DOCUMENTATION, "--write", str(report)])
    printed = capsys.readouterr().out
    assert status == 0
    assert "0 differ" in printed
    assert "dpnp is not installed" in printed
    assert '"label": "kldiv_xp numpy [oneflow]"' in report.read_text(encoding="utf-8")


@pytest.mark.parametrize("option", ["-i", "-g"])
def test_the_command_says_what_there_is_to_choose_from(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        conformance.main([option, "no such"])
    assert refused.value.code == 2
    assert ("kldiv_xp numpy [oneflow]" if option == "-i" else "edge") in capsys.readouterr().err


@pytest.mark.skipif(find_spec("dpnp") is not None, reason="dpnp is installed, so that something is judged")
def test_a_run_that_judges_nothing_does_not_pass() -> None:
    assert conformance.main(["-i", "dpnp", *DOCUMENTATION]) == 2


@pytest.mark.parametrize("main", [conformance.main, support.main])
def test_the_help_has_the_exit_statuses(main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    statuses = capsys.readouterr().out.partition("exit status:\n")[2]
    assert re.findall(r"^  (\d)  \w", statuses, re.MULTILINE) == ["0", "1", "2"]


def test_a_file_is_replaced_when_it_is_complete_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o640)
    with pytest.raises(TypeError), replacing(path) as file:
        file.writelines([b"half of it", None])  # type: ignore[list-item]
    assert contents(tmp_path) == {"file": b"old"}
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert contents(tmp_path) == {"file": b"new"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_new_file_has_the_usual_mode(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    write_text(tmp_path / "new", "")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    for text in ("new", "newer"):
        write_text(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "file").read_text() == text


@in_linux
def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text(pipe, "text")
    assert os.read(reader, 10) == b"text"
    assert pipe.is_fifo()
    os.close(reader)


@in_linux
def test_a_full_disk_is_told_in_a_sentence() -> None:
    with pytest.raises(OutputError, match=r"^cannot write /dev/full: No space left on device$"):
        write_text(Path("/dev/full"), "text")


PRINTING = {
    "print": "[print('text' * 1000) for _ in range(1000)]",
    "lines": "sys.stdout.writelines(['text\\n'] * 100_000)",
    "console": "[Console().print('text') for _ in range(5000)]",
    "report": "write_text(Path('-'), 'text' * 100_000)",
    "little": "print('text')",
}


@in_linux
@pytest.mark.parametrize(("to", "status", "says"), [("pipe", 1, ""), ("/dev/full", 2, "No space left on device\n")])
@pytest.mark.parametrize("kind", PRINTING)
def test_a_standard_output_that_fails_ends_in_no_traceback(kind: str, to: str, status: int, says: str) -> None:
    program = (
        "import sys; from pathlib import Path; from rich.console import Console\n"
        "from conformance.output import command, write_text\n"
        f"@command\ndef main():\n    {PRINTING[kind]}\n    return 1\n"
        "raise SystemExit(main())"
    )
    if to == "pipe":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open(to, os.O_WRONLY)
    done = subprocess.run([sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == status
    assert done.stderr == (f"error: cannot write to the standard output: {says}" if says else "")
