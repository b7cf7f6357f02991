"""A real Slurm for tests: controller and two nodes of one CPU each on this machine, in a folder of its own.

Needs Debian's slurmctld, slurmd, slurm-client and munge, and root: the daemons run as whoever starts them.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
NODES = ("n1", "n2")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdTimeout=5
KillWait=5
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Why no Slurm can be started here; None where it can."""
    lacking = [name for name in DAEMONS if _path(name) is None]
    if lacking:
        return f"no Slurm here: {', '.join(lacking)} not found"
    if find_spec("submitit") is None:
        return "no submitit here: pip install -r requirements-slurm.txt"
    return None if os.geteuid() == 0 else "Slurm's daemons are started as root only"


def _path(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class Cluster:
    """The running daemons. `stop` ends them, and the jobs with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen] = {}
        for name in ("munge", "state"):
            (folder / name).mkdir()
        (folder / "munge" / "key").write_bytes(os.urandom(1024))
        (folder / "munge" / "key").chmod(0o400)
        self.conf = folder / "slurm.conf"
        host = socket.gethostname().partition(".")[0]
        self.conf.write_text(CONFIGURATION.format(folder=folder, host=host, ports=free_ports(3)))
        self.environment = os.environ | {"SLURM_CONF": str(self.conf)}
        own = [f"--{name}-file={folder}/munge/{name}" for name in ("key", "pid", "log", "seed")]
        self._start("munged", "munged", "--foreground", "--force", f"--socket={folder}/munge/socket", *own)
        wait_until((folder / "munge" / "socket").exists, 10)
        self._start("slurmctld", "slurmctld", "-D")
        for node in NODES:
            self.start_node(node)
        try:
            wait_until(lambda: self.ask("sinfo", "-h", "-N", "-o", "%t").split() == ["idle", "idle"], 30)
        except AssertionError:
            self.stop()
            raise

    def start_node(self, node: str) -> None:
        self._start(node, "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """SIGKILL to the node's daemon and to the processes of its jobs, as when its machine is lost."""
        self.daemons[node].kill()
        self.daemons.pop(node).wait()
        for folder in Path("/proc").iterdir():
            with suppress(OSError):  # no process, or gone
                known = (folder / "environ").read_bytes() if folder.name.isdecimal() else b""
                if f"SLURMD_NODENAME={node}".encode() in known and str(self.conf).encode() in known:
                    os.kill(int(folder.name), signal.SIGKILL)

    def hurry(self) -> None:
        """Let requeued jobs start at once: Slurm holds them back for two minutes, in case that the node is ill."""
        for job, _, state, _ in self.jobs():
            if state == "PENDING":
                self.ask("scontrol", "update", f"JobId={job}", "StartTime=now")

    def ask(self, *command: str) -> str:
        """What a Slurm command prints; empty where it fails."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False).stdout

    def jobs(self) -> list[tuple[str, str, str, str]]:
        """(job, its array task, state, node) of every job that waits or runs."""
        lines = self.ask("squeue", "-h", "--array", "-o", "%i|%K|%T|%N").splitlines()
        return [tuple(line.split("|")) for line in lines]

    def stop(self) -> None:
        for job in {line[0] for line in self.jobs()}:
            self.ask("scancel", job)
        with suppress(AssertionError):
            wait_until(lambda: not self.jobs(), 10)
        for name in reversed(list(self.daemons)):
            daemon = self.daemons[name]
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _start(self, name: str, daemon: str, *arguments: str) -> None:
        with (self.folder / f"{name}.out").open("a") as out:
            self.daemons[name] = subprocess.Popen(
                [_path(daemon), *arguments], env=self.environment, stdout=out, stderr=out
            )


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_until(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
