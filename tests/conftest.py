"""Options of pytest that show whether a test passes by luck; tests do not wait for the disk."""

import os
import sys
from functools import wraps
from pathlib import Path

import numpy as np

from models import whole_files

TESTS = Path(__file__).parent


def pytest_addoption(parser):
    parser.addoption(
        "--seed-offset", type=int, default=0,
        help="add this to the seeds of the tests' random data (default: 0)",
    )  # fmt: skip
    parser.addoption("--torch-threads", type=int, help="threads of torch (default: an equal share)")


def pytest_configure(config):
    share_cores()
    leave_unflushed("flush")
    leave_unflushed("flush_folder")
    if offset := config.getoption("seed_offset"):
        shift_seeds(offset)
    if threads := config.getoption("torch_threads"):
        import torch

        torch.set_num_threads(threads)


def share_cores():
    """Divide the cores among the processes of pytest, before torch and others are imported.

    Otherwise each of them starts a thread for every core, and the threads wait for each other.
    """
    n_processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n_processes)))


def leave_unflushed(name):
    """Let a function that waits for the disk return at once: no power cut is tested."""

    @wraps(getattr(whole_files, name))
    def unflushed(path):
        pass

    setattr(whole_files, name, unflushed)


def shift_seeds(offset):
    """Add an offset to all seeds that tests and builders pass to numpy and torch.

    Seeds within the code under test stay: they are part of what it computes.
    """
    import torch

    default_rng, manual_seed = np.random.default_rng, torch.manual_seed

    class Generator(torch.Generator):
        def manual_seed(self, seed):
            return super().manual_seed(seed + offset if called_by_a_test() else seed)

    def called_by_a_test():
        return Path(sys._getframe(2).f_code.co_filename).is_relative_to(TESTS)

    def shifted_default_rng(seed=None):
        shift = offset if called_by_a_test() and isinstance(seed, int) else 0
        return default_rng(seed + shift if shift else seed)

    def shifted_manual_seed(seed):
        return manual_seed(seed + offset if called_by_a_test() else seed)

    np.random.default_rng = shifted_default_rng
    torch.manual_seed, torch.Generator = shifted_manual_seed, Generator
