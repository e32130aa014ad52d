"""Damaged and hostile recordings: a clear error or an escaped value each time, never a traceback, never code run."""

import io
import json
import os
import pickle
import random
import re
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from conformance.__main__ import main
from conformance.implementations import every_implementation, reference
from conformance.ledger import deviations_of
from conformance.record import RECORDING_FORMAT, Case, Corpus, Outcome, load_corpus, write_recording
from conformance.recording import LARGEST_CONTENT, RecordingError, read_recording
from conformance.report.contents import Run
from conformance.report.formats import FORMATS, render
from conformance.report.terminal import print_report
from conformance.run import judge_implementation, recorded_implementations
from conformance.test_recordings import SOME, Plain

Manifest = dict[str, Any]

CORPUS = Corpus(tuple(case for case in load_corpus().cases if case.group == "documentation"), "0" * 64)
"""A small one: what is refused does not depend on the cases."""
FLIPPED_BITS = 120
TRUNCATIONS = 40
LARGE = 300 * 2**20


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "plain.npz"
    plain = Plain("plain", "numpy")
    write_recording(path, plain, CORPUS, [plain.run(case) for case in CORPUS.cases])
    return path.read_bytes()


def members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def zipped(contents: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return file.getvalue()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array))
    return file.getvalue()


def with_member(content: bytes, name: str, member: bytes) -> bytes:
    return zipped({**members(content), name: member})


def with_text(content: bytes, text: bytes) -> bytes:
    return with_member(content, "manifest.npy", npy(np.frombuffer(text, np.uint8)))


def manifest_of(content: bytes) -> Manifest:
    manifest: Manifest = json.loads(np.load(io.BytesIO(content))["manifest"].tobytes())
    return manifest


def with_manifest(content: bytes, change: Callable[[Manifest], object]) -> bytes:
    manifest = manifest_of(content)
    change(manifest)
    return with_text(content, json.dumps(manifest).encode())


def set_at(*keys: Any, value: Any) -> Callable[[Manifest], object]:
    def change(manifest: Manifest) -> None:
        place: Any = manifest
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def pickles(content: bytes, marker: Path) -> Iterator[bytes]:
    """A pickle in every place where one could be loaded."""
    bomb = pickle.dumps(Bomb(marker))
    objects = io.BytesIO()
    np.lib.format.write_array(objects, np.asarray([Bomb(marker)], object), allow_pickle=True)
    for name in members(content):
        yield with_member(content, name, objects.getvalue())
        yield with_member(content, name, bomb)
    yield with_member(content, "object.npy", objects.getvalue())
    yield with_member(content, "evil.pkl", bomb)
    yield with_member(content, "__reduce__", bomb)
    yield bomb
    yield objects.getvalue()


def declared(
    descr: str, shape: str, *, fortran: str = "False", version: bytes = b"\x01\x00", body: bytes = b""
) -> bytes:
    """An array whose header says whatever it likes."""
    header = f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + body


def arrays(content: bytes) -> Iterator[bytes]:
    """Arrays that are not what they say, or not what they should be."""
    for name in ("float32.npy", "manifest.npy"):
        dtype = "<f4" if name == "float32.npy" else "|u1"
        for shape in ("(1000000000000,)", "(99999999999999999999,)", "(4,)", "(2, 2)", "()", "(-1,)", "(0x10,)", "x"):
            yield with_member(content, name, declared(dtype, shape, body=b"\0" * 8))
        yield with_member(content, name, declared(dtype, "(8,)", fortran="True", body=b"\0" * 32))
        yield with_member(content, name, declared(dtype, "(8,)", version=b"\x03\x00", body=b"\0" * 32))
        for descr in (">f4", "<f8", "|O", "<U8", "<M8[s]", "|V1000000000"):
            yield with_member(content, name, declared(descr, "(1,)", body=b"\0" * 8))
        yield with_member(content, name, b"")
        yield with_member(content, name, b"\x93NUMPY")
        yield with_member(content, name, b"(" * 100_000)
    yield with_member(content, "float32.npy", npy(np.zeros(3, np.float32)))  # too short for what the manifest names
    yield with_member(content, "float128.npy", npy(np.zeros(3)))
    yield with_member(content, "../../float64.npy", npy(np.zeros(3)))
    yield zipped({name: member for name, member in members(content).items() if name != "manifest.npy"})
    yield zipped({name: member for name, member in members(content).items() if name != "float32.npy"})


def bombs(content: bytes) -> Iterator[bytes]:
    """Little on disk, and much in memory."""
    yield with_member(content, "float32.npy", declared("<f4", f"({LARGE // 4},)") + b"\0" * LARGE)
    yield with_member(content, "manifest.npy", declared("|u1", f"({LARGE},)") + b" " * LARGE)
    # The directory says that it is small.
    lying = bytearray(with_member(content, "float32.npy", declared("<f4", f"({LARGE // 4},)") + b"\0" * LARGE))
    for match in re.finditer(re.escape(struct.pack("<I", LARGE + 58)), bytes(lying)):
        lying[match.start() : match.end()] = struct.pack("<I", 64)
    yield bytes(lying)


def texts(content: bytes) -> Iterator[bytes]:
    """Manifests that are no JSON, or not the JSON that they should be."""
    yield from (with_text(content, text) for text in (b"", b"{", b"[]", b"null", b"nan", b"\xff\xfe", b"\0" * 100))
    yield with_text(content, b"[" * 30_000)
    yield with_text(content, b'{"format": ' + b"[" * 30_000)
    yield with_text(content, b'{"format": 1' + b"0" * 5000 + b"}")
    yield with_text(content, b'{"format": 1, "format": 7}')
    formats: tuple[Any, ...] = (0, RECORDING_FORMAT - 1, 99, -1, 1.5, "1", None, [], True)
    yield from (with_manifest(content, set_at("format", value=format)) for format in formats)
    digests: tuple[Any, ...] = ("1" * 64, "0" * 63, "0" * 65, "", "x" * 64, None, 0, f"{CORPUS.digest} ", ["0" * 64])
    yield from (with_manifest(content, set_at("corpus", value=digest)) for digest in digests)
    for key in manifest_of(content):
        yield with_manifest(content, methodcaller("pop", key))
        yield with_manifest(content, set_at(key, value=None))
        yield with_manifest(content, set_at(key, value=-1))
    for key in manifest_of(content)["implementation"]:
        values: tuple[Any, ...] = ([], {}, "x" * 1000, 17)
        yield from (with_manifest(content, set_at("implementation", key, value=value)) for value in values)
    yield with_manifest(content, set_at("surprise", value="!"))
    yield with_manifest(content, set_at("environment", value={f"key {i}": "value" for i in range(1000)}))


def unprintable(content: bytes) -> Iterator[bytes]:
    """What a terminal would obey, and XML has not."""
    for text in ("\x1b[2J", "a\nb", "\0", "\u202etxt.exe", "\ud800", "\x07", "\u2028", "\x9b31m"):
        for keys in (("implementation", "name"), ("implementation", "version"), ("environment", "platform")):
            yield with_manifest(content, set_at(*keys, value=text))
        yield with_manifest(content, set_at("outcomes", 0, value={"case": CORPUS.cases[0].id, "error": text}))


def outcomes(content: bytes) -> Iterator[bytes]:
    """Cases that are missing, or not there, and results that cannot be."""
    loss = ("outcomes", 0, "results", "loss")
    for change in (
        lambda m: m["outcomes"].pop(),
        lambda m: m["outcomes"].pop(0),
        lambda m: m["outcomes"].clear(),
        lambda m: m["outcomes"].reverse(),
        lambda m: m["outcomes"].append(m["outcomes"][0]),
        lambda m: m["outcomes"].__setitem__(1, m["outcomes"][0]),
        lambda m: m["outcomes"][0].__setitem__("case", "edge/none/such"),
        lambda m: [m["outcomes"][0].pop(key) for key in ("results", "unsupported")],
        lambda m: m["outcomes"][0].update(error="ValueError: no"),
        lambda m: m["outcomes"][0]["results"].update(hessian=m["outcomes"][0]["results"]["loss"]),
        lambda m: m["outcomes"][0]["results"].update(input=dict(m["outcomes"][0]["results"]["loss"], shape=[4])),
    ):
        yield with_manifest(content, change)
    for shape in ([2**31, 2**31], [2**32], [2**63], [10**400], [-3], [3.0], ["3"], [4], [0] * 100, 3, None, [3, 1, 2]):
        yield with_manifest(content, set_at(*loss, "shape", value=shape))
    for at in (2**31, 2**63, -1, 10**9, "0", None, 0.5):
        yield with_manifest(content, set_at(*loss, "at", value=at))
    for dtype in ("float64,", "object", "O", "complex256", "", "float16", None, 3, "manifest"):
        yield with_manifest(content, set_at(*loss, "dtype", value=dtype))


def other_files(content: bytes) -> Iterator[bytes]:
    """What is no archive of this kind at all."""
    yield from (b"", b"PK", b"PK\x03\x04", b"PK\x05\x06" + b"\0" * 18, b"\x89PNG\r\n\x1a\n", b"\x7fELF" + b"\0" * 100)
    yield from (b"oneflow is fine, trust me\n", npy(np.zeros(3)), content * 2, b"#!/bin/sh\n" + content[:100])
    yield zipped(members(content), zipfile.ZIP_LZMA)[:-100]
    encrypted = bytearray(content)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for match in re.finditer(re.escape(signature), content):
            encrypted[match.start() + offset] |= 1
    yield bytes(encrypted)


def damaged(content: bytes) -> Iterator[bytes]:
    """One bit is another, or the end is missing."""
    rng = random.Random(2026)
    for _ in range(FLIPPED_BITS):
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        yield bytes(flipped)
    yield from (content[: rng.randrange(len(content))] for _ in range(TRUNCATIONS))


KINDS: dict[str, Callable[[bytes], Iterator[bytes]]] = {
    kind.__name__: kind for kind in (damaged, other_files, texts, outcomes, arrays, unprintable)
}


def refusal_of(path: Path) -> str | None:
    """Message of the error with which a file is refused; ``None`` if it is read."""
    try:
        read_recording(path, CORPUS)
    except RecordingError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_file_is_refused_with_its_name_and_a_reason(kind: str, sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    for number, content in enumerate(KINDS[kind](sound)):
        path.write_bytes(content)
        refusal = refusal_of(path)
        if refusal is None:
            # A flipped bit may be one that nobody reads, a time of the archive; then all that is read is the same.
            assert kind == "damaged" or content == sound * 2, number
            assert members(content) == members(sound)
        else:
            assert re.fullmatch(rf"{re.escape(str(path))}: .{{10,1000}}", refusal), (number, refusal)


def test_there_are_at_least_two_hundred_of_them(sound: bytes, tmp_path: Path) -> None:
    hostile = [file for kind in KINDS.values() if kind is not damaged for file in kind(sound)]
    assert len([*hostile, *pickles(sound, tmp_path / "marker")]) >= 200
    assert len(list(damaged(sound))) == FLIPPED_BITS + TRUNCATIONS


def test_a_pickle_is_never_loaded(sound: bytes, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "bad.npz"
    for content in pickles(sound, marker):
        path.write_bytes(content)
        assert refusal_of(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert marker.exists(), "the pickles are harmless, and show nothing"


def test_memory_is_bounded_whatever_a_file_declares(sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    for content in [*bombs(sound), *arrays(sound)]:
        path.write_bytes(content)
        tracemalloc.start()
        assert refusal_of(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < LARGEST_CONTENT / 2 + 3 * len(content)


@pytest.mark.parametrize("name", ["missing.npz", "a directory"])
def test_a_file_that_cannot_be_read_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "a directory").mkdir()
    refusal = refusal_of(tmp_path / name)
    assert refusal is not None
    assert "cannot be read" in refusal


def test_the_command_shows_the_error_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.npz"
    path.write_bytes(SOME.read_bytes()[:-1000])
    with pytest.raises(SystemExit) as stopped:
        main(["judge", str(path)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert f"error: {path}: is no .npz file, or a damaged one" in error
    assert "Traceback" not in error


def test_markup_in_metadata_is_escaped_in_every_report(tmp_path: Path) -> None:
    script = "<script>alert(1)</script>&\"'[red]`|"

    def change(manifest: Manifest) -> None:
        manifest["implementation"].update(name=script, version=script, library=script)
        manifest["environment"].update({"platform": script, script: script})
        for outcome in manifest["outcomes"]:
            if "error" in outcome:
                outcome["error"] = script

    path = tmp_path / "script.npz"
    path.write_bytes(with_manifest(SOME.read_bytes(), change))
    for format in ("html", "markdown", "junit", "json"):
        output = tmp_path / format
        main(["report", str(path), "--format", format, "--output", str(output), "-g", "refused", "--processes", "1"])
        report = output.read_text(encoding="utf-8")
        assert "alert(1)" in report
        if format != "json":
            assert script not in report
            assert "<script>alert" not in report


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compression_that_unpacks_all_at_once_is_refused(compression: int, sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    path.write_bytes(zipped(members(sound), compression))
    assert "another compression" in (refusal_of(path) or "")


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        assert "is not a file" in (refusal_of(path) or "")


def test_a_file_larger_than_any_recording_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.npz"
    with path.open("wb") as file:
        file.truncate(2**40)
    assert "more than" in (refusal_of(path) or "")


@pytest.mark.parametrize("convention", ["nonsense", "oneflow", ""])
def test_only_kldiv_xp_has_a_convention(convention: str, sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "convention.npz"
    path.write_bytes(with_manifest(sound, set_at("implementation", "convention", value=convention)))
    assert refusal_of(path)


@pytest.fixture(scope="module")
def impostor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording that calls itself the reference, with sevens for losses."""

    def sevens(case: Case) -> Outcome:
        outcome = reference().run(case)
        if outcome.loss is None:
            return outcome
        return Outcome(replace(outcome.loss, values=np.full_like(outcome.loss.values, 7)), outcome.gradients)

    path, corpus = tmp_path_factory.mktemp("impostor") / "sevens.npz", load_corpus()
    write_recording(path, reference(), corpus, [sevens(case) for case in corpus.cases])
    claimed = with_manifest(path.read_bytes(), set_at("environment", value={"source": "live", "version": "torch 2.13"}))
    path.write_bytes(claimed)
    return path


def test_a_file_that_calls_itself_the_reference_is_judged_against_the_real_one(
    impostor: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for against in ([], ["--reference", reference().label]):
        assert main(["judge", str(impostor), "-g", "documentation", "--processes", "1", *against]) == 1
        assert "16 differ" in capsys.readouterr().out


@pytest.fixture(scope="module")
def run_of_impostor(impostor: Path) -> Run:
    (recorded,) = recorded_implementations([impostor])
    cases = [case for case in load_corpus().cases if case.group == "documentation"]
    live = every_implementation()[0]
    return Run([judge_implementation(recorded, cases, live)], ["documentation"], live.label, "0" * 64)


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_calls_itself_the_reference_is_shown_with_its_name(format: str, run_of_impostor: Run) -> None:
    report = render(run_of_impostor, format)
    label, version = (re.escape(text) for text in (reference().label, f"torch {reference().version()}"))
    assert re.search(f"{label} \\(sevens.npz\\)", report)
    assert not re.search(f"{label}(?! \\(sevens.npz\\))", report)
    assert not re.search('"?source"?( value=|: |</dt><dd>)"?live', report)
    if format != "json":  # there the version is data, beside the file
        assert re.search(f"{version} \\(sevens.npz\\)", report)
        assert not re.search(f"{version}(?! \\(sevens.npz\\))", report)
    else:
        assert json.loads(report)["implementations"][0]["environment"]["file"] == "sevens.npz"


def test_the_terminal_shows_it_with_its_name(run_of_impostor: Run) -> None:
    shown = io.StringIO()
    print_report(run_of_impostor, Console(file=shown, width=200, color_system=None))
    lines = shown.getvalue().splitlines()
    row = next(number for number, line in enumerate(lines) if line.strip("│ ").startswith(reference().label))
    assert "│ recorded │" in lines[row]
    assert "(sevens.npz)" in lines[row + 1]


def test_what_a_file_says_of_where_it_was_run_is_not_believed(impostor: Path) -> None:
    assert read_recording(impostor, load_corpus()).environment["source"] == "recorded"
    (given,) = recorded_implementations([impostor])
    assert given.environment["source"] == "file"
    assert given.environment["file"] == "sevens.npz"


def test_a_file_of_kldiv_xp_is_no_part_of_what_is_supported_here(tmp_path: Path) -> None:
    def change(manifest: Manifest) -> None:
        manifest["implementation"].update(name="kldiv_xp numpy", convention="oneflow")

    path = tmp_path / "stranger.npz"
    path.write_bytes(with_manifest(SOME.read_bytes(), change))
    (recorded,) = recorded_implementations([path])
    assert recorded.label == "kldiv_xp numpy [oneflow] (stranger.npz)"
    support = judge_implementation(recorded, []).support
    assert support is not None
    assert support.name == "numpy (stranger.npz)"


def test_the_name_of_a_file_does_not_speak_to_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "\x1b[2J\nin.npz"
    path.write_bytes(SOME.read_bytes())
    (recorded,) = recorded_implementations([path])
    assert recorded.label.isprintable()
    assert recorded.environment["file"].isprintable()


@pytest.mark.parametrize(
    ("name", "excused"),
    [("torch.nn.KLDivLoss", True), ("torch.nn.KLDivLoss cuda", True), ("torch.nn.KLDivLossOfMine", False)],
)
def test_what_is_only_named_alike_is_not_excused(name: str, excused: bool) -> None:
    ids = {deviation.id for deviation in deviations_of(Plain(name, "torch"), "loss")}
    assert ("sum-overflows-before-it-is-divided" in ids) == excused
