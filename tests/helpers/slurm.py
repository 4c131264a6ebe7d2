"""A throwaway Slurm on this machine: a folder under /tmp, free ports, any user, nothing from /etc/slurm."""

import contextlib
import ctypes
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple, Self

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "sinfo", "scancel")
PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
START_SECONDS = 30
STOP_SECONDS = 15  # more than KillWait
POLL_SECONDS = 0.3  # a question to Slurm costs 5 ms of CPU
ENDS = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "OUT_OF_MEMORY", "TIMEOUT"}
_CLIENT_VARIABLES = re.compile(r"(SLURM|SLURMD|SBATCH|SRUN|SQUEUE|SINFO|SCANCEL|SCONTROL|SUBMITIT)_")
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)

# cred_expire: a requeued job waits that long; 5 s is the least that Slurm takes.
# FirstJobId: two clusters on one machine, with jobs of the same number, would meet at the ports that follow from it.
# config_overrides: the nodes may declare more cores and memory than the machine has.
_SLURM_CONF = """\
ClusterName=test
FirstJobId={first_job}
SlurmctldHost=localhost
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=cred_expire=5,socket={folder}/munge.socket
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1,bf_continue
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=2
SlurmdTimeout=10
MinJobAge=3600
ReturnToService=2
GresTypes=gpu
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=high Nodes=ALL Default=NO MaxTime=INFINITE State=UP PriorityTier=10
"""
_NODE = "NodeName={} NodeHostname=localhost NodeAddr=127.0.0.1 Port={} CPUs=4 RealMemory=4000 Gres=gpu:2"


class Process(NamedTuple):
    pid: int
    parent: int
    program: str
    environ: dict[str, str]


def available() -> str | None:
    """None, or why no cluster can be started here."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]
    return f"without {', '.join(missing)}; on Debian and Ubuntu: apt install slurm-wlm munge" if missing else None


class Cluster:
    """Nodes t1, t2, ... with 4 CPUs, 4000 MB and 2 pretended GPUs each; partitions `main` and, preempting it, `high`.

    `env` is the environment for clients and for what uses them. `daemons` are `munged`, `slurmctld`, and each node's
    slurmd under the node's name. Job ids are those of sbatch, as text or number.
    """

    def __init__(self, num_nodes: int = 3) -> None:
        self.nodes = [f"t{number}" for number in range(1, num_nodes + 1)]
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when every node is idle. Leaves nothing behind if it fails."""
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short: a socket's path has 107 bytes
        clean = {key: value for key, value in os.environ.items() if not _CLIENT_VARIABLES.match(key)}
        clean.pop("PYTHONDONTWRITEBYTECODE", None)  # a requeued job need not compile its code again
        self.env = clean | {"PATH": PATH, "SLURM_CONF": str(self.folder / "slurm.conf")}
        try:
            self._configure()
            self._start_munged()
            self._start_daemon("slurmctld", "slurmctld", "-D")
            for node in self.nodes:
                self.start_node(node)
            self.wait_idle(START_SECONDS)
        except BaseException:
            self._end()
            raise

    def stop(self) -> None:
        """Cancel all jobs, end the daemons and what the jobs left, remove the folder."""
        end = time.monotonic() + STOP_SECONDS
        try:
            if self.daemons and not self._dead():
                self.run("scancel", "--user", str(os.getuid()))
                while self.run("squeue", "-h", "-t", "R,CG") and time.monotonic() < end:
                    time.sleep(POLL_SECONDS)
        finally:
            self._end()

    def run(self, *command: str, check: bool = True) -> str:
        """A client's standard output, stripped. Works in the cluster's folder, where sbatch leaves its files."""
        done = subprocess.run(
            command, env=self.env, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
        if check and done.returncode:
            raise AssertionError(f"{command} ended with {done.returncode}: {done.stderr or done.stdout}")
        return done.stdout.strip()

    def state(self, job_id: str | int) -> str:
        """RUNNING, PENDING, COMPLETED, ...; kept for an hour after the job's end."""
        match = re.search(r"JobState=(\w+)", self.run("scontrol", "show", "job", "-o", str(job_id)))
        assert match is not None
        return match[1]

    def wait_for(self, job_id: str | int, states: str | Collection[str], timeout_s: float) -> str:
        """The first of `states` that the job is seen in. AssertionError if it ends otherwise, or there is none in time.

        A job that is requeued ends in none of `ENDS`.
        """
        wanted = {states} if isinstance(states, str) else set(states)
        started = time.monotonic()
        while (state := self.state(job_id)) not in wanted:
            seconds = time.monotonic() - started
            if state in ENDS or seconds > timeout_s:
                shown = self.run("scontrol", "show", "job", str(job_id), check=False)
                raise AssertionError(f"after {seconds:.0f} s job {job_id} is {state}, not {sorted(wanted)}:\n{shown}")
            time.sleep(POLL_SECONDS)
        return state

    def wait_until_gone(self, job_id: str | int, timeout_s: float) -> None:
        """Until nothing of the job, or array, waits, runs or ends any more. AssertionError if that takes longer."""
        end = time.monotonic() + timeout_s
        while self.run("squeue", "-h", "-t", "PD,R,CG", "-j", str(job_id)) or self.tasks(job_id):
            assert time.monotonic() < end, (self.run("squeue", "-r", "-t", "all"), self.tasks(job_id))
            time.sleep(POLL_SECONDS)

    def tasks(self, job_id: str | int) -> list[Process]:
        """All processes that were started in the job, or in an element of the array."""
        of_job = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID")
        return [p for p in self._processes() if str(job_id) in (p.environ.get(name) for name in of_job)]

    def wait_idle(self, timeout_s: float) -> None:
        """Until no node is in use or down. AssertionError if that takes longer, or if a daemon has died."""
        end = time.monotonic() + timeout_s
        idle = {f"{node} idle" for node in self.nodes}
        while set(self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T", check=False).splitlines()) != idle:
            self._sleep_until(end)

    def down(self, node: str) -> None:
        """A node failure as Slurm sees it: the node's jobs are killed and requeued. The node comes back by itself."""
        self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")

    def bring_back(self) -> None:
        """The nodes that Slurm has taken out of service, as after a launch that failed."""
        for line in self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T").splitlines():
            node, state = line.split()
            if "drain" in state:
                self.run("scontrol", "update", f"NodeName={node}", "State=RESUME")

    def start_node(self, node: str) -> None:
        """Start the node's slurmd, also again after `daemons[node].kill()`."""
        self._start_daemon(node, "slurmd", "-D", "-N", node)

    def nodes_of(self, job_id: str | int) -> list[str]:
        """Names of the nodes that the job runs on."""
        shown = self.run("squeue", "-h", "-j", str(job_id), "-o", "%N")
        return self.run("scontrol", "show", "hostnames", shown).split()

    def pids(self, job_id: str | int) -> dict[int, int]:
        """Rank -> process id of the Python tasks that run, without their children; of the latest attempt only."""
        job = [process for process in self._processes() if process.environ.get("SLURM_JOB_ID") == str(job_id)]
        tasks = [p for p in job if p.program.startswith("python") and "SLURM_PROCID" in p.environ]
        attempts = {p.pid: int(p.environ.get("SLURM_RESTART_COUNT", 0)) for p in tasks}
        latest = max(attempts.values(), default=0)
        tasks = [p for p in tasks if p.parent not in attempts and attempts[p.pid] == latest]
        return {int(p.environ["SLURM_PROCID"]): p.pid for p in tasks}

    def orphans(self) -> list[Process]:
        """Processes of this cluster but its daemons: tasks, their slurmstepd, and clients. Empty if no job is there."""
        daemons = {daemon.pid for daemon in self.daemons.values()}
        return [process for process in self._processes() if not {process.pid, process.parent} & daemons]

    def _processes(self) -> Iterator[Process]:
        """All that have this cluster's SLURM_CONF, which Slurm also gives to every task."""
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                text = (folder / "environ").read_bytes().decode(errors="replace")
                environ = dict(entry.partition("=")[::2] for entry in text.split("\0"))
                if environ.get("SLURM_CONF") == self.env["SLURM_CONF"]:
                    parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                    yield Process(int(folder.name), int(parent), (folder / "exe").readlink().name, environ)

    def _configure(self) -> None:
        sockets = [socket.create_server(("", 0)) for _ in range(1 + len(self.nodes))]
        controller_port, *node_ports = (free.getsockname()[1] for free in sockets)
        for free in sockets:
            free.close()
        nodes = "\n".join(map(_NODE.format, self.nodes, node_ports))
        first_job = 1 + 1000 * (os.getpid() % 60_000)
        values = {
            "port": controller_port,
            "first_job": first_job,
            "user": pwd.getpwuid(os.getuid()).pw_name,
            "folder": self.folder,
        }
        (self.folder / "slurm.conf").write_text(_SLURM_CONF.format(nodes=nodes, **values))
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/gpu[0-1]\n")
        for gpu in ("gpu0", "gpu1"):
            (self.folder / gpu).symlink_to("/dev/null")
        for name in ("state", *(f"spool.{node}" for node in self.nodes)):
            (self.folder / name).mkdir()

    def _start_munged(self) -> None:
        key, munge_socket = self.folder / "munge.key", self.folder / "munge.socket"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = [f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "pid", "seed")]
        self._start_daemon("munged", "munged", "--foreground", "--force", f"--socket={munge_socket}", *files)
        end = time.monotonic() + START_SECONDS
        while not munge_socket.exists():
            self._sleep_until(end)

    def _sleep_until(self, end: float) -> None:
        """For a moment. AssertionError with logs after `end`, or if a daemon has died."""
        dead = self._dead()
        if dead or time.monotonic() > end:
            outputs = [self.folder / f"{name}.out" for name in dead or self.daemons]
            logs = "\n".join(output.read_text(errors="replace")[-2000:] for output in outputs)
            raise AssertionError(f"not ready in time; died: {dead}\n{logs}")
        time.sleep(0.05)

    def _start_daemon(self, name: str, *command: str) -> None:
        """Ends with this process, even if that is killed."""
        with (self.folder / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                command,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=lambda: _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
            )

    def _dead(self) -> list[str]:
        return [name for name, daemon in self.daemons.items() if daemon.poll() is not None]

    def _end(self) -> None:
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(timeout=5)
            daemon.kill()
            daemon.wait()
        self.daemons.clear()
        end = time.monotonic() + STOP_SECONDS
        while (left := self.orphans()) and time.monotonic() < end:
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            time.sleep(POLL_SECONDS)
        shutil.rmtree(self.folder, ignore_errors=True)
