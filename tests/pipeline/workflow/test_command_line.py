"""The command line: one subcommand a stage, errors in one line, and settings cut to the stage."""

import subprocess
import sys

import numpy as np
import pytest
import yaml

from pipeline import __main__ as command_line
from pipeline.__main__ import STAGES, main
from pipeline.workflow.config import view
from pipeline.workflow.settings import ExtractSettings, Settings, SplitSettings
from tests.builders.paths import ROOT


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(Settings().model_dump(mode="json")))
    return path


def test_help_names_every_stage(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"  {stage} " in shown for stage in STAGES)


def test_an_unknown_stage_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        main(["trian"])
    assert end.value.code == 2
    assert "trian" in capsys.readouterr().err


def test_a_user_error_is_one_line_and_exit_code_1(tmp_path, config):
    log = tmp_path / "index.log"
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pipeline", "index", "--config", config, "--log", log),
            *("--imagery", tmp_path / "nowhere", "--acquisitions", tmp_path / "a.json"),
            *("--table", tmp_path / "a.csv", "--items", tmp_path, "--grids", tmp_path / "g.json"),
        ],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "nowhere" in result.stderr
    assert result.stderr == log.read_text()


def broken(settings: SplitSettings) -> None:
    """Fail as a stage with a bug does."""
    np.zeros(2).reshape(3)


def idle(settings: SplitSettings) -> None:
    """Do nothing."""


def run_here(function, *arguments):
    """Run a function of this file as a command does a stage."""
    code = (
        f"import sys; from {__name__} import {function}; from pipeline.__main__ import run; "
        f"sys.exit(run({function}, sys.argv[1:], program='x', logger='pipeline.x'))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip


SPLIT = view(Settings(), "split").model_dump_json()


def test_a_bug_keeps_its_traceback_and_says_where_the_log_is(tmp_path):
    log = tmp_path / "broken.log"
    result = run_here("broken", "--settings", SPLIT, "--log", log)
    assert result.returncode == 1
    assert result.stderr == log.read_text()
    assert f"a bug in Parcelwise. Please report it with this text, which is also in {log}" in (
        result.stderr
    )
    assert "Traceback (most recent call last)" in result.stderr
    assert "ValueError: cannot reshape array" in result.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{", "--settings is not JSON"),
        ("[]", "--settings is not a JSON object"),
        ('{"split": {}, "train": {}}', "train: unknown setting; known here: split"),
        ("{}", "split: Field required"),
    ],
)
def test_settings_that_are_not_the_stages_own_are_refused(settings, message):
    result = run_here("idle", "--settings", settings)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_the_record_is_what_was_passed(tmp_path):
    record = tmp_path / "settings" / "idle.json"
    assert run_here("idle", "--settings", SPLIT, "--record", record).returncode == 0
    assert record.read_text() == SPLIT


def test_a_stage_sees_only_the_settings_that_it_names():
    seen = view(Settings(), "extract")
    assert isinstance(seen, ExtractSettings)
    assert seen.imagery.resampling == "bilinear"
    with pytest.raises(AttributeError):
        _ = seen.imagery.max_cloud_fraction
    with pytest.raises(AttributeError):
        _ = seen.train


def test_the_command_keeps_freed_memory_whatever_the_stage(monkeypatch):
    done = []
    monkeypatch.setattr(command_line, "keep_freed_memory", lambda: done.append("memory"))
    monkeypatch.setattr(command_line, "main", lambda: done.append("stage") or 0)
    with pytest.raises(SystemExit) as end:
        command_line.command()
    assert end.value.code == 0
    assert done == ["memory", "stage"]
