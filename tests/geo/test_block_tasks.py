"""Tasks of blocks run once each, on any number of threads, and end together after a failure."""

import threading
from contextlib import contextmanager

import pytest

from geo.block_tasks import run_blocks

THREADS = (1, 2, 5)


@contextmanager
def shared():
    """Yield what the tasks share: a list that contains whether it is still open."""
    context = [True]
    try:
        yield context
    finally:
        context[0] = False


def run(task, n_blocks, threads):
    """Run a task for numbered blocks, and return the pieces written for each, and who finished."""
    written, finished = {n: [] for n in range(n_blocks)}, []
    run_blocks(
        task, shared, range(n_blocks), lambda block: 10 * block,
        lambda block, piece: written[block].append(piece), threads, finished.append,
    )  # fmt: skip
    return written, finished


@pytest.mark.parametrize("threads", THREADS)
def test_every_piece_of_every_block_is_written_once(threads):
    def task(part, context):
        yield part, context[0]
        yield part + 1, context[0]

    written, finished = run(task, 37, threads)
    assert written == {n: [(10 * n, True), (10 * n + 1, True)] for n in range(37)}
    assert sorted(finished) == list(range(37))


def test_blocks_start_in_their_order():
    started, released, first = [], threading.Event(), threading.Lock()

    # One of the two threads waits to the end, so that the order of the other one is exact.
    def task(part, _):
        if first.acquire(blocking=False):
            assert released.wait(60)
        else:
            started.append(part)
            if len(started) == 24:
                released.set()
        yield part

    run(task, 25, 2)
    assert started == sorted(started)


@pytest.mark.parametrize("threads", THREADS)
def test_after_a_failure_no_task_starts_and_none_runs_on(threads):
    started, contexts = [], []
    failed, before = threading.Event(), {*threading.enumerate()}

    def task(part, context):
        started.append(part)
        contexts.append(context)
        if part == 0:
            failed.set()
            raise OSError("block 0 is unreadable")
        # Other tasks use what they share until they end.
        assert failed.wait(60)
        assert context[0]
        yield part

    with pytest.raises(OSError, match="block 0 is unreadable"):
        run(task, 1000, threads)
    assert len(started) <= threads
    assert not contexts[0][0]
    new = {*threading.enumerate()} - before
    assert not [thread for thread in new if "ThreadPool" in thread.name]
