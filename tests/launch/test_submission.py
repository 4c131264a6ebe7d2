"""What is submitted, once, and what is said of it; on programs that answer as Slurm's do."""

import json
import shlex
import time
from pathlib import Path

import pytest

from negbench.launch.jobs import preflight, submit
from negbench.records import locks
from negbench.records.jobs import MOST_RESTARTS, Job, jobs, read_note, watched_jobs
from negbench.records.run_folder import RunFolder
from negbench.runtime.words import command
from tests.cli.test_cli import arguments, invoke
from tests.helpers.fake_slurm import FakeSlurm

HELD = "launch failed requeued held"
SLURM = ["--cluster", "slurm", "--time", "1h"]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return FakeSlurm(tmp_path / "slurm", monkeypatch)


def sweep(output: Path, *options: str) -> tuple[int, str, str]:
    return invoke("sweep", "--methods", *arguments(output)[2:], "--seeds", "0:2", *SLURM, *options)


@pytest.mark.parametrize("kind", ["run", "sweep", "sweep --then"])
def test_a_submission_between_anothers_checks_and_its_jobs_is_not_repeated(
    kind: str, slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    words = ["--then", f"status --output {output}"] if kind.endswith("--then") else []
    check = preflight.check_script

    def another_submits_meanwhile(script: str) -> None:
        monkeypatch.setattr(preflight, "check_script", check)
        assert sweep(output)[0] == 0

    monkeypatch.setattr(preflight, "check_script", another_submits_meanwhile)
    code, _, stderr = invoke(*arguments(output), *SLURM) if kind == "run" else sweep(output, *words)
    assert code == 2 and stderr.count("\n") == 1
    assert "already has job 1_0; `negbench cancel " in stderr
    assert slurm.submitted() == 1
    assert {read_note(path)["job_id"] for path in output.glob("*-s*")} == {"1_0", "1_1"}


@pytest.mark.parametrize("launcher", ["slurm", "local"])
def test_one_submission_waits_for_another_and_does_not_wait_for_ever(
    launcher: str, slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    lock = output / submit.SUBMISSION_LOCK
    monkeypatch.setattr(locks, "OTHERS_SECONDS", 0.1)
    with locks.exclusive(lock, "submits"):
        holder = json.loads(lock.read_text())
        code, _, stderr = invoke(*arguments(output), "--cluster", launcher, "--time", "1h")
    told = f"process {holder['pid']} on {holder['host']} submits jobs for {output}"
    assert (code, stderr) == (
        2,
        f"negbench: {told}; this call waits for it\n"
        f"negbench: {told}, and has for 0 s; call this again when it has ended\n",
    )
    assert slurm.submitted() == 0 and not list(output.iterdir())


def test_a_run_that_a_process_makes_gets_no_job_beside_it(slurm: FakeSlurm, tmp_path: Path) -> None:
    words = arguments(tmp_path / "out")
    assert invoke(*words, *SLURM)[0] == 0
    slurm.set_queue()
    (path,) = (tmp_path / "out").iterdir()
    run = RunFolder(path)
    run.open()
    code, _, stderr = invoke(*words, *SLURM)
    run.close()
    assert code == 2 and f"{path} is in use by a process that runs it" in stderr
    assert slurm.submitted() == 1
    assert invoke(*words, *SLURM)[0] == 0


@pytest.mark.parametrize("launcher", ["slurm", "local"])
@pytest.mark.parametrize("name", ["50%", "per%jcent%A", "%%", "a\\b"])
def test_a_folder_whose_name_slurm_would_expand_is_refused(
    name: str, launcher: str, slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    for output in (tmp_path / name / "out", Path("out")):
        monkeypatch.chdir(tmp_path / name)
        code, _, stderr = invoke(*arguments(output), "--cluster", launcher, "--time", "1h")
        assert code == 2 and stderr.count("\n") == 1
        assert "choose a folder without" in stderr and name in stderr
    assert not list((tmp_path / name).iterdir()) and not slurm.submitted()


def test_printed_commands_can_be_pasted(slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for output in ("a b ü$(touch PWNED)'", "-x"):
        code, stdout, _ = invoke(*arguments(Path("x"))[:5], f"--output={output}", *arguments(Path("x"))[7:], *SLURM)
        assert code == 0
        status, logs = stdout.partition("watch: ")[2].strip().split("; negbench logs")
        folder = shlex.split(status)[3]
        assert Path(folder) == Path(output) and not folder.startswith("-")
        assert shlex.split(logs)[0].startswith(folder) and shlex.split(logs)[1:] == ["-f"]
    assert command("logs", Path("a b"), "-f") == "negbench logs 'a b' -f"


@pytest.mark.parametrize(
    ("words", "looks"), [("sweep --wait", 1), ("logs -f", 1), ("status --watch", 2)], ids=lambda value: str(value)
)
def test_what_slurm_holds_is_released_by_a_call_that_waits(
    words: str, looks: int, slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    assert sweep(output)[0] == 0
    slurm.set_queue(("1_0", "PENDING", HELD, 2), ("1_1", "PENDING", "Priority", 0))
    waits, sleep = iter(range(looks - 1)), time.sleep

    def wait(seconds: float) -> None:
        if seconds < 0.5:  # of what waits for a program's end
            sleep(seconds)
        elif next(waits, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", wait)
    first = next(path for path in output.glob("*-s*") if read_note(path)["job_id"] == "1_0")
    commands = {
        "sweep --wait": lambda: sweep(output, "--wait"),
        "logs -f": lambda: invoke("logs", str(first), "-f"),
        "status --watch": lambda: invoke("status", "--output", str(output), "--watch"),
    }
    _, stdout, stderr = commands[words]()
    assert "Slurm held job 1_0 after a failed launch; it is released and waits again" in stdout + stderr
    assert set(slurm.calls("scontrol")[-1:]) == {"release 1_0"}


def test_a_node_that_fails_at_every_launch_is_not_tried_for_ever(slurm: FakeSlurm, tmp_path: Path) -> None:
    assert invoke(*arguments(tmp_path / "out"), *SLURM)[0] == 0
    (path,) = (tmp_path / "out").iterdir()
    told: list[str] = []
    slurm.set_queue(("1", "PENDING", HELD, MOST_RESTARTS))
    assert watched_jobs([read_note(path)], told.append) and not told
    slurm.set_queue(("1", "PENDING", HELD, MOST_RESTARTS - 1))
    assert watched_jobs([read_note(path)], told.append) and len(told) == 1


def test_a_queue_of_a_named_cluster_is_read(slurm: FakeSlurm) -> None:
    (slurm.folder / "queue").write_text("CLUSTER: c2\n12_3|RUNNING|None|gpu[1-2]|1|\n\n")
    assert jobs() == {"12_3": Job("12_3", "RUNNING", "", "gpu[1-2]", 1)}
