"""A real Slurm of two nodes on this one machine.

Needs root and Debian's packages slurm-wlm and munge (``apt install slurm-wlm munge``). Everything
of it lies in one folder and is ended with it, a munged of its own included: no configuration of
the machine is read or changed.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("srun", "sbatch", "salloc", "scancel", "scontrol", "squeue", "sinfo", "setpriv")
PATIENCE = 240.0

# More cores than the machine has, and GPUs that do not exist: the scripts in jobs/ ask for nodes
# like these. cred_expire is how long a job that was put back into the queue waits at least.
CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket,cred_expire=5
CredType=cred/munge
MpiDefault=none
FirstJobId={first_job}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SlurmUser=root
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.%n.pid
SlurmdSpoolDir={home}/spool.%n
StateSaveLocation={home}/state
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,requeue_delay=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
OverTimeLimit=0
JobRequeue=1
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} {node}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} {node}
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:8
"""


@dataclass(frozen=True)
class Cluster:
    """The running cluster; ``environment`` is what its commands need."""

    home: Path
    environment: dict[str, str]

    def ask(self, *words: str) -> str:
        """The output of one of Slurm's commands."""
        return subprocess.run(
            words,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE,
        ).stdout.strip()

    def kill_node(self, node: str, process: int) -> None:
        """Let a node go down, with a process on it and all that Slurm has there.

        The last thing of a cluster: the node stays down.
        """
        step = psutil.Process(process).parent()
        assert step is not None
        daemons = [
            one
            for one in psutil.process_iter(["cmdline"])
            if (one.info["cmdline"] or [])[-3:] == ["-D", "-N", node]
        ]
        for one in (*daemons, step, psutil.Process(process)):
            one.kill()
        self.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    def cancel_all(self) -> None:
        """End all jobs, and wait until nothing of them is left."""
        self.ask("scancel", "--user=root")
        wait_until(lambda: not self.ask("squeue", "--noheader"), "the end of all jobs")

    def logs(self) -> str:
        """The last lines of all daemons, for who looks for a failure's cause."""
        return "\n".join(
            f"{path.name}:\n" + "\n".join(path.read_text(errors="replace").splitlines()[-8:])
            for path in sorted(self.home.glob("*.log"))
        )


def what_is_missing() -> str:
    """Return why no cluster can be started here; empty if it can."""
    if os.geteuid() != 0:
        return "only root can start a Slurm of its own"
    missing = [name for name in (*DAEMONS, *CLIENTS) if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)} here: apt install slurm-wlm munge"
    return ""


def wait_until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Wait for a condition; ``TimeoutError`` if it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.1)


@contextlib.contextmanager
def running_cluster(home: Path) -> Iterator[Cluster]:
    """A cluster of the nodes n1 and n2 in an empty folder, which root alone may write to."""
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SRUN", "PMI"))
    }
    environment["SLURM_CONF"] = _configure(home)
    # MPICH's own choice, UCX, has addresses of several lines, which Slurm's PMI-2 now and then
    # cuts ("value not properly terminated"): the ranks then wait for each other in MPI_Init.
    environment["MPIR_CVAR_CH4_NETMOD"] = "ofi"
    cluster = Cluster(home, environment)
    with contextlib.ExitStack() as stack:
        munge = [
            f"--{name}={home}/munge.{name[:-5]}" for name in ("pid-file", "log-file", "seed-file")
        ]
        socket_path = home / "munge.socket"
        _start(stack, cluster, "munged", "--foreground", f"--key-file={home}/munge.key",
               f"--socket={socket_path}", *munge)  # fmt: skip
        wait_until(socket_path.exists, f"munged\n{cluster.logs()}")
        _start(stack, cluster, "slurmctld", "-D", "-c")
        for node in ("n1", "n2"):
            _start(stack, cluster, "slurmd", "-D", "-N", node)
        stack.callback(cluster.cancel_all)
        wait_until(lambda: _idle_nodes(cluster) == "2", "two idle nodes")
        yield cluster


def _configure(home: Path) -> str:
    home.chmod(0o755)  # munge wants it so
    (home / "state").mkdir()
    for node in ("n1", "n2"):
        (home / f"spool.{node}").mkdir()
    key = home / "munge.key"
    key.touch(0o600)
    key.write_bytes(os.urandom(128))
    megabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    path = home / "slurm.conf"
    path.write_text(
        CONFIGURATION.format(
            home=home,
            host=socket.gethostname().split(".")[0],
            ports=_free_ports(3),
            # MPICH names its shared memory by the job, and a killed rank leaves it behind: another
            # cluster's job of the same number would find it.
            first_job=random.randrange(1, 10**7),
            node=f"CPUs=32 RealMemory={megabytes // 2} Gres=gpu:4 State=UNKNOWN",
        )
    )
    for number in range(4):
        (home / f"gpu{number}").touch()
    (home / "gres.conf").write_text(f"Name=gpu File={home}/gpu[0-3]\n")
    return str(path)


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _start(stack: contextlib.ExitStack, cluster: Cluster, *words: str) -> None:
    # Ended with whoever runs the tests, also where that is killed.
    with (cluster.home / f"{words[0]}.out.log").open("a") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *words],
            env=cluster.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    stack.callback(_end, process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _idle_nodes(cluster: Cluster) -> str:
    answer = subprocess.run(
        ["sinfo", "--noheader", "--states=idle", "--format=%D"],
        env=cluster.environment, capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    return answer.stdout.strip()
