"""Threads that take whole pieces of a computation.

Torch's own threads divide every operation among them and meet behind each. With operations as
short as those on a chunk of pixels, that is thousands of meetings a batch, and each can last a time
slice of the system where another process wants the core. A worker computes a piece from its first
operation to its last. Results do not depend on the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch

from models.fast_cpu.memory_allocator import keep_freed_memory

Result = TypeVar("Result")

# The pool of the thread at hand. Workers have none: what they call in parallel, they do themselves.
_pool: ContextVar[ThreadPoolExecutor | None] = ContextVar("_pool", default=None)


@contextmanager
def thread_pool(device: torch.device) -> Iterator[None]:
    """Make workers of torch's threads, as many as there are, for as long as the context lasts.

    Only for a CPU: a GPU is given its work by one thread.
    """
    if device.type != "cpu":
        yield
        return
    # Each chunk is as large as the one before: without this, its pages are zeroed anew every time.
    keep_freed_memory()
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(n_threads, "worker", _become_worker)
    token = _pool.set(pool)
    try:
        yield
    finally:
        _pool.reset(token)
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(n_threads)


def in_parallel(function: Callable[..., Result], *arguments: Iterable[object]) -> list[Result]:
    """Call a function, which must need no gradient, on every set of arguments; in their order.

    Outside of `thread_pool`, and in one of its threads, one after the other.
    """
    pool = _pool.get()
    call = map if pool is None else pool.map
    return list(call(function, *arguments))


def prefetched(items: Iterable[Result]) -> Iterator[Result]:
    """Make each item while the one before is used, in a thread of its own."""
    source = iter(items)
    end = object()
    with ThreadPoolExecutor(1, "prefetch", _become_worker) as thread:
        following = thread.submit(next, source, end)
        while (item := following.result()) is not end:
            following = thread.submit(next, source, end)
            yield item  # type: ignore[misc]


def _become_worker() -> None:
    # Both are settings of the thread that calls.
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
