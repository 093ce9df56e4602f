"""The Slurm profile, on a simulated cluster, and on a real one if Slurm is installed.

The simulated cluster is a minimal one: nodes of two cores, no GPU that is known to Slurm, and no
accounting database. The real one has two such nodes on this machine.
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
from tests.builders.runs import planned, snakemake
from tests.builders.slurm_cluster import is_installed, running

PROFILE = ROOT / "profiles" / "slurm"
# Longest pause between two status checks of the executor, in seconds. It is not an option.
LONGEST_PAUSE = 180

PACKED = "results/small/dataset/tiles/31TFM/pixels.npy"

# The commands of the simulated cluster. sbatch returns when the job is done, so that the first
# status check finds it done.
COMMANDS = {
    "sbatch": """
*options, command = arguments
requests = dict(re.findall(r"--([a-z-]+)[= ](\\S+)", " ".join(options)))
cpus, gpus = int(requests.get("cpus-per-task", 1)), requests.get("gpus") or requests.get("gres")
resources = {"cpus": cpus, "gpus": gpus, "mem": int(requests["mem"])}
job = str(os.getpid())
(folder / f"{job}.resources").write_text(json.dumps([requests["comment"], resources]))
if cpus > 2 or gpus:
    sys.exit("sbatch: error: Requested node configuration is not available")
with open(requests["output"].replace("%j", job), "w") as log:
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
    """Put the commands of the simulated cluster first in PATH."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    for name, body in COMMANDS.items():
        head = f"""#!{sys.executable}
import json, os, re, subprocess, sys
from pathlib import Path
arguments, folder = sys.argv[1:], Path({str(folder)!r})
"""
        (folder / name).write_text(head + body)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """Run a real cluster for all tests of this module."""
    if not is_installed():
        pytest.skip("needs Slurm and munge (Debian: apt install slurmctld slurmd munge)")
    with running(tmp_path_factory.mktemp("slurm") / "cluster") as cluster:
        yield cluster


@pytest.fixture
def real(started, monkeypatch):
    """Put the commands of the real cluster first in PATH."""
    for name, value in started.environment.items():
        monkeypatch.setenv(name, value)
    return started


@pytest.fixture
def folder(tmp_path):
    """Return the folder of a run with dataset and folds, whose next stage is train."""
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
    """Run the workflow with the profile; return exit code and output."""
    process = start_on_slurm(folder, *options)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def start_on_slurm(folder, *options):
    """Start the workflow with the profile, and with shorter pauses between status checks."""
    # This machine has a GPU, which says nothing about the nodes.
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
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(folder)},
    )  # fmt: skip


def ended(cluster, folder):
    """Return rule or group, and state, of the jobs of a folder, in the order of their ids."""
    return [
        (job["Comment"].partition("_wildcards")[0], job["JobState"])
        for job in cluster.jobs()
        if job["WorkDir"] == str(folder)
    ]


def requested(cluster):
    """Return the requested resources: {rule: cores, GPUs, memory}."""
    rows = [json.loads(file.read_text()) for file in cluster.glob("*.resources")]
    return {re.match("rule_([a-z]+)", comment)[1]: what for comment, what in rows}


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["simulated", "real"])
def test_jobs_run_on_the_cluster(cluster, folder, request):
    cluster = request.getfixturevalue(cluster)
    options = ("--printshellcmds", "--slurm-keep-successful-logs")
    code, output = on_slurm(folder, "predictions", *options)
    assert code == 0, output
    assert (folder / "results" / "small" / "predictions" / "parcels.csv").is_file()
    # The job uses the cores that it got on the node.
    threads = f"--threads {min(2, len(os.sched_getaffinity(0)))}"
    logs = list((folder / ".snakemake" / "slurm_logs").rglob("*.log"))
    # The work list has no threads of its own.
    assert len(logs) == 5
    assert sum(threads in log.read_text() for log in logs) == 4
    if isinstance(cluster, Path):
        memory = {"train": 4000, "calibrate": 2000, "predict": 2000, "worklist": 1000}
        assert requested(cluster) == {
            rule: {"cpus": 1 if rule == "worklist" else 2, "gpus": None, "mem": mb}
            for rule, mb in memory.items()
        }


@pytest.fixture
def scene(tmp_path):
    """Return the folder of a run up to the packed pixels of its tile, made on this machine."""
    settings = {
        "run": "small",
        "simulate": {"size_m": 1280, "acquisitions": 6, "parcels": 60},
        "imagery": {"path": "results/small/raw/imagery"},
        "parcels": {
            "path": "results/small/raw/register.gpkg",
            "id": "ID_PARCEL",
            "labels": {"crop": "CODE_CULTU"},
            "classes": {"min_parcels": 5},
        },
    }
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    snakemake(tmp_path, PACKED, "--cores", "2")
    return tmp_path


@pytest.mark.slow
def test_extractions_are_grouped_and_write_the_same_bytes(real, scene):
    folders = [RunPaths(scene / "results" / "small").extractions]
    folders.append(RunPaths(scene / "results" / "small").dataset.root)
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    written = {file: file.read_bytes() for file in files}
    assert len(written) > 10
    # What is there of a group stays.
    kept = sorted(folders[0].glob("*.valid.npy"))[0].name.replace(".valid", "")
    for file in folders[0].glob("*.npy"):
        if not file.name.startswith(kept.removesuffix(".npy")):
            file.unlink()
    (scene / PACKED).unlink()
    code, output = on_slurm(scene, PACKED, "--group-components", "extractions=3")
    assert code == 0, output
    assert {file: file.read_bytes() for file in files} == written
    jobs = [name for name, _ in ended(real, scene)]
    groups = ["rule_extractions_0_extract", "rule_extractions_1_extract"]
    assert sorted(jobs) == ["rule_assemble", *groups]


@pytest.mark.slow
def test_a_job_killed_for_lack_of_memory_is_tried_again_with_more(real, folder):
    memory = "train:mem_mb=50 if attempt == 1 else 2000 * attempt"
    code, output = on_slurm(folder, "models", "--until", "train", "--set-resources", memory)
    assert code == 0, output
    jobs = [job for job in real.jobs() if job["WorkDir"] == str(folder)]
    tried = {}
    for job in jobs:
        tried.setdefault(job["Comment"], []).append((job["JobState"], job["MinMemoryNode"]))
    assert len(tried) == 2
    for states in tried.values():
        assert states == [("FAILED", "50M"), ("COMPLETED", "4000M")]


def fail_by_a_mistake(folder):
    """Train with damaged folds; return the message of the job, and all that was written."""
    run = RunPaths(folder / "results" / "small")
    run.folds.write_text('{"folds": []}')
    code, output = on_slurm(folder, "models")
    assert code != 0
    message = (folder / run.log("train/Fold_1")).read_text().splitlines()[-1].partition(": ")[2]
    assert f"Failed: train Fold_1: {message}" in output
    return message, output


@pytest.mark.slow
def test_a_job_that_a_mistake_ended_is_not_tried_again(real, folder):
    message, output = fail_by_a_mistake(folder)
    jobs = ended(real, folder)
    assert jobs == [("rule_train", "FAILED")] * len(jobs)
    assert len(jobs) <= 2
    # The log of Slurm repeats what the log of the stage says.
    assert output.count(message) == 1


@pytest.mark.slow
def test_jobs_of_a_killed_run_are_waited_for_and_not_started_twice(real, folder):
    run = RunPaths(folder / "results" / "small")
    settings = yaml.safe_load((folder / "settings.yaml").read_text())
    train = ("models", "--until", "train")
    real.run("scontrol", "update", "node=ALL", "state=drain", "reason=test")
    process = start_on_slurm(folder, *train)
    real.wait_for(lambda: len(ended(real, folder)) == 2, 100)
    process.kill()
    process.communicate()
    on_slurm(folder, "--unlock")
    # Other settings.
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings | {"train": {"epochs": 2}}))
    code, output = on_slurm(folder, *train)
    assert code != 0
    assert re.search(
        r"Jobs of results/small are still on the cluster \(\d+, \d+\), and the settings have "
        r"changed since they were started. End them by `scancel --name \S+`, or wait",
        output,
    )
    # The same settings.
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    process = start_on_slurm(folder, *train)
    assert any("waiting for them, to use their results" in line for line in process.stdout)
    assert ended(real, folder) == [("rule_train", "PENDING")] * 2
    real.run("scontrol", "update", "node=ALL", "state=resume")
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert ended(real, folder) == [("rule_train", "COMPLETED")] * 2
    assert not run.cluster_run.exists()


@pytest.mark.slow
def test_results_that_a_killed_run_did_not_record_are_recorded_or_refused(real, folder):
    run = RunPaths(folder / "results" / "small")
    settings = yaml.safe_load((folder / "settings.yaml").read_text())
    train = ("models", "--until", "train")
    process = start_on_slurm(folder, *train)
    real.wait_for(lambda: len(ended(real, folder)) == 2, 100)
    process.kill()
    process.communicate()
    done = [("rule_train", "COMPLETED")] * 2
    real.wait_for(lambda: not real.run("squeue", "--noheader"), 200)
    on_slurm(folder, "--unlock")
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings | {"predict": {"batch_size": 7}}))
    code, output = on_slurm(folder, *train)
    assert code != 0
    assert "Jobs of results/small ended on the cluster after the run was interrupted" in output
    assert "Run them again: parcelwise run FILE -- --forcerun train" in output
    assert "Traceback" not in output
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    code, output = on_slurm(folder, *train)
    assert code == 0, output
    assert ended(real, folder) == done
    assert not run.cluster_run.exists()
    # Snakemake knows the settings of the results.
    assert "train" not in planned(folder, *train)
    assert planned(folder, *train, train={"epochs": 2})["train"] == 2


@pytest.mark.slow
def test_a_job_requests_a_gpu_if_the_device_is_cuda(simulated, folder):
    options = ("--retries", "0", "--config", "train={device: cuda}")
    code, output = on_slurm(folder, "models", *options)
    assert code != 0
    assert "Requested node configuration is not available" in output
    assert requested(simulated) == {"train": {"cpus": 2, "gpus": "1", "mem": 4000}}


@pytest.mark.slow
@pytest.mark.usefixtures("simulated")
def test_the_message_of_a_failed_job_is_shown(folder):
    fail_by_a_mistake(folder)


@pytest.mark.slow
def test_a_folder_with_shell_characters_is_refused_before_any_job(simulated, folder):
    other = folder / "p$(touch EXECUTED)"
    other.mkdir()
    shutil.copy(folder / "settings.yaml", other)
    code, output = on_slurm(other, "models")
    assert code != 0
    assert "p$(touch EXECUTED)' contains $: on a cluster" in output
    assert "Traceback" not in output
    assert requested(simulated) == {}
    assert not list(folder.rglob("EXECUTED"))


def test_rules_that_use_a_gpu_request_it():
    text = "".join(p.read_text() for p in [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")])
    for stage, kind in STAGE_SETTINGS.items():
        rule = re.search(rf"(?s)rule {stage}:\n.*?shell:", text)
        train = kind.model_fields.get("train")
        uses = train is not None and "device" in train.annotation.model_fields
        assert uses == bool(rule and "gpu=gpus" in rule[0]), stage


def test_squeue_remembers_jobs_longer_than_the_longest_pause():
    profile = yaml.safe_load((PROFILE / "config.yaml").read_text())
    assert profile["slurm-status-command"] == "squeue"
    # The executor uses squeue if MinJobAge is at least three times these seconds, otherwise sacct.
    assert 3 * profile["slurm-init-seconds-before-status-checks"] >= LONGEST_PAUSE
