"""Threads that each compute a whole chunk, from its first operation to its last.

Torch's own threads divide every single operation among them and synchronise after it. The
operations on a chunk of pixels are so short that this means thousands of synchronisations per
batch. Each of them can take a time slice of the operating system if another process uses the core.
Results do not depend on the number of threads.
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

# The pool of the current thread. Threads of the pool have none: they make parallel calls in turn.
_pool: ContextVar[ThreadPoolExecutor | None] = ContextVar("_pool", default=None)


@contextmanager
def thread_pool(device: torch.device) -> Iterator[None]:
    """Use a pool instead of torch's own threads, with as many threads, within the context.

    Only on a CPU: one thread is enough to start the kernels of a GPU.
    """
    if device.type != "cpu":
        yield
        return
    # All chunks have the same size. Without this, the kernel would zero new pages for each one.
    keep_freed_memory()
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(n_threads, "worker", _set_up_thread)
    token = _pool.set(pool)
    try:
        yield
    finally:
        _pool.reset(token)
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(n_threads)


def in_parallel(function: Callable[..., Result], *arguments: Iterable[object]) -> list[Result]:
    """Call a function, which must not need gradients, on all arguments; return results in order.

    Outside of `thread_pool`, and within one of its threads, the calls are made one after the other.
    """
    pool = _pool.get()
    call = map if pool is None else pool.map
    return list(call(function, *arguments))


def prefetched(items: Iterable[Result]) -> Iterator[Result]:
    """Yield items, each produced in a separate thread while the previous one is used."""
    source = iter(items)
    end = object()
    with ThreadPoolExecutor(1, "prefetch", _set_up_thread) as thread:
        following = thread.submit(next, source, end)
        while (item := following.result()) is not end:
            following = thread.submit(next, source, end)
            yield item  # type: ignore[misc]


def _set_up_thread() -> None:
    # Both settings apply to the calling thread only.
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
