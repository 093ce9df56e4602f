"""Files are written whole or not at all."""

import ctypes
import inspect
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models import whole_files
from models.whole_files import temporary_of
from pipeline.workflow.config import load
from pipeline.workflow.snakefile import freeze
from pipeline.workflow.writing import (
    finite_or_null,
    replacing,
    replacing_folder,
    sweep,
    write_json,
    write_text,
)
from tests.builders.paths import ROOT


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "image.tif"
    with replacing(path) as temporary:
        assert (temporary.parent, temporary.suffix) == (path.parent, ".tif")
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_keeps_the_earlier_file(tmp_path):
    path = tmp_path / "table.csv"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_whole(tmp_path):
    path = tmp_path / "DATA"
    for name in ("stale", "fresh"):
        with replacing_folder(path) as temporary:
            (temporary / name).write_text(name)
    assert [p.name for p in path.iterdir()] == ["fresh"]
    with pytest.raises(RuntimeError), replacing_folder(path) as temporary:
        (temporary / "half").write_text("half")
        raise RuntimeError
    assert [p.name for p in path.iterdir()] == ["fresh"]
    assert list(tmp_path.iterdir()) == [path]


def test_values_that_are_not_finite_become_null(tmp_path):
    path = tmp_path / "log.json"
    values = {"a": 0.5, "b": float("nan"), "c": float("inf"), "d": -float("inf")}
    write_json(path, finite_or_null(values))
    assert json.loads(path.read_text()) == {"a": 0.5, "b": None, "c": None, "d": None}


def test_json_is_utf_8_and_without_nan(tmp_path):
    path = tmp_path / "values.json"
    write_json(path, {"é": [1, None]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"é": [1, None]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, float("nan"))
    assert json.loads(path.read_text(encoding="utf-8")) == {"é": [1, None]}


@pytest.fixture(autouse=True)
def flushed(monkeypatch):
    """Wait for the disk, which other tests do not (see conftest)."""
    for name in ("flush", "flush_folder"):
        monkeypatch.setattr(whole_files, name, inspect.unwrap(getattr(whole_files, name)))


@pytest.fixture
def calls(monkeypatch):
    """The order of flushes and renames: (what, name)."""
    made = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(descriptor):
        made.append(("flush", Path(f"/proc/self/fd/{descriptor}").readlink()))
        real_fsync(descriptor)

    def replace(path, target):
        made.append(("rename", target))
        return real_replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    return made


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, calls):
    """And so is the name, before the block is left."""
    with replacing(tmp_path / "a.json") as temporary:
        temporary.write_text("whole")
    assert calls == [("flush", temporary), ("rename", tmp_path / "a.json"), ("flush", tmp_path)]


@pytest.mark.parametrize("has_syncfs", [True, False])
def test_a_folder_is_on_the_disk_before_it_has_its_name(tmp_path, calls, monkeypatch, has_syncfs):
    """With one call for all files, or, where the system has none, with one for each."""

    class Library:
        def syncfs(self, descriptor):
            calls.append(("syncfs", Path(f"/proc/self/fd/{descriptor}").readlink()))
            return 0 if has_syncfs else -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Library())
    with replacing_folder(tmp_path / "DATA") as temporary:
        (temporary / "1.npy").write_text("1")
        (temporary / "2.npy").write_text("2")
    each = [] if has_syncfs else [("flush", temporary / f"{i}.npy") for i in (1, 2)]
    assert calls[0] == ("syncfs", temporary)
    assert sorted(calls[1:-2]) == each
    assert calls[-2:] == [("rename", tmp_path / "DATA"), ("flush", tmp_path)]


WRITE = """
import os, signal, sys
from pathlib import Path
from pipeline.workflow.writing import replacing, replacing_folder
folder = Path(sys.argv[1])
with replacing(folder / "pixels.npy") as file, replacing_folder(folder / "sub" / "DATA") as data:
    file.write_text("half")
    (data / "1.npy").write_text("half")
    print("written", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_swept(tmp_path):
    """Not while it runs, and nothing else that is hidden."""
    others = [tmp_path / ".pixels.123.npy", tmp_path / ".x.0123abcd-1.part", tmp_path / "a.part"]
    for path in others:
        path.write_text("of a user, or of another machine")
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout.readline() == b"written\n"
    assert sweep(tmp_path) == []
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert {p.parent.name for p in sweep(tmp_path)} == {tmp_path.name, "sub"}
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == {*others}
    day_ago = time.time() - 25 * 3600
    os.utime(others[1], (day_ago, day_ago))
    assert sweep(tmp_path) == [others[1]]


def test_a_start_sweeps_its_own_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = load({"run": "mine"})
    machine = temporary_of(Path("x")).name.split(".")[2].split("-")[0]
    # No process has this number: it is larger than the largest.
    left = f".pixels.{machine}-{2**22 + 1}.part.npy"
    for run in ("mine", "other"):
        write_text(tmp_path / "results" / run / "extracted" / left, "half")
    freeze(settings, [])
    assert [p.parts[-3] for p in (tmp_path / "results").rglob(left)] == ["other"]
    assert left in capsys.readouterr().err
