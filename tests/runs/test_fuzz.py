"""The fuzz: some mutants of every kind, and that it notices what it looks for."""

import subprocess
import sys

import pytest

from geo.errors import InputError
from tests.fuzz import __main__ as command
from tests.fuzz import worker
from tests.fuzz.__main__ import BAD, fuzz, judged
from tests.fuzz.inputs import KINDS


@pytest.mark.slow
def test_mutants_of_every_kind_are_refused_or_read():
    results = list(fuzz(list(KINDS), range(2), 5, 2))
    assert len(results) == 2 * len(KINDS)
    assert [result for result in results if result["outcome"] in BAD] == []


def run(tmp_path, monkeypatch, read):
    def write(folder):
        folder.mkdir()
        (folder / "file").write_text("abc")

    monkeypatch.setitem(worker.KINDS, "made", (write, read))
    return worker.run_case(tmp_path, {}, "made", 1, 1)


def raising(error):
    """Return a reader that reads the good input, and raises for another one."""

    def read(folder, out):
        if (folder / "file").is_file() and (folder / "file").read_bytes() == b"abc":
            return {"part": "abc"}
        raise error

    return read


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (InputError("refused"), "refused"),
        (FileNotFoundError("refused"), "refused"),
        (InputError(""), "traceback"),
        (KeyError("x"), "traceback"),
        (RecursionError("x"), "traceback"),
        (MemoryError(), "traceback"),
    ],
)
def test_only_messages_count_as_refusals(tmp_path, monkeypatch, error, outcome):
    assert run(tmp_path, monkeypatch, raising(error))["outcome"] == outcome


def test_another_result_without_a_reason_is_reported(tmp_path, monkeypatch):
    def read(folder, out):
        file = folder / "file"
        return {"part": file.read_bytes().hex() if file.is_file() else "none", "same": "x"}

    result = run(tmp_path, monkeypatch, read)
    assert (result["outcome"], result["parts"]) == ("read", ["part"])
    assert judged("made", result)["outcome"] == "unjudged"
    assert judged("geotiff", result | {"parts": ["pixels"]})["outcome"] == "differs"
    assert judged("geotiff", result | {"grown_mb": 5000})["outcome"] == "memory"


@pytest.mark.parametrize(
    ("code", "outcome"), [("input()", "hang"), ("import os; os.abort()", "crash")]
)
def test_processes_that_hang_or_die_are_reported(monkeypatch, code, outcome):
    def started(arguments, **options):
        return start([sys.executable, "-c", f"input(); {code}"], **options)

    start = subprocess.Popen
    monkeypatch.setattr(command, "LONGEST_S", 1)
    monkeypatch.setattr(command.subprocess, "Popen", started)
    (result,) = fuzz(["safe"], [0], 0, 1)
    assert result["outcome"] == outcome
