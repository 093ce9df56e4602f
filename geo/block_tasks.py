"""Run block tasks on Dask: on threads of this machine, or on a cluster.

A block task is pure. It gets the part of the work that belongs to one block, and yields pieces:
positions and values. Only the caller's function writes them into the result. Therefore, the result
does not depend on where and in which order the tasks run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from geo.cluster import Cluster

Block = TypeVar("Block")
Part = TypeVar("Part")
Shared = TypeVar("Shared")
Piece = TypeVar("Piece")

# Tasks given to a pool of threads for each of them: one runs, the next waits. Otherwise a thread
# that has finished a task waits until Dask's thread, which needs the interpreter's lock, gives it
# the next one: measured on 2 threads, 0.2 to 3 ms between tasks of 15 ms, instead of 0.1 ms.
TASKS_PER_THREAD = 2


def run_blocks(
    task: Callable[[Part, Shared], Iterable[Piece]],
    shared: Callable[[], AbstractContextManager[Shared]],
    blocks: Sequence[Block],
    part: Callable[[Block], Part],
    write: Callable[[Block, Piece], None],
    workers: int | Cluster,
    finished: Callable[[Block], None] = lambda _: None,
) -> None:
    """Run a task for every block, and write its pieces. After a failure no further task starts.

    Parameters
    ----------
    task
        Yields the pieces of a part. On a cluster, it runs in other processes: it is a function of a
        module, and `Part` and `Piece` can be pickled.
    shared
        Returns the context that tasks of one process share, such as open files. On threads, all
        tasks use the same one.
    blocks
        The blocks.
    part
        Returns what the task needs of a block. It is called when the task starts, so that the parts
        of all blocks need not fit into the memory.
    write
        Writes one piece of a block. On threads, pieces of several blocks are written at once.
    workers
        Number of threads of this machine, or a cluster.
    finished
        Called after the last piece of a block is written.
    """
    if not isinstance(workers, int):
        workers.run(task, shared, blocks, part, write, finished)
        return
    with shared() as context:
        failed = threading.Event()

        def run(block: Block) -> None:
            if failed.is_set():
                return
            try:
                for piece in task(part(block), context):
                    write(block, piece)
                finished(block)
            except BaseException:
                failed.set()
                raise

        n_threads = min(workers, len(blocks))
        if n_threads <= 1:
            # Dask would run them in this order, too, but its import takes longer than many a block.
            for block in blocks:
                run(block)
            return
        from dask.local import get_async
        from dask.task_spec import Task

        # Of tasks that do not depend on each other, Dask starts the last key first, as text. Blocks
        # are to be read in the order in which they are in the file.
        keys = [f"{len(blocks) - number:012}" for number in range(len(blocks))]
        graph = {key: Task(key, run, block) for key, block in zip(keys, blocks, strict=True)}
        # The pool ends before the context: after a failure, other tasks still use it for a moment.
        with ThreadPoolExecutor(n_threads) as pool:
            get_async(pool.submit, TASKS_PER_THREAD * n_threads, graph, keys)
