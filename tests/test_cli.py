"""The command line: one subcommand a stage, errors in one line, and settings cut to the stage."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.__main__ import STAGES, main
from pipeline.workflow.config import view
from pipeline.workflow.settings import ExtractSettings, Settings

ROOT = Path(__file__).parents[1]


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
            *("--imagery", tmp_path / "nowhere", "--acquisitions", tmp_path / "a.csv"),
            *("--grids", tmp_path / "g.json"),
        ],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "nowhere" in result.stderr
    assert result.stderr == log.read_text()


def test_an_error_of_a_library_shows_where_it_comes_from(tmp_path, config):
    grids = tmp_path / "g.json"
    grids.write_text("{")
    log = tmp_path / "rasterise.log"
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pipeline", "rasterise", "--config", config, "--log", log),
            *("--parcels", tmp_path, "--grids", grids, "--tile", "31UDS"),
            *("--pixel-index", tmp_path / "i.npz", "--label-image", tmp_path / "l.tif"),
        ],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr == log.read_text()
    assert f"a bug in Parcelwise. Please report it with this text, which is also in {log}" in (
        result.stderr
    )
    assert "Traceback (most recent call last)" in result.stderr
    assert "JSONDecodeError: Expecting property name" in result.stderr


def test_a_stage_sees_only_the_settings_that_it_names():
    seen = view(Settings(), "extract")
    assert isinstance(seen, ExtractSettings)
    assert seen.imagery.resampling == "bilinear"
    with pytest.raises(AttributeError):
        _ = seen.imagery.max_cloud_fraction
    with pytest.raises(AttributeError):
        _ = seen.train
