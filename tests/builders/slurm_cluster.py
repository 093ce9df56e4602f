"""A small Slurm cluster of this machine's own: munged, slurmctld, and nodes that share its cores.

Its daemons are those of the distribution (Debian: slurmctld, slurmd, munge). All their files are in
one folder, and nothing else on the machine is touched. Each node says that it has two cores. There
is no accounting database, and there are no cgroups: Slurm looks at the memory of the jobs every
second, and ends a job that has more than it requested.
"""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
COMMANDS = ("sbatch", "srun", "squeue", "sacct", "sacctmgr", "scancel", "scontrol", "sinfo")

_CONF = """\
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={munge}
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
MinJobAge={min_job_age}
SlurmdTimeout={slurmd_timeout}
KillWait=3
ReturnToService=2
SchedulerParameters=batch_sched_delay=1,sched_interval=2
SlurmdParameters=config_overrides
"""


def _sbin(name: str) -> str | None:
    """Return the path of a daemon, which may be where only root looks for commands."""
    return shutil.which(name, path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin")


def is_installed() -> bool:
    """Return whether the daemons of Slurm are on this machine."""
    return all(map(_sbin, (*DAEMONS, *COMMANDS)))


def _free_ports(n: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]


class Cluster:
    """A running cluster.

    Parameters
    ----------
    folder
        For all files of its daemons.
    nodes
        Names of the nodes.
    memory_mb
        Memory of a node.
    min_job_age, slurmd_timeout
        As in slurm.conf, in seconds.
    """

    def __init__(
        self,
        folder: Path,
        nodes: Sequence[str] = ("n1", "n2"),
        *,
        memory_mb: int = 8000,
        min_job_age: int = 300,
        slurmd_timeout: int = 20,
    ) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        folder.mkdir(parents=True)
        # munged refuses folders that others may write.
        folder.chmod(0o755)
        (folder / "state").mkdir()
        (folder / "spool").mkdir()
        host = socket.gethostname().partition(".")[0]
        controller, *ports = _free_ports(1 + len(nodes))
        conf = _CONF.format(
            host=f"{host}(127.0.0.1)", controller=controller, user=getpass.getuser(),
            folder=folder, munge=folder / "munge.socket", min_job_age=min_job_age,
            slurmd_timeout=slurmd_timeout,
        )  # fmt: skip
        for name, port in zip(nodes, ports, strict=True):
            conf += (
                f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 "
                f"RealMemory={memory_mb}\n"
            )
        conf += "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"
        self.conf = folder / "slurm.conf"
        self.conf.write_text(conf)
        self._write_commands()
        self._start_munge()
        self.start("slurmctld", "slurmctld", "-D")
        for name in nodes:
            self.start(name, "slurmd", "-D", "-N", name)
        self.wait_for(lambda: self.states() == dict.fromkeys(nodes, "idle"), 30)

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        paths = {name: self.folder / f"munge.{name}" for name in ("log", "pid", "seed")}
        self.start(
            "munged", "munged", "--foreground", "--force", "--socket", self.folder / "munge.socket",
            "--key-file", key, *(f"--{name}-file={path}" for name, path in paths.items()),
        )  # fmt: skip
        self.wait_for((self.folder / "munge.socket").exists, 10)

    def _write_commands(self) -> None:
        """Write the commands of Slurm that find this cluster, in the folder bin.

        The environment variable SLURM_CONF alone is not enough: the executor's jobs remove it.
        """
        (self.folder / "bin").mkdir()
        for name in COMMANDS:
            command = self.folder / "bin" / name
            path = shutil.which(name)
            command.write_text(f'#!/bin/sh\nSLURM_CONF="{self.conf}" exec {path} "$@"\n')
            command.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which programs find the cluster."""
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return {"SLURM_CONF": str(self.conf), "PATH": path}

    def start(self, name: str, daemon: str, *arguments: object) -> None:
        """Start a daemon under a name."""
        command = [str(_sbin(daemon)), *map(str, arguments)]
        with (self.folder / f"{name}.out").open("wb") as output:
            self.daemons[name] = subprocess.Popen(
                command, stdout=output, stderr=output, stdin=subprocess.DEVNULL,
                env={**os.environ, **self.environment}, start_new_session=True,
            )  # fmt: skip

    def kill(self, name: str) -> None:
        """Kill a daemon, as a node that loses its power does."""
        self.daemons[name].kill()
        self.daemons[name].wait()

    def run(self, *command: object) -> str:
        """Return what a command of Slurm writes."""
        return subprocess.run(
            [*map(str, command)], capture_output=True, text=True, check=True,
            env={**os.environ, **self.environment},
        ).stdout  # fmt: skip

    def states(self) -> dict[str, str]:
        """Return {node: state}."""
        try:
            lines = self.run("sinfo", "--noheader", "--Node", "--format=%N %T").splitlines()
        except subprocess.CalledProcessError:
            return {}
        return dict(line.split() for line in lines)

    def jobs(self) -> list[dict[str, str]]:
        """Return all jobs that the controller remembers, in the order in which they were queued."""
        lines = self.run("scontrol", "--oneliner", "show", "jobs").splitlines()
        rows = [
            dict(word.split("=", 1) for word in line.split() if "=" in word)
            for line in lines
            if line.startswith("JobId=")
        ]
        return sorted(rows, key=lambda row: int(row["JobId"]))

    @staticmethod
    def wait_for(condition, seconds: float) -> None:
        """Wait until a condition is true.

        Raises
        ------
        TimeoutError
            If it is not within these seconds.
        """
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"not within {seconds} s: {condition}")
            time.sleep(0.2)

    def stop(self) -> None:
        """End all jobs and daemons."""
        for job in self.jobs():
            subprocess.run(
                ["scancel", "--signal=KILL", "--full", job["JobId"]], capture_output=True,
                check=False, env={**os.environ, **self.environment},
            )  # fmt: skip
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


@contextmanager
def running(folder: Path, *nodes: str, **options: int) -> Iterator[Cluster]:
    """Run a cluster for the time of a block."""
    cluster = Cluster(folder, nodes or ("n1", "n2"), **options)
    try:
        yield cluster
    finally:
        cluster.stop()
