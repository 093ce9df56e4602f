"""The command line: its usage, its errors in one line, and the settings that a stage gets."""

import errno
import os
import resource
import select
import subprocess
import sys
import tomllib

import numpy as np
import pytest
import yaml

from models.fast_cpu import memory_allocator
from pipeline import command_line
from pipeline.command import allow_open_files, command
from pipeline.command_line import COMMANDS, STAGES, main
from pipeline.run_function import WORKFLOW, run_function
from pipeline.workflow import software
from pipeline.workflow.config import view
from pipeline.workflow.settings import ExtractSettings, Settings, SplitSettings
from tests.builders.paths import ROOT


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(Settings().model_dump(mode="json")))
    return path


def test_the_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in (*COMMANDS, *STAGES))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "there is no command 'trian'. Did you mean 'train'?"),
        (["mine.yaml"], "there is no command 'mine.yaml'. Did you mean `parcelwise run mine.yaml`"),
        ([], "name a command or a stage"),
        (["split", "--settings", "{}"], "arguments are required: --dataset, --folds"),
        (["inspect"], "required: FILE"),
    ],
)
def test_wrong_usage_ends_with_exit_code_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_the_version_is_that_of_the_package_and_of_the_checkout(capsys, monkeypatch, tmp_path):
    assert main(["--version"]) == 0
    shown = capsys.readouterr().out
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert shown.startswith(f"parcelwise {project['version']}")
    if (ROOT / ".git").exists():
        describe = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
        commit = subprocess.run(describe, capture_output=True, text=True, check=True).stdout
        assert f"(commit {commit[:7]}" in shown
    monkeypatch.setattr(software, "SOURCE", tmp_path)
    assert software.version() == f"parcelwise {project['version']}"


def test_an_input_error_is_one_line_and_exit_code_1(tmp_path, config):
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


def call(function, *arguments):
    """Run a function as the command runs a stage."""
    return run_function(function, list(map(str, arguments)), program="x", logger="pipeline.x")


SPLIT = view(Settings(), "split").model_dump_json()


def test_a_bug_keeps_its_traceback_and_names_the_log(tmp_path):
    log = tmp_path / "broken.log"
    arguments = f"'--settings', {SPLIT!r}, '--log', {str(log)!r}"
    code = f"from {__name__} import broken, call; call(broken, {arguments})"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    ).stderr
    assert shown == log.read_text()
    assert "a bug in Parcelwise. Please report it with this text, which is also in " in shown
    assert str(log) in shown
    assert "Traceback (most recent call last)" in shown
    assert "ValueError: cannot reshape array" in shown


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{", "--settings is not JSON"),
        ("[]", "--settings is not a JSON object"),
        ('{"split": {}, "train": {}}', "train: unknown setting; known here: split"),
        ("{}", "split: Field required"),
    ],
)
def test_settings_of_other_stages_are_refused(settings, message, caplog):
    assert call(idle, "--settings", settings) == 1
    assert message in caplog.text
    assert "Traceback" not in caplog.text


def test_the_record_contains_the_settings_that_were_passed(tmp_path):
    record = tmp_path / "settings" / "idle.json"
    assert call(idle, "--settings", SPLIT, "--record", record) == 0
    assert record.read_text() == SPLIT


def test_a_stage_gets_only_its_own_settings():
    own = view(Settings(), "extract")
    assert isinstance(own, ExtractSettings)
    assert own.imagery.resampling == "bilinear"
    with pytest.raises(AttributeError):
        _ = own.imagery.max_cloud_fraction
    with pytest.raises(AttributeError):
        _ = own.train


def test_the_command_sets_up_memory_before_the_stage(monkeypatch):
    done = []
    monkeypatch.setattr(memory_allocator, "keep_freed_memory", lambda: done.append("memory"))
    monkeypatch.setattr(command_line, "main", lambda: done.append("stage") or 0)
    with pytest.raises(SystemExit) as end:
        command()
    assert end.value.code == 0
    assert done == ["memory", "stage"]


def test_the_command_may_open_as_many_files_as_the_user_may():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
        allow_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the jobs of a killed process")
def test_a_job_ends_when_the_snakemake_that_started_it_is_killed(tmp_path):
    inputs = tmp_path / "inputs.json"
    os.mkfifo(inputs)
    job = [sys.executable, "-m", "pipeline", "provenance", "--inputs", str(inputs), "--records"]
    job += ["--run", str(tmp_path), "--provenance", str(tmp_path / "provenance.json")]
    code = f"os.environ[{WORKFLOW!r}] = str(os.getpid()); subprocess.run({job})"
    snakemake = subprocess.Popen([sys.executable, "-c", f"import os, subprocess; {code}"], cwd=ROOT)
    with inputs.open("wb") as pipe:  # opened once the job reads it, which would wait forever
        snakemake.kill()
        snakemake.wait()
        reader = select.poll()
        reader.register(pipe, 0)
        assert [event for _, event in reader.poll(60_000)] == [select.POLLERR], "it goes on"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the jobs of a killed process")
def test_a_job_does_not_begin_if_its_snakemake_was_killed(monkeypatch):
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    monkeypatch.setenv(WORKFLOW, str(killed.pid))
    with pytest.raises(SystemExit):
        run_function(lambda: pytest.fail("it begins"), [], program="x", logger="x")
    monkeypatch.setenv(WORKFLOW, str(os.getpid()))
    assert run_function(lambda: None, [], program="x", logger="x") == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES])
def test_a_full_disk_says_what_to_do(caplog, number):
    def full(settings: SplitSettings) -> None:
        """Fail as a stage does whose disk is full."""
        raise OSError(number, os.strerror(number), "pixels.npy")

    full.__annotations__["settings"] = SplitSettings
    assert call(full, "--settings", SPLIT) == 1
    assert f"{os.strerror(number)}: 'pixels.npy'" in caplog.text
    assert ("Free space, and repeat the command" in caplog.text) == (number != errno.EACCES)
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("Unknown error: Failed to launch worker thread"),  # of Arrow
    ],
)
def test_too_little_memory_says_what_to_do(caplog, error):
    def full(settings: SplitSettings) -> None:
        """Fail as a stage does that needs more memory than there is."""
        raise error

    full.__annotations__["settings"] = SplitSettings
    assert call(full, "--settings", SPLIT) == 1
    assert "There is not enough memory: " in caplog.text
    assert "repeat the command: it continues with what is missing" in caplog.text
    assert "Traceback" not in caplog.text
    assert "bug" not in caplog.text


def test_too_little_memory_for_the_libraries_is_in_the_log_of_the_job(tmp_path, monkeypatch):
    def failing(_):
        raise ImportError("libtorch.so: failed to map segment from shared object")

    monkeypatch.setattr("importlib.import_module", failing)
    log = tmp_path / "logs" / "train.log"
    assert main(["train", "--log", str(log)]) == 1
    assert log.read_text().startswith("pipeline.train: There is not enough memory: libtorch.so")


def test_a_log_that_cannot_be_written_ends_the_job_in_one_line(tmp_path, capsys):
    (tmp_path / "logs").write_text("a file")
    words = ["--log", str(tmp_path / "logs" / "names.log")]
    assert run_function(lambda: None, words, program="x", logger="pipeline.names") == 1
    shown = capsys.readouterr().err
    assert shown.startswith("pipeline.names: the log cannot be written: [Errno ")
    assert shown.count("\n") == 1


def test_a_picture_of_an_unknown_format_is_refused(config, capsys, caplog):
    assert main(["inspect", str(config), "--picture", "x.pdff"]) == 1
    assert "x.pdff: expected a name that ends in .png, .svg or .pdf" in caplog.text
