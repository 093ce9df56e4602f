"""`parcelwise run`: mistakes end in one line, and Snakemake gets everything else."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml

from pipeline.command_line import STAGES, main
from pipeline.workflow import launch
from pipeline.workflow.launch import snakemake_call
from pipeline.workflow.settings import Settings
from pipeline.workflow.snakefile import REPEATED
from tests.builders.paths import ROOT
from tests.builders.pixel_sets import BANDS, make


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the current folder, which contains settings files."""
    monkeypatch.chdir(tmp_path)
    values = {"run": "mine", "imagery": {"path": "in"}, "parcels": {"path": "register.gpkg"}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump({"dataset": {"path": "existing"}}))
    (tmp_path / "text.yaml").write_text("wheat")
    (tmp_path / "broken.yaml").write_text("imagery: [")
    (tmp_path / "latin.yaml").write_bytes("run: \xe9t\xe9".encode("latin-1"))
    return tmp_path


@pytest.fixture
def recorded(monkeypatch):
    """Return the list of calls of Snakemake, which are recorded instead of executed."""
    calls = []
    monkeypatch.setattr(launch.os, "execve", lambda *call: calls.append(call))
    return calls


def test_the_words_become_the_call_of_snakemake(folder, recorded, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin")
    words = ["train.epochs=3", "--cores", "2", "report", "split.by=block", "--directory", "out"]
    main(["run", "mine.yaml", *words, "--", "-n", "--forcerun", "train"])
    ((program, command, environment),) = recorded
    assert program == sys.executable
    assert command == [
        *(sys.executable, "-m", "pipeline.workflow.messages", "report"),
        *("--snakefile", str(ROOT / "Snakefile")),
        *("--configfile", "mine.yaml", "--directory", "out", "--cores", "2"),
        *("-n", "--forcerun", "train"),
    ]
    settings = json.loads(environment["PARCELWISE_SETTINGS"])
    assert settings == {"train": {"epochs": 3}, "split": {"by": "block"}}
    # The rules call the `parcelwise` of this Python.
    first, *others = environment["PATH"].split(os.pathsep)
    assert others == ["/usr/bin"]
    assert (ROOT / first / "python").exists()


@pytest.mark.parametrize(
    ("assignments", "settings"),
    [
        (["train.patience=null", "run="], {"train": {"patience": None}, "run": None}),
        (["imagery.start=2022-04-01"], {"imagery": {"start": "2022-04-01"}}),
        (["parcels.classes=[1, two]"], {"parcels": {"classes": [1, "two"]}}),
        (["parcels.labels.crop=A=B"], {"parcels": {"labels": {"crop": "A=B"}}}),
        (["split={folds: 3}", "split.seed=2"], {"split": {"folds": 3, "seed": 2}}),
    ],
)
def test_values_keep_their_types(folder, monkeypatch, assignments, settings):
    monkeypatch.setattr(launch, "read", lambda *_, **__: Settings())
    _, environment = snakemake_call(["mine.yaml", *assignments])
    assert json.loads(environment["PARCELWISE_SETTINGS"]) == settings


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nine.yaml"], "There is no settings file nine.yaml. Did you mean mine.yaml?"),
        (
            ["other"],
            "There is no settings file other. Name your own, or results/<run>/config.yaml.",
        ),
        (["."], ". is a folder. Did you mean broken.yaml?"),
        (["text.yaml"], "text.yaml contains no settings, found 'wheat'. Write `section:`"),
        (["broken.yaml"], "broken.yaml is not YAML: "),
        (["latin.yaml"], "latin.yaml is not YAML: "),
        (["mine.yaml", "repot"], "'repot' is neither a target of this run nor a file in"),
        (["mine.yaml", "repot"], "Did you mean 'report'?"),
        (["mine.yaml", "soil"], "Known are all, areas, calibrate, clean, dataset, "),
        (["mine.yaml", "ingest"], "'ingest' is neither a target"),
        (["mine.yaml", "simulate"], "'simulate' is neither a target"),
        (["dataset.yaml", "index"], "'index' is neither a target"),
        (["mine.yaml", "results/other/folds.json"], "nor a file in results/mine."),
        (["mine.yaml", "train"], "'train' runs once per fold and cannot be a target."),
        (["mine.yaml", "train.epochs"], "To change a setting, write train.epochs=VALUE."),
        (["mine.yaml", "train.epoch=3"], "train.epoch: unknown setting; did you mean 'epochs'?"),
        (["mine.yaml", "epochs=3"], "epochs: unknown setting; did you mean 'train.epochs'?"),
        (["mine.yaml", "train.epochs=many"], "train.epochs: Input should be a valid integer"),
        (["mine.yaml", "train.epochs=[1"], "'train.epochs=[1': the value is not YAML."),
        (["mine.yaml", "train.=1"], "'train.=1' is not a setting: write section.key=value."),
        (["mine.yaml", "=1"], "'=1' is not a setting: write section.key=value."),
    ],
)
def test_a_mistake_ends_in_one_line_before_snakemake(folder, recorded, capsys, words, message):
    assert main(["run", *words]) == 1
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.startswith("parcelwise run: ")
    assert shown.count("\n") == 1
    assert recorded == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "FILE is missing"),
        (["mine.yaml", "-n"], "Options of Snakemake follow `--`: parcelwise run FILE -- -n"),
        (["mine.yaml", "--cores"], "argument --cores: expected one argument"),
    ],
)
def test_wrong_usage_ends_with_exit_code_2(folder, recorded, capsys, words, message):
    with pytest.raises(SystemExit) as end:
        main(["run", *words])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert recorded == []


def test_the_file_can_be_anywhere_among_the_words(folder, recorded):
    main(["run", "train.epochs=3", "mine.yaml", "report"])
    ((_, command, environment),) = recorded
    assert command[command.index("--configfile") + 1] == "mine.yaml"
    assert json.loads(environment["PARCELWISE_SETTINGS"]) == {"train": {"epochs": 3}}


@pytest.mark.parametrize("target", ["all", "dataset", "index", "report", "results/mine/folds.json"])
def test_a_rule_or_a_file_of_the_run_is_a_target(folder, recorded, target):
    main(["run", "mine.yaml", target])
    assert target in recorded[0][1]


def test_the_command_season_is_a_run_to_the_target_season(folder, recorded, capsys):
    main(["run", "mine.yaml", "season", "train.epochs=3", "--", "-n"])
    main(["season", "mine.yaml", "train.epochs=3", "--", "-n"])
    first, second = recorded
    assert first == second
    assert second[1][3] == "season"
    assert main(["season", "mine.yaml", "sason"]) == 1
    assert capsys.readouterr().err.startswith("parcelwise season: 'sason' is neither a target")


def test_rules_that_run_several_times_are_those_with_wildcards():
    text = "".join(file.read_text() for file in sorted(ROOT.glob("rules/*.smk")))
    messages = dict(
        re.findall(r"rule (?:\w+ as )?(\w+)(?: with)?:\n\s+message:\n\s+\"(.*)\"", text)
    )
    found = {rule: re.findall(r"\{wildcards\.(\w+)\}", text) for rule, text in messages.items()}
    assert {rule: names[0] for rule, names in found.items() if names} == REPEATED
    # The rule train_season calls the stage train.
    assert set(REPEATED) - {"train_season"} <= set(STAGES)


def parcelwise(folder, *words, **options):
    """Start `parcelwise` as a user does."""
    command = [sys.executable, "-m", "pipeline", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options,
    )  # fmt: skip


@pytest.fixture
def small(tmp_path):
    """Return a folder with a small Pixel-Set dataset and its settings."""
    make(tmp_path / "existing", 30)
    values = {
        "run": "small",
        "dataset": {"path": "existing", "bands": BANDS, "classes": {"min_parcels": 4}},
        "split": {"folds": 2},
        "train": {"epochs": 1, "members": 1, "pixels": 4},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


@pytest.mark.slow
def test_a_run_a_dry_run_and_an_error_of_snakemake(small):
    run = parcelwise(small, "run", "small.yaml", "split", "split.folds=3", "train.patience=null")
    output, _ = run.communicate()
    assert run.returncode == 0, output
    assert len(json.loads((small / "results/small/folds.json").read_text())["folds"]) == 3
    assert "Divide the labelled parcels into 3 folds: results/small/folds.json." in output
    # As `make demo` prints it: the jobs, without reasons and without a list of hosts.
    assert "reason:" not in output.lower()
    assert "host:" not in output.lower()
    assert len(output) < 5000

    dry = parcelwise(small, "run", "small.yaml", "split", "split.folds=4", "--", "-n")
    output, _ = dry.communicate()
    assert dry.returncode == 0
    assert "into 4 folds" in output
    assert len(json.loads((small / "results/small/folds.json").read_text())["folds"]) == 3

    absent = parcelwise(small, "run", "small.yaml", "results/small/absent.json")
    output, _ = absent.communicate()
    assert absent.returncode == 1
    assert "absent.json" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_ctrl_c_ends_the_run_and_its_jobs(small):
    run = parcelwise(
        small, "run", "small.yaml", "models", "train.epochs=100000", "--cores", "2",
        start_new_session=True,
        # A shell starts background jobs with Ctrl-C ignored, which their children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    log = small / "results/small/logs/train/Fold_1.log"
    try:
        while run.poll() is None and not (log.is_file() and "epoch" in log.read_text()):
            time.sleep(0.05)
        assert run.poll() is None
        # A terminal sends Ctrl-C to all processes in the foreground.
        os.killpg(run.pid, signal.SIGINT)
        output, _ = run.communicate(timeout=30)
        assert run.returncode == 1
        after = output.split("Train fold 1:")[-1]
        assert after.endswith("\nInterrupted: the jobs end. The same command continues the run.\n")
        assert not re.search("Traceback|Error|exited|Interrupted(?s:.*)Interrupted", after)
        with pytest.raises(ProcessLookupError):
            os.killpg(run.pid, 0)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
