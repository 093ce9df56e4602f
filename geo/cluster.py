"""A Dask cluster that runs block tasks in other processes, on this machine or on others."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from geo.errors import InputError, UnavailableError

if TYPE_CHECKING:
    from distributed import KilledWorker

logger = logging.getLogger(__name__)

Block = TypeVar("Block")
Part = TypeVar("Part")
Shared = TypeVar("Shared")
Piece = TypeVar("Piece")

# Environment variable: the address of the scheduler, for the process that sends jobs.
SCHEDULER = "PARCELWISE_DASK_SCHEDULER"
# Tasks given to the cluster for each of its threads: one runs, the next waits. The results of all
# of them fit into the memory.
TASKS_PER_THREAD = 2

# Packages of the workers that must be the same, because the pixels depend on them or because Dask
# cannot exchange data otherwise.
SAME = ("python", "dask", "distributed", "numpy", "rasterio", "parcelwise")

# What to do if workers die.
MEMORY = (
    "Usually they need more memory: start them with more (dask worker --memory-limit), or with "
    "fewer threads (--nthreads), or set dask.scheduler to null to use this machine alone."
)


class Cluster:
    """A connection to a Dask cluster; `connected` makes one.

    Parameters
    ----------
    client
        The connected `distributed.Client`.
    address
        Address of the scheduler.
    """

    def __init__(self, client: Any, address: str) -> None:
        self.client, self.address = client, address

    @property
    def n_threads(self) -> int:
        """Number of threads of all workers, at least one: workers may still join."""
        return max(sum(map(int, self.client.nthreads().values())), 1)

    def run(
        self,
        task: Callable[[Part, Shared], Iterable[Piece]],
        shared: Callable[[], AbstractContextManager[Shared]],
        blocks: Sequence[Block],
        part: Callable[[Block], Part],
        write: Callable[[Block, Piece], None],
        finished: Callable[[Block], None],
    ) -> None:
        """Run a task for every block; see `run_blocks`. The caller's thread writes all pieces.

        Raises
        ------
        InputError
            If a task raises it.
        UnavailableError
            If the cluster is lost, or its workers die. The message names the part as text.
        """
        from distributed import KilledWorker, as_completed

        waiting = iter(blocks)
        running: dict[Any, Block] = {}

        def submit(n: int) -> list[Any]:
            new = {
                self.client.submit(_pieces, task, shared, part(block), pure=False): block
                for block in islice(waiting, n)
            }
            running.update(new)
            return list(new)

        with self.refusing_loss():
            try:
                new = submit(TASKS_PER_THREAD * self.n_threads)
                completed = as_completed(new, loop=self.client.loop)
                for future in completed:
                    try:
                        pieces = future.result()
                    except KilledWorker as error:
                        raise UnavailableError(
                            f"{died(error)} while they processed {part(running[future])}. {MEMORY}"
                        ) from None
                    for piece in pieces:
                        write(running[future], piece)
                    # The cluster keeps a result as long as a future of it exists.
                    finished(running.pop(future))
                    completed.update(submit(1))
            finally:
                self.client.cancel(list(running))

    @contextmanager
    def refusing_loss(self) -> Iterator[None]:
        """Turn errors of a cluster that is lost into one message."""
        from distributed import CancelledError
        from distributed.comm.core import CommClosedError

        try:
            yield
        except (CancelledError, CommClosedError, asyncio.CancelledError, TimeoutError) as error:
            raise UnavailableError(lost(self.address)) from error


def died(error: KilledWorker) -> str:
    """Return the beginning of the message about a task at which workers died again and again."""
    n_workers = error.allowed_failures + 1
    return f"{n_workers} Dask workers died, the last one at {error.last_worker.address},"


def lost(address: str) -> str:
    """Return the message about a scheduler that has gone away."""
    return (
        f"The Dask scheduler {address} cannot be reached any more. What is finished is kept: start "
        "the cluster again, and repeat the command."
    )


def _pieces(
    task: Callable[[Part, Shared], Iterable[Piece]],
    shared: Callable[[], AbstractContextManager[Shared]],
    part: Part,
) -> list[Piece]:
    """Run a task in a worker."""
    try:
        with shared() as context:
            return list(task(part, context))
    except InputError as error:
        # Without its cause, which is not always possible to pickle.
        raise type(error)(f"On the Dask worker {worker_name()}: {error}") from None


def worker_name() -> str:
    """Return address and host of the worker that runs this task."""
    import socket

    from distributed import get_worker

    return f"{get_worker().address} ({socket.gethostname()})"


@contextmanager
def connected(scheduler: str) -> Iterator[Cluster | None]:
    """Connect to the Dask cluster of a scheduler's address; yield None if it is "threads".

    Raises
    ------
    InputError
        As `connect`.
    """
    if scheduler == "threads":
        yield None
        return
    cluster = connect(scheduler)
    try:
        yield cluster
    finally:
        cluster.client.close()


def connect(address: str) -> Cluster:
    """Connect to the scheduler of a Dask cluster, and check the versions of its workers.

    Raises
    ------
    InputError
        If no scheduler answers within `distributed.comm.timeouts.connect` of Dask's configuration
        (30 s), or packages have other versions than here.
    """
    # Slow to import, and rarely needed.
    from distributed import Client

    # The loss of a connection is reported once, by us.
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if address.startswith("gateway://"):
        client = _gateway_client(address)
    else:
        _check_scheduler(address)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other versions: checked below
            client = Client(address, set_as_default=False)
    try:
        versions: Any = client.get_versions(packages=["rasterio", "parcelwise"])
        check_versions(versions, address)
    except BaseException:
        client.close()
        raise
    if not client.nthreads():
        logger.info("The Dask cluster %s has no workers yet: waiting for them", address)
    return Cluster(client, address)


def _check_scheduler(address: str) -> None:
    """Check that a scheduler answers at an address.

    A `Client` itself would wait for ever for a service that accepts connections and says nothing.
    """
    import dask
    from distributed import Security
    from distributed.comm.core import connect

    timeout = dask.utils.parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"))

    async def connect_once() -> None:
        connection = await connect(
            address, timeout=timeout, **Security().get_connection_args("client")
        )
        await connection.close()

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(connect_once(), timeout))
    except Exception as error:  # noqa: BLE001 (another service may answer anything)
        problem = str(error) or f"no answer in {timeout:g} s"
        raise InputError(
            f"dask.scheduler: no Dask scheduler answers at {address} ({problem}). Start one (dask "
            "scheduler), correct the address, or set it to null to use this machine alone."
        ) from None
    finally:
        loop.close()


def _gateway_client(address: str) -> Any:
    """Connect to a cluster of dask-gateway, which has the credentials."""
    try:
        from dask_gateway import Gateway
    except ModuleNotFoundError:
        raise InputError(
            f"dask.scheduler: {address} is a cluster of dask-gateway: pip install dask-gateway"
        ) from None
    return Gateway().connect(address.rpartition("/")[2]).get_client(set_as_default=False)


def check_versions(versions: dict[str, Any], address: str) -> None:
    """Refuse a cluster whose workers have other versions of packages than this process.

    Parameters
    ----------
    versions
        As `Client.get_versions` returns them.
    address
        Of the scheduler.

    Raises
    ------
    InputError
        If a version differs or a package is missing. Python may differ in its last number.
    """
    own = _versions(versions["client"])
    others = {f"worker {name}": _versions(worker) for name, worker in versions["workers"].items()}
    scheduler = _versions(versions["scheduler"])
    others[f"scheduler {address}"] = {n: scheduler[n] for n in ("python", "dask", "distributed")}
    different = [
        f"{where} has {name} {found or 'not installed'}, here it is {own[name]}"
        for where, packages in others.items()
        for name, found in packages.items()
        if found != own[name]
    ]
    if different:
        shown = "\n  ".join(different[:5] + ["..."] * (len(different) > 5))
        raise InputError(
            f"The Dask cluster has other versions than this process:\n  {shown}\nInstall the same "
            "environment on all its machines (requirements.txt or environment.yml, and Parcelwise)."
        )


def _versions(of: dict[str, Any]) -> dict[str, str | None]:
    """Return the versions of the packages that must be the same; Python's first two numbers."""
    packages = of["packages"]
    python = ".".join(str(packages["python"]).split(".")[:2])
    return {name: packages.get(name) for name in SAME} | {"python": python}
