"""What a user reads: lists are short, Ctrl-C and folders that cannot be written end in one line."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import psutil
import pytest
import yaml
from snakemake_interface_logger_plugins.common import LogEvent

from geo.errors import InputError
from models.fast_cpu import memory_allocator
from pipeline import command_line
from pipeline.command import command
from pipeline.workflow import snakefile
from pipeline.workflow.launch import _folder_of
from pipeline.workflow.messages import LOGGER, Shortener, end_on_sigterm
from pipeline.workflow.paths import RunPaths
from pipeline.workflow.settings import Settings
from pipeline.workflow.snakefile import check_folder, freeze, summary
from tests.builders.paths import ROOT
from tests.builders.runs import snakemake

SNAKEFILE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pipeline.workflow.messages import keep_messages_short
keep_messages_short()
rule all:
    input: expand("{{how}}.out", how=["a", "b"])
rule pack:
    input: expand("in/{{n}}", n=range(700))
    output: "{{how}}.out"
    log: "logs/pack/{{how}}.log"
    shell:
        "echo 'pipeline.pack: There is no folder. Make it.' > {{log}};"
        " [ {{wildcards.how}} = b ] && kill -9 $$; exit 1 # {{input}}"
"""


@pytest.mark.slow
def test_failed_jobs_say_why_in_one_line_each(tmp_path):
    (tmp_path / "in").mkdir()
    for n in range(700):
        (tmp_path / "in" / str(n)).touch()
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump({}))
    result = snakemake(tmp_path, "--cores", "2", "-k", check=False, source=tmp_path)
    output = result.stdout + result.stderr
    assert result.returncode == 1
    failures = [line for line in output.splitlines() if line.startswith("Failed")]
    assert sorted(failures) == [
        "Failed: pack a: There is no folder. Make it. Log: logs/pack/a.log",
        "Failed: pack b: ended by SIGKILL, as the system does if memory runs out. Log: "
        "logs/pack/b.log",
    ]
    assert "Error in rule" not in output
    assert "input: in/0, in/1, in/2, in/3, in/4, ... (700 in total)" in output
    assert output.count("in/5") == 0


def test_lists_of_a_record_are_shortened():
    record = logging.makeLogRecord(
        {"input": [f"i{n}" for n in range(7000)], "output": list("abcde"), "log": list("abcdefg")}
    )
    assert Shortener().filter(record)
    assert record.input == ["i0", "i1", "i2", "i3", "i4", "... (7000 in total)"]
    assert record.output == list("abcde")
    # Snakemake reads these files.
    assert record.log == list("abcdefg")


COMMAND_FAILED = "RuleException:\nCalledProcessError in file x, line 1:\nCommand 'parcelwise x' {}"


@pytest.mark.parametrize(
    ("end", "log", "words"),
    [
        (
            "returned non-zero exit status 1.",
            "pipeline.index: 3 found.\npipeline.index: None of the 3 is left:\n  a\n  b\n",
            "None of the 3 is left. Log",
        ),
        (
            "returned non-zero exit status 1.",
            "pipeline.index: This is a bug\nTraceback (most recent call last):\n  x\nKeyError: 3\n",
            "a bug, KeyError: 3.",
        ),
        ("died with <Signals.SIGTERM: 15>.", "pipeline.index: 3 found.\n", "ended by SIGTERM."),
        ("returned non-zero exit status 137.", "", "ended by SIGKILL, as the system does"),
        ("returned non-zero exit status 1.", None, "without a message."),
    ],
)
def test_a_failed_job_says_why_in_one_line(tmp_path, end, log, words):
    path = tmp_path / "logs" / "index" / "31TFM.log"
    path.parent.mkdir(parents=True)
    if log is not None:
        path.write_text(log)
    shortener = Shortener()
    command = logging.makeLogRecord({"msg": COMMAND_FAILED.format(end)})
    assert not shortener.filter(command)
    values = {"input": ["a"] * 7000, "log": [str(path)], "shellcmd": "x", "rule_name": "index"}
    record = logging.makeLogRecord({**values, "event": LogEvent.JOB_ERROR})
    assert shortener.filter(record)
    assert record.event is None
    assert record.getMessage().startswith(f"Failed: index 31TFM: {words}")
    assert record.getMessage().endswith(f" Log: {path}")
    assert "\n" not in record.getMessage()


@pytest.mark.parametrize(
    ("message", "is_mistake"),
    [
        ("pipeline.extract: B02.jp2 is damaged.\nReplace it.", True),
        ("pipeline.extract: There is not enough memory: nothing is left.", False),
        ("pipeline.stages.extract: 20210303T104031_31TFM_N0301: 3 pixels", False),
    ],
)
def test_only_a_mistake_calls_the_function_for_mistakes(tmp_path, message, is_mistake):
    log = tmp_path / "extract.log"
    log.write_text(f"pipeline.stages.extract: reading\n{message}\n")
    calls = []
    values = {"log": [str(log), "slurm/17.log"], "event": LogEvent.JOB_ERROR, "indent": False}
    record = logging.makeLogRecord({**values, "rule_name": "extract"})
    assert Shortener(lambda: calls.append(1)).filter(record)
    assert len(calls) == is_mistake
    if is_mistake:
        assert record.getMessage() == f"Failed: extract: B02.jp2 is damaged. Log: {log}"


@pytest.mark.parametrize(
    ("free", "is_allowed", "words"),
    [(4096, True, "the disk is full"), (10**9, False, "/"), (10**9, True, "without a message")],
)
def test_a_log_that_says_nothing_is_explained(tmp_path, monkeypatch, free, is_allowed, words):
    monkeypatch.setattr(os, "access", lambda *_: is_allowed)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    log = tmp_path / "predict.log"
    log.touch()
    values = {"log": [str(log)], "event": LogEvent.JOB_ERROR, "rule_name": "predict"}
    record = logging.makeLogRecord(values)
    assert Shortener().filter(record)
    assert record.getMessage().startswith(f"Failed: predict: {words}")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("RuntimeError in file x, line 28:\ncan't start new thread\n  File y", "not enough memory"),
        ("MemoryError in file x, line 28:\n\n  File y", "MemoryError. There is not enough memory"),
        ("OSError in file x, line 28:\n[Errno 7] Argument list too long\n", "list too long. Log"),
    ],
)
def test_a_job_that_the_workflow_could_not_run_says_why(tmp_path, error, words):
    (log := tmp_path / "normalise.log").write_text("pipeline.stages.normalise: 3 pixels\n")
    shortener = Shortener()
    assert not shortener.filter(logging.makeLogRecord({"msg": f"RuleException:\n{error}"}))
    values = {"log": [str(log)], "event": LogEvent.JOB_ERROR, "rule_name": "normalise"}
    first, second = logging.makeLogRecord(values), logging.makeLogRecord(values)
    assert shortener.filter(first)
    assert first.getMessage().startswith("Failed: normalise: the workflow could not run it: ")
    assert words in first.getMessage()
    # The next failure of the same thread is another one.
    assert shortener.filter(second)
    assert "3 pixels" in second.getMessage()


def test_the_command_of_a_job_that_the_workflow_could_not_watch_ends(tmp_path):
    command = [sys.executable, "-c", "import time; time.sleep(60)", "--log"]
    log, other = str(tmp_path / "features.log"), str(tmp_path / "label.log")
    with subprocess.Popen([*command, log]) as its, subprocess.Popen([*command, other]) as another:
        try:
            shortener = Shortener()
            error = "RuleException:\nRuntimeError in file x, line 1:\ncan't start new thread\n"
            shortener.filter(logging.makeLogRecord({"msg": error}))
            values = {"log": [log], "event": LogEvent.JOB_ERROR, "rule_name": "features"}
            shortener.filter(logging.makeLogRecord(values))
            assert not psutil.pid_exists(its.pid)
            assert another.poll() is None
        finally:
            its.kill()
            another.kill()


@pytest.mark.parametrize(
    ("last", "words"),
    [
        ("RuntimeError: can't start new thread", "There is not enough memory for Snakemake itself"),
        ("PermissionError: [Errno 13] Permission denied: 'x.log'", "Snakemake itself cannot go on"),
    ],
)
def test_snakemake_that_cannot_go_on_says_so_in_one_line(last, words):
    text = f"Traceback (most recent call last):\n  File x\n{last}\n"
    record = logging.makeLogRecord({"msg": text, "event": LogEvent.ERROR})
    assert Shortener().filter(record)
    assert record.getMessage().strip().startswith(f"{words}: {last}. ")
    assert "\n" not in record.getMessage().strip()


def test_a_bug_of_snakemake_keeps_its_traceback():
    text = "Traceback (most recent call last):\n  File x\nKeyError: 3\n"
    record = logging.makeLogRecord({"msg": text, "event": LogEvent.ERROR})
    assert Shortener().filter(record)
    assert record.getMessage() == text


def test_a_thread_without_memory_says_so_in_one_line():
    # In a process of its own: pytest has a hook of its own.
    code = (
        "import threading\nfrom pipeline.workflow.messages import keep_messages_short\n"
        "keep_messages_short()\n"
        "def fail(text): raise RuntimeError(text)\n"
        "for text in ({!r}, 'a bug'):\n"
        "    thread = threading.Thread(target=fail, args=[text]); thread.start(); thread.join()\n"
    ).format("can't start new thread")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = done.stderr.split("\n", maxsplit=1)
    assert first == "A thread of Snakemake ends for lack of memory: can't start new thread."
    assert second.count("Traceback") == 1
    assert second.endswith("RuntimeError: a bug\n")


def test_the_cluster_says_why_it_did_not_start_a_job(tmp_path):
    values = {"log": [str(tmp_path / "train.log")], "event": LogEvent.JOB_ERROR, "indent": False}
    said = "SLURM sbatch failed. The error message was 'no such partition'.\n    sbatch call: ..."
    record = logging.makeLogRecord({**values, "rule_name": "train", "rule_msg": said})
    assert Shortener().filter(record)
    first = said.partition("\n")[0]
    assert record.getMessage() == f"Failed: train: {first} Log: {tmp_path / 'train.log'}"


def test_of_a_failed_group_only_the_jobs_with_a_mistake_are_named(tmp_path):
    infos = []
    for name, text in {"a": "stages.extract: 3 pixels", "b": "extract: b is damaged"}.items():
        log = tmp_path / f"{name}.log"
        log.write_text(f"pipeline.{text}\n")
        infos.append({"rule_name": "extract", "log": [str(log)], "output": [f"{name}.npy"]})
    values = {
        "event": LogEvent.GROUP_ERROR,
        "aux_logs": ["slurm/17.log"],
        "msg": "the node went away",
    }
    record = logging.makeLogRecord({**values, "job_error_info": infos})
    shortener = Shortener()
    assert shortener.filter(record)
    assert record.getMessage() == f"Failed: extract b: b is damaged. Log: {tmp_path / 'b.log'}"
    # The log of a job that did not begin is that of an earlier run.
    os.utime(tmp_path / "b.log", (1, 1))
    # Without a mistake: the log of the group tells more.
    record = logging.makeLogRecord({**values, "job_error_info": infos})
    assert shortener.filter(record)
    expected = "Failed: a group of 2 jobs: the node went away. Log: slurm/17.log"
    assert record.getMessage() == expected
    member = logging.makeLogRecord({"event": LogEvent.JOB_ERROR, "indent": True})
    assert not shortener.filter(member)


def test_an_error_of_the_snakefile_is_its_message():
    text = "InputFunctionException in rule models:\nError:\n  InputError: Nothing is trained.\n"
    record = logging.makeLogRecord({"msg": f"{text}Wildcards:\n\nTraceback:\n  File x"})
    assert Shortener().filter(record)
    assert record.getMessage() == "\nNothing is trained."


def test_a_lock_of_snakemake_is_one_line():
    from snakemake.exceptions import LockException

    record = logging.makeLogRecord({"msg": f"LockException:\n{LockException()}"})
    assert Shortener().filter(record)
    text = record.getMessage()
    assert text.startswith("\nAnother run is at work on the same files.")
    assert text.endswith("remove it by `parcelwise run FILE -- --unlock`, and repeat the command.")


def test_files_that_cannot_be_written_are_one_line():
    text = (
        "ProtectedOutputException in rule label in file x.smk, line 2:\nWrite-protected output "
        "files for rule label:\n    output: results/a.json\n    affected files:\n"
        "        results/a.json"
    )
    record = logging.makeLogRecord({"msg": text})
    assert Shortener().filter(record)
    assert record.getMessage().startswith(
        "\nresults/a.json cannot be written: the disk is read-only"
    )


def test_after_ctrl_c_nothing_more_is_logged(capsys):
    shortener = Shortener()
    for _ in range(2):
        with pytest.raises(SystemExit) as end:
            shortener.interrupt(signal.SIGINT, None)
        assert end.value.code == 130
    assert capsys.readouterr().err.count("\n") == 2
    assert not shortener.filter(logging.makeLogRecord({"msg": "Error in rule train"}))


def test_snakemake_still_logs_through_this_logger():
    from snakemake.logging import logger

    assert logger.name == LOGGER


@pytest.mark.parametrize("job", [False, True])
def test_ctrl_c_ends_a_command_in_at_most_one_line(monkeypatch, capsys, job):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(memory_allocator, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(command_line, "main", interrupted)
    monkeypatch.setattr(sys, "argv", ["parcelwise", *(["--log", "x.log"] if job else [])])
    with pytest.raises(SystemExit) as end:
        command()
    assert end.value.code == 130
    assert capsys.readouterr().err == ("" if job else "parcelwise: interrupted\n")


@pytest.mark.parametrize("name", ["results/default", "results/default/parcels", "a/b"])
def test_a_folder_that_cannot_be_written_ends_in_one_line(tmp_path, monkeypatch, name):
    """Root can write everywhere, so that permissions are simulated."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results/default/parcels/tiles").mkdir(parents=True)
    access, mkdir = os.access, snakefile.Path.mkdir
    bad = tmp_path / name

    def denied(path, *arguments, **options):
        if bad in (tmp_path / path).parents:
            raise PermissionError(13, "Permission denied", str(path))
        return mkdir(path, *arguments, **options)

    monkeypatch.setattr(
        snakefile.os,
        "access",
        lambda path, mode: tmp_path / path != bad and access(path, mode),
    )
    words = f"{bad} cannot be written: Permission denied. Write results elsewhere"
    if name == "a/b":
        monkeypatch.setattr(snakefile.Path, "mkdir", denied)
        with pytest.raises(InputError, match=words):
            check_folder(bad)
        return
    if name == "results/default":

        def write(path, _):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(snakefile, "write_text", write)
    with pytest.raises(SystemExit) as end:
        freeze(Settings(), [])
    assert str(end.value.code).startswith(f"\n{words}")


def test_a_folder_that_can_be_written_is_accepted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_folder(tmp_path / "new")
    assert not list((tmp_path / "new" / ".snakemake").iterdir())
    freeze(Settings(), [])
    freeze(Settings(), [])


@pytest.mark.parametrize(
    ("words", "folder"),
    [([], "."), (["--directory", "a"], "a"), (["--directory", "a", "-n", "-d", "b"], "b")],
)
def test_the_folder_of_the_results_is_that_of_snakemake(words, folder):
    assert str(_folder_of(["snakemake", *words])) == folder


NOISY = """
import logging, warnings
from pipeline.logs import start_logging
from pathlib import Path
import sys
start_logging(Path(sys.argv[1]) if sys.argv[1:] else None)
for _ in range(3):
    logging.getLogger("rasterio._env").warning("tag 42113 of %s is unknown", "a/b1.tif")
    warnings.warn("an overflow", stacklevel=2)
    logging.getLogger("pipeline.extract").info("12 percent")
"""


def test_a_warning_of_a_library_is_written_once_and_only_to_the_log_of_a_job(tmp_path):
    run = RunPaths(tmp_path)
    for number, job in enumerate(("extract/a", "extract/b", "assemble/t")):
        code = NOISY.replace("b1", f"b{number}")
        words = [sys.executable, "-c", code, str(run.log(job))]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stderr == 3 * "pipeline.extract: 12 percent\n"
    text = run.log("extract/a").read_text()
    assert text.count("library rasterio._env: tag 42113 of a/b0.tif is unknown\n") == 1
    assert text.count("UserWarning: an overflow") == 1
    assert text.count("pipeline.extract: 12 percent\n") == 3
    lines = summary(run).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("3 warnings of a library, such as: rasterio._env: tag 42113 of a/b")
    assert lines[0].endswith(f"({run.log('assemble/t')})")
    # Without a log, the terminal is the only place.
    words = [sys.executable, "-c", NOISY]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.count("tag 42113") == 1


def test_sigterm_does_not_wait_for_a_lock_of_the_thread_that_it_interrupts(monkeypatch):
    handlers = {}
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    lock, ended = threading.Lock(), threading.Event()

    class Scheduler:
        def exit_gracefully(self):
            if lock.acquire(timeout=60):
                ended.set()

    end_on_sigterm(Scheduler())
    with lock:
        handlers[signal.SIGTERM](signal.SIGTERM, None)
        assert not ended.is_set()
    assert ended.wait(60)
