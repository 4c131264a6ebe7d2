"""Programs that answer as Slurm's do and run nothing: what they were asked, in which environment, and a queue."""

import os
from pathlib import Path

import pytest

_PROGRAMS = {
    "scontrol": """\
case "$*" in
    "show partition -o") echo "PartitionName=main Default=YES MaxTime=UNLIMITED";;
    "show node -o") echo "NodeName=t1 NodeHostName=localhost NodeAddr=localhost Partitions=main Gres=gpu:2";;
esac
""",
    "sbatch": """\
test "$1" = --test-only && exit
number=$(grep -c '^sbatch [^-]\\|^sbatch --parsable' "$here/calls")
for script; do :; done
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script")
row="PENDING|Priority||0|"
if [ "$last" ]; then seq -f "${number}_%g|$row" 0 "$last"; else echo "$number|$row"; fi >> "$here/queue"
test "$1" = --parsable && echo "$number" || echo "Submitted batch job $number"
""",
    "squeue": 'cat "$here/queue"\n',
    "srun": "",
    "scancel": "",
}


class FakeSlurm:
    """A cluster of one node with two GPUs. Jobs are numbered from 1, and wait until `queue` says otherwise."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        self._calls, self._queue = folder / "calls", folder / "queue"
        self._calls.touch()
        self._queue.touch()
        for name, body in _PROGRAMS.items():
            program = folder / name
            head = f'here={folder}\necho "{name} $*" >> "$here/calls"\nenv > "$here/{name}.env"\n'
            program.write_text(f"#!/bin/sh\n{head}{body}")
            program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def calls(self, program: str) -> list[str]:
        """The arguments of each call."""
        lines = self._calls.read_text().splitlines()
        return [line.removeprefix(f"{program} ") for line in lines if line.split()[0] == program]

    def submitted(self) -> int:
        """How many jobs and arrays sbatch took."""
        return sum(not call.startswith("--test-only") for call in self.calls("sbatch"))

    def environment(self, program: str) -> dict[str, str]:
        """That of the program's last call."""
        lines = (self.folder / f"{program}.env").read_text().splitlines()
        return dict(line.partition("=")[::2] for line in lines)

    def set_queue(self, *rows: tuple[str, str, str, int]) -> None:
        """Each row is a job's id, state, reason and number of restarts."""
        self._queue.write_text(
            "".join(f"{job}|{state}|{reason}||{restarts}|\n" for job, state, reason, restarts in rows)
        )
