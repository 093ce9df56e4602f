"""How much memory is left, and which trainings are refused because they need more."""

import logging
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.errors import InputError
from models.hyperparameters import Hyperparameters
from models.memory import MB, claim_linear_algebra, is_out_of_memory, room
from models.training import memory as training_memory_module
from models.training.memory import check_memory, training_memory

ROOT = Path(__file__).parents[2]

STATUS = "VmSize:\t 500000 kB\nVmData:\t 100000 kB\n"


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Return a file system as Linux shows it: 8 GB available, and no limits."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    own = tmp_path / "proc" / "self"
    own.mkdir(parents=True)
    (own / "status").write_text(STATUS)
    (own / "cgroup").write_text("3:memory:/x\n0::/job/step\n")
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 8000000 kB\n")
    return tmp_path


def limit_group(system, group, most, used, cached):
    folder = system / "sys" / "fs" / "cgroup" / group
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\n")


def test_without_limits_only_the_available_memory_is_known(system):
    limit_group(system, "job", "max", 1, 0)
    assert room(system) == {"available memory": 8_000_000 * 1024}


def test_the_smallest_limit_of_the_control_groups_counts_without_its_cache(system):
    limit_group(system, "job/step", 900 * MB, 300 * MB, 100 * MB)
    limit_group(system, "job", 800 * MB, 400 * MB, 250 * MB)
    limit_group(system, ".", "max", 5, 0)
    assert room(system)["memory of the control group (memory.max)"] == 650 * MB


def test_limits_of_the_shell_count_what_is_used_already(system, monkeypatch):
    limits = {resource.RLIMIT_AS: 600_000 * 1024, resource.RLIMIT_DATA: 50_000 * 1024}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limits[kind], limits[kind]))
    found = room(system)
    assert found["address space (ulimit -v)"] == 100_000 * 1024
    assert found["address space for data (ulimit -d)"] == 0


def test_nothing_is_known_where_the_system_does_not_say_it(tmp_path):
    assert room(tmp_path) == {}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 50 bytes"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("can't start new thread"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), True),
        (Exception("std::bad_alloc"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError(28, "No space left on device"), False),
        (ValueError("the column says: out of memory"), False),
    ],
)
def test_errors_that_mean_too_little_memory(error, expected):
    assert is_out_of_memory(error) is expected


# Peak of the resident memory beside libraries and data, measured on two threads of a CPU.
@pytest.mark.parametrize(
    ("batch", "measured_mb"),
    [
        *(((16, 8, 8), 108), ((128, 32, 24), 203), ((64, 32, 150), 346), ((128, 64, 48), 367)),
        ((256, 64, 48), 648),
    ],
)
def test_the_estimate_is_near_what_was_measured_and_not_above(batch, measured_mb):
    hyperparameters = Hyperparameters.for_data("pseltae", n_channels=10, n_classes=4, n_extra=0)
    estimate = training_memory(hyperparameters, *batch)
    assert 0.75 * measured_mb < estimate / MB <= measured_mb


@pytest.mark.parametrize(
    ("what", "left", "message"),
    [
        ("address space (ulimit -v)", 499, "needs about 500 MB .* has room for 499 MB"),
        ("memory of the control group (memory.max)", 299, "needs about 300 MB .* for 299 MB"),
    ],
)
def test_a_training_that_cannot_succeed_is_refused(monkeypatch, what, left, message):
    monkeypatch.setattr(training_memory_module, "room", lambda: {what: left * MB})
    with pytest.raises(InputError, match=f"{message}.*lower train.batch_size or train.pixels"):
        check_memory(300 * MB, "batches of 2")
    monkeypatch.setattr(training_memory_module, "room", lambda: {what: (left + 1) * MB})
    check_memory(300 * MB, "batches of 2")


def test_little_available_memory_is_a_warning(monkeypatch, caplog):
    monkeypatch.setattr(training_memory_module, "room", lambda: {"available memory": 299 * MB})
    with caplog.at_level(logging.WARNING):
        check_memory(300 * MB, "batches of 2")
    assert "available memory has room for 299 MB. It may be killed" in caplog.text


# Claims the memory of linear algebra while some is left, and uses it when nearly none is.
LINEAR_ALGEBRA = """
import resource
import numpy as np
import scipy.linalg
from models import memory

def leave(megabytes):
    used = memory._kilobytes(memory.Path("/proc/self/status"))["VmSize"]
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * memory.MB, resource.RLIM_INFINITY))

leave({at_first})
memory.claim_linear_algebra()
leave(8)
print(np.linalg.cholesky(np.eye(3)).sum(), scipy.linalg.cholesky(np.eye(3)).sum(), end="")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is one of Linux")
@pytest.mark.parametrize(
    ("at_first", "printed", "error"),
    [(200, "3.0 3.0", ""), (40, "", "linear algebra needs 34 MB"), (20, "", "needs 34 MB")],
)
def test_linear_algebra_has_its_memory_or_is_refused(at_first, printed, error):
    # Without the claim, OpenBLAS ends the process, or an earlier version of it hangs.
    done = subprocess.run(
        [sys.executable, "-c", LINEAR_ALGEBRA.format(at_first=at_first)],
        capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout == printed
    assert error in done.stderr


def test_without_a_limit_linear_algebra_is_not_called(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    monkeypatch.setattr(np.linalg, "cholesky", None)
    claim_linear_algebra()
