"""Requests of jobs, groups of extractions, and jobs that a killed run left on a cluster."""

import os
import re
from types import SimpleNamespace

import pytest

from geo.errors import InputError
from pipeline.command_line import STAGES
from pipeline.workflow.cluster import settle_results, wait_for_jobs
from pipeline.workflow.config import load
from pipeline.workflow.memory import MB, NEEDS, memory
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.snakefile import batch_of
from tests.builders.paths import ROOT


def test_memory_grows_with_files_folders_and_attempts(tmp_path):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "inner" / "tile").write_bytes(bytes(2 * MB))
    (tmp_path / "31TFM").write_bytes(bytes(3 * MB))
    fixed, growth = NEEDS["extract"]
    assert memory("extract")(None, 1) == fixed
    assert memory("extract", tmp_path / "none")(None, 2) == 2 * fixed
    of_wildcards = memory("extract", tmp_path / "folder", lambda w: tmp_path / w.tile, more_mb=7)
    wildcards = SimpleNamespace(tile="31TFM")
    assert of_wildcards(wildcards, 3) == 3 * (fixed + 7 + 5 * growth)


def test_every_rule_that_runs_a_stage_requests_its_memory():
    text = "".join(p.read_text() for p in [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")])
    rules = re.findall(r"(?s)(?:rule|checkpoint) (\w+):\n(?:(?!\n *rule ).)*?shell:", text)
    requests = re.findall(r'mem_mb=memory\(\s*"(\w+)"', text)
    assert sorted(requests) == sorted(rules) == sorted(NEEDS)
    assert set(STAGES) - set(NEEDS) == set()


def test_extractions_are_grouped_by_position():
    parents = {}
    sizes = {"extractions": 3}
    groups = [batch_of(lambda k=k: k, sizes, parents) for k in range(7)]
    assert groups == ["extractions_0"] * 3 + ["extractions_1"] * 3 + ["extractions_2"]
    # Snakemake looks up the size by the parent.
    assert parents == dict.fromkeys(groups, "extractions")
    assert batch_of(lambda: 5, {}, parents) is None


@pytest.fixture
def killed(tmp_path):
    """Return the paths and settings of a run that was killed on a cluster."""
    paths, settings = RunPaths(tmp_path / "small"), load({"run": "small"})
    paths.root.mkdir()
    paths.cluster_run.write_text("uuid")
    paths.started.write_text(settings.model_dump_json())
    return paths, settings


def squeue(folder, monkeypatch, script):
    """Put a command squeue first in PATH; an empty script: there is none."""
    monkeypatch.setenv("PATH", str(folder))
    if script:
        (folder / "squeue").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "squeue").chmod(0o755)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("", "cannot be found out: the command squeue is not here"),
        ("echo no controller >&2; exit 1", "squeue fails: no controller. Continue the run on the"),
    ],
)
def test_a_killed_run_is_refused_where_its_jobs_are_unknown(
    killed, tmp_path, monkeypatch, script, message
):
    squeue(tmp_path, monkeypatch, script)
    with pytest.raises(InputError, match=message):
        wait_for_jobs(*killed)
    # Doing what the message says works.
    killed[0].cluster_run.unlink()
    wait_for_jobs(*killed)


def test_jobs_are_waited_for_until_none_is_left(killed, tmp_path, monkeypatch, capsys):
    looks = tmp_path / "looks"
    # The first two looks find a job, the third none.
    found = f"echo 17; [ -e {looks}.1 ] && :> {looks}.2"
    script = f"if [ ! -e {looks}.2 ]; then {found}; fi; :> {looks}.1"
    squeue(tmp_path, monkeypatch, script)
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)
    wait_for_jobs(*killed)
    assert len(pauses) == 1
    assert "are still on the cluster (17)" in capsys.readouterr().err


class Recorder:
    """The parts of Snakemake's workflow, DAG and persistence that are used."""

    def __init__(self, jobs):
        self.jobs, self.recorded = jobs, []
        self.dag = self.persistence = self

    def needrun(self, job):
        return job.runs

    def has_metadata(self, job):
        return job.is_known

    def finished(self, job):
        return job

    def async_run(self, job):
        self.recorded.append(job)


def job(rule, file, runs=False, is_known=False):
    return SimpleNamespace(
        rule=SimpleNamespace(name=rule), output=[str(file)], runs=runs, is_known=is_known
    )


def test_results_of_a_killed_run_are_recorded_or_refused(killed, tmp_path):
    paths, settings = killed
    other = load({"run": "small", "train": {"epochs": 3}})
    old, new = tmp_path / "old", tmp_path / "new"
    for seconds, file in ((900, old), (1000, paths.cluster_run), (1100, new)):
        file.touch()
        os.utime(file, (seconds, seconds))
    trained, again = job("train", new), job("train", new)
    others = [job("split", old), job("index", new, runs=True), job("clean", new, is_known=True)]
    snakemake = Recorder([trained, job("extract", new), *others, again])
    with pytest.raises(InputError, match=r"since \(extract, train\).*--forcerun extract train$"):
        settle_results(paths, other, snakemake)
    assert snakemake.recorded == []
    settle_results(paths, settings, snakemake)
    assert [one.rule.name for one in snakemake.recorded] == ["train", "extract", "train"]
    settle_results(paths, other, Recorder(others))
    paths.cluster_run.unlink()
    settle_results(paths, other, snakemake)
