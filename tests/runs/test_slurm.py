"""The Slurm profile, on a simulated cluster and on a real one where there is one.

The simulated cluster has what a profile must live with: nodes of two cores, no GPU that Slurm knows
of, no accounting database.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.stages.split import split
from pipeline.workflow.config import load, view
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.settings import STAGE_SETTINGS
from tests.builders.paths import ROOT
from tests.builders.pixel_sets import BANDS, ingest_dataset, make

PROFILE = ROOT / "profiles" / "slurm"
# The longest pause between two looks of the executor, in seconds; no option of it says so.
LONGEST_PAUSE = 180

# What each of Slurm's commands does here; sbatch comes back when the job is done, so that the first
# look at it finds it so.
COMMANDS = {
    "sbatch": """
*options, command = arguments
given = dict(re.findall(r"--([a-z-]+)[= ](\\S+)", " ".join(options)))
cpus, gpus = int(given.get("cpus-per-task", 1)), given.get("gpus") or given.get("gres")
asked = {"cpus": cpus, "gpus": gpus, "mem": int(given["mem"])}
job = str(os.getpid())
(folder / f"{job}.asked").write_text(json.dumps([given["comment"], asked]))
if cpus > 2 or gpus:
    sys.exit("sbatch: error: Requested node configuration is not available")
with open(given["output"].replace("%j", job), "w") as log:
    code = subprocess.run(
        command.removeprefix("--wrap="), shell=True, stdout=log, stderr=subprocess.STDOUT,
        cwd=options[options.index("-D") + 1], env={**os.environ, "CPUS_GIVEN": str(cpus)},
    ).returncode
(folder / f"{job}.state").write_text("FAILED" if code else "COMPLETED")
print(job)
""",
    "srun": """
first = next(i for i, argument in enumerate(arguments) if not argument.startswith("-"))
options = " ".join(arguments[:first])
cpus = int(re.search(r"--cpus-per-task=(\\d+)", options)[1])
if cpus > int(os.environ["CPUS_GIVEN"]) or "--gpus" in options:
    sys.exit("srun: error: Unable to create step: More processors or GPUs than the job has")
os.execvp(arguments[first], arguments[first:])
""",
    "squeue": """
for file in folder.glob("*.state"):
    print(f"{file.stem}|{file.read_text()}")
""",
    "sacct": 'sys.exit("Slurm accounting storage is disabled")',
    "sacctmgr": """sys.exit("Only 'accounting_storage/slurmdbd' is supported.")""",
    "scontrol": 'print("MinJobAge               = 300 sec")',
    "sinfo": 'print("PARTITION", "all*", sep="\\n")',
    "scancel": "",
}


@pytest.fixture
def simulated(tmp_path, monkeypatch):
    """Put the simulated cluster's commands first in PATH; every machine shows a GPU's file."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    for name, body in COMMANDS.items():
        head = f"""#!{sys.executable}
import json, os, re, subprocess, sys
from pathlib import Path
from tests.builders.paths import ROOT
arguments, folder = sys.argv[1:], Path({str(folder)!r})
"""
        (folder / name).write_text(head + body)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


@pytest.fixture
def real():
    """Check that a cluster answers."""
    sinfo = shutil.which("sinfo")
    if sinfo is None or subprocess.run([sinfo], capture_output=True).returncode:
        pytest.skip("needs a Slurm cluster: `sinfo` answers where one is")


@pytest.fixture
def folder(tmp_path):
    """A run whose dataset and folds are there: training comes next."""
    make(tmp_path / "source", 30)
    settings = {
        "run": "small",
        "dataset": {
            "path": str(tmp_path / "source"),
            "bands": BANDS,
            "classes": {"min_parcels": 4},
        },
        "split": {"folds": 2},
        "train": {"epochs": 1, "members": 1, "pixels": 4},
    }
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    run = RunPaths(tmp_path / "results" / "small")
    ingest_dataset(load(settings), run)
    split(run.dataset.root, run.folds, view(load(settings), "split"))
    return tmp_path


def on_slurm(folder, *options):
    """Run the workflow by the profile, with shorter pauses between the looks at its jobs."""
    # As if the machine had a GPU: that must not tell what the nodes have.
    (folder / "sitecustomize.py").write_text(
        "from pathlib import Path\n"
        "exists = Path.exists\n"
        "Path.exists = lambda self, **o: str(self) == '/dev/nvidia0' or exists(self, **o)\n"
    )
    command = [
        *(sys.executable, "-m", "snakemake", "--workflow-profile", str(PROFILE)),
        *("--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)),
        *("--configfile", str(folder / "settings.yaml")),
        *("--slurm-init-seconds-before-status-checks", "1", *options),
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(folder)},
    )  # fmt: skip
    return result.returncode, result.stdout + result.stderr


def asked(cluster):
    """What was asked for, {rule: cores, GPUs, memory}, once a rule."""
    rows = [json.loads(file.read_text()) for file in cluster.glob("*.asked")]
    return {re.match("rule_([a-z]+)", comment)[1]: what for comment, what in rows}


@pytest.mark.parametrize("cluster", ["simulated", "real"])
def test_jobs_run_and_are_seen_to_end(cluster, folder, request):
    cluster = request.getfixturevalue(cluster)
    options = ("--printshellcmds", "--slurm-keep-successful-logs")
    code, output = on_slurm(folder, "predictions", *options)
    assert code == 0, output
    assert (folder / "results" / "small" / "predictions" / "parcels.csv").is_file()
    # On the node, too, a job plans with the cores that it was given.
    threads = f"--threads {min(2, len(os.sched_getaffinity(0)))}"
    logs = list((folder / ".snakemake" / "slurm_logs").rglob("*.log"))
    assert len(logs) == 3
    assert all(threads in log.read_text() for log in logs)
    if cluster:
        job = {"cpus": 2, "gpus": None, "mem": 4000}
        assert asked(cluster) == {"train": job, "predict": job}


def test_a_gpu_is_asked_for_by_one_line_of_the_settings(simulated, folder):
    code, output = on_slurm(folder, "models", "--config", "train={device: cuda}")
    assert code != 0
    assert "Requested node configuration is not available" in output
    assert asked(simulated) == {"train": {"cpus": 2, "gpus": "1", "mem": 4000}}


def test_the_log_of_a_failed_job_is_shown(simulated, folder):
    run = RunPaths(folder / "results" / "small")
    run.folds.write_text('{"folds": []}')
    code, output = on_slurm(folder, "models")
    assert code != 0
    told = (folder / run.log("train/Fold_1")).read_text().splitlines()[-1]
    assert told
    assert told in output


def test_a_folder_that_a_shell_would_read_is_refused_before_any_job(simulated, folder):
    other = folder / "p$(touch EXECUTED)"
    other.mkdir()
    shutil.copy(folder / "settings.yaml", other)
    code, output = on_slurm(other, "models")
    assert code != 0
    assert "p$(touch EXECUTED)' holds $: on a cluster" in output
    assert "Traceback" not in output
    assert asked(simulated) == {}
    assert not list(folder.rglob("EXECUTED"))


def test_whatever_uses_a_gpu_asks_for_it():
    text = (ROOT / "Snakefile").read_text()
    for stage, kind in STAGE_SETTINGS.items():
        rule = re.search(rf"(?s)rule {stage}:\n.*?shell:", text)
        train = kind.model_fields.get("train")
        uses = train is not None and "device" in train.annotation.model_fields
        assert uses == bool(rule and "gpu=gpus" in rule[0]), stage


def test_squeue_is_asked_only_where_it_remembers_longer_than_the_pause():
    profile = yaml.safe_load((PROFILE / "config.yaml").read_text())
    assert profile["slurm-status-command"] == "squeue"
    # The executor trusts squeue from a MinJobAge of three times these seconds on, else asks sacct.
    assert 3 * profile["slurm-init-seconds-before-status-checks"] >= LONGEST_PAUSE
