"""Run block tasks on Dask: on threads of this machine, or on a cluster.

A block task is pure. It gets the part of the work that belongs to one block, and yields pieces:
positions and values. Only the caller's function writes them into the result. Therefore, the result
does not depend on where and in which order the tasks run.
"""

from __future__ import annotations

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


def run_blocks(
    task: Callable[[Part, Shared], Iterable[Piece]],
    shared: Callable[[], AbstractContextManager[Shared]],
    blocks: Sequence[Block],
    part: Callable[[Block], Part],
    write: Callable[[Block, Piece], None],
    workers: int | Cluster,
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
    """
    if not isinstance(workers, int):
        workers.run(task, shared, blocks, part, write)
        return
    with shared() as context:

        def run(block: Block) -> None:
            for piece in task(part(block), context):
                write(block, piece)

        n_threads = min(workers, len(blocks))
        if n_threads <= 1:
            # Dask would run them in this order, too, but its import takes longer than many a block.
            for block in blocks:
                run(block)
            return
        from dask.task_spec import Task
        from dask.threaded import get

        graph = {number: Task(number, run, block) for number, block in enumerate(blocks)}
        # The pool ends before the context: after a failure, other tasks still use it for a moment.
        with ThreadPoolExecutor(n_threads) as pool:
            get(graph, list(graph), pool=pool)
