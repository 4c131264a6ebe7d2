"""Status, logs and cancel, from fabricated folders and a fake Slurm."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from negbench.cli.commands.jobs import short_labels
from negbench.cli.main import app
from negbench.launch.jobs.logs import follow_log
from negbench.records.checks.verify import verify
from negbench.records.jobs import Job, JobNote, SchedulerError, _warn, jobs, release_held
from negbench.records.status import RunStatus, find_runs, status_of
from tests.helpers.slurm import Cluster

ROWS = [
    {"kind": "train", "step": 10, "epoch": 1.0, "loss": 4.0, "step_seconds": 0.5, "images_per_second": 100.0},
    {"kind": "evaluation", "step": 10, "epoch": 1, "knn_top1": 0.5},
    {"kind": "train", "step": 20, "epoch": 2.0, "loss": 3.0, "step_seconds": 0.5, "images_per_second": 128.0},
]
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a run folder of 10 epochs; each keyword is a file's content."""

    def fabricate(name: str = "run", **files: Any) -> Path:
        path = tmp_path / "out" / name
        path.mkdir(parents=True)
        (path / "config.yaml").write_text("study: quick\nseed: 3\nepochs: 10\nmethod: {name: adco}\n")
        for stem, content in files.items():
            suffix = {"done": "", "stalled": "", "metrics": ".jsonl"}.get(stem, ".json")
            text = content if isinstance(content, str) else json.dumps(content)
            (path / f"{stem}{suffix}").write_text(text)
        return path

    return fabricate


def metrics(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def slurm_job(job_id: str = "12") -> JobNote:
    settings = {"study": "quick", "method": "adco", "seed": 3, "label": "adco"}
    return {"launcher": "slurm", "job_id": job_id, "folder": "/nowhere", "num_ranks": 2, "settings": settings}


def test_what_a_row_shows(make: Make) -> None:
    known = {"12": Job("12", "RUNNING", "", "gpu[1-2]", 3)}
    run = status_of(make(metrics=metrics(ROWS) + '{"kind": "tr', job=slurm_job()), known)
    assert (run.study, run.method, run.seed, run.state) == ("quick", "adco", 3, "running")
    assert (run.epoch, run.epochs, run.loss, run.knn_top1, run.images_per_second) == (2.0, 10, 3.0, 0.5, 128.0)
    assert run.seconds_left == pytest.approx(80 * 0.5)
    assert (run.node, run.requeued) == ("gpu[1-2]", 3)


@pytest.mark.parametrize(
    ("files", "job", "state", "detail"),
    [
        ({"done": ""}, None, "done", ""),
        ({"job": slurm_job()}, Job("12", "PENDING", "Priority", "", 0), "pending", "Priority"),
        (
            {"job": slurm_job(), "stalled": "no step since noon\n"},
            Job("12", "RUNNING", "", "t1", 0),
            "stalled",
            "no step",
        ),
        ({"job": slurm_job()}, Job("12", "PENDING", "launch failed requeued held", "", 1), "pending", "releases it"),
        ({"summary": {"status": "failed", "error": "KeyError: 'x'\nmore"}}, None, "failed", "KeyError: 'x'"),
        ({"summary": {"status": "interrupted", "error": "SIGTERM"}}, None, "interrupted", "SIGTERM"),
        ({"job": slurm_job() | {"cancelled": "now"}, "environment": {}}, None, "cancelled", ""),
        ({"job": slurm_job()}, Job("12", "CANCELLED", "", "", 0), "cancelled", ""),
        ({"job": slurm_job(), "environment": {}}, Job("12", "FAILED", "", "", 0), "dead", "same command"),
        ({"job": slurm_job()}, None, "dead", "before it started"),
        ({"environment": {}}, None, "dead", "same command"),
        ({"summary": "{not json", "metrics": "\x00{"}, None, "damaged", "summary.json: key must be a string"),
        (
            {"summary": {"status": "failed"}, "environment": "[]"},
            None,
            "damaged",
            "environment.json: it holds [], and no object",
        ),
        ({"job": "null", "environment": {}}, None, "damaged", "job.json: it holds null, and no object"),
        ({"job": "null", "done": ""}, None, "done", ""),
        ({}, None, "new", ""),
    ],
)
def test_states(make: Make, files: dict[str, Any], job: Job | None, state: str, detail: str) -> None:
    run = status_of(make(**files), {"12": job} if job else {})
    assert run.state == state
    assert detail in run.detail if detail else not run.detail


def test_a_held_lock_is_a_running_run(make: Make) -> None:
    path = make(environment={}, summary={"status": "failed", "error": "of an earlier attempt"})
    (path / "run.lock").write_text('{"attempt": 1, "pid": 1, "host": "here"}')
    with open(path / "run.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert (status_of(path, {}).state, status_of(path, {}).node) == ("running", "here")
    assert status_of(path, {}).state == "failed"


def test_runs_are_found_and_submissions_are_not(make: Make) -> None:
    first = make("b")
    (first.parent / "submissions").mkdir()
    second = make("a")
    assert find_runs(first.parent) == [second, first]
    with pytest.raises(ValueError, match="there is no folder"):
        find_runs(first.parent / "none")


def test_labels_leave_out_what_a_study_shares() -> None:
    changed: list[dict[str, Any]] = [
        {"epochs": 2, "method.lr": 1},
        {"epochs": 2, "method.lr": 2},
        {"scale": [0.5, 1.0]},
        {"scale": None},
    ]
    runs = [("a", "adco"), ("a", "adco"), ("b", "moco"), ("b", "byol")]
    statuses = [RunStatus("", *run, 0, "done", changed=c) for run, c in zip(runs, changed, strict=True)]
    assert short_labels(statuses) == ["adco (lr=1)", "adco (lr=2)", "moco (scale=[0.5, 1.0])", "byol (scale=None)"]


def test_squeue_that_is_missing_or_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SchedulerError, match="squeue is not on PATH"):
        jobs()
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    (tmp_path / "squeue").chmod(0o755)
    with pytest.raises(SchedulerError, match="squeue: Unable to contact"):
        jobs()


@pytest.mark.parametrize(
    ("files", "state", "detail"),
    [
        ({"done": ""}, "done", ""),
        ({}, "unknown", "Slurm could not be asked"),
        ({"environment": {}}, "unknown", "Slurm could not be asked"),
        ({"summary": {"status": "failed", "error": "KeyError"}}, "failed", "KeyError; Slurm could not be asked"),
    ],
)
def test_where_slurm_cannot_be_asked_the_folders_speak(
    make: Make, files: dict[str, Any], state: str, detail: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(job=slurm_job(), **files)
    monkeypatch.setenv("PATH", str(tmp_path))
    _warn.cache_clear()
    result = CliRunner().invoke(app, ["status", "--output", str(path.parent), "--json"])
    (shown,) = json.loads(result.stdout)
    assert (result.exit_code, shown["state"], shown["detail"]) == (0, state, detail)
    assert result.stderr.count("\n") == 1 and "squeue is not on PATH" in result.stderr


def test_watching_and_following_outlast_a_silence_of_slurm(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _warn.cache_clear()
    path = make(job=slurm_job() | {"folder": str(tmp_path)})
    (tmp_path / "12").mkdir()
    log = tmp_path / "12" / "12_0_log.out"
    log.write_text("first\n")
    answers: list[str | SchedulerError] = ["RUNNING", SchedulerError("squeue has not answered for 60 s"), "RUNNING"]
    looks = iter([*answers, "COMPLETED"])

    def squeue() -> dict[str, Job]:
        look = next(looks)
        if isinstance(look, SchedulerError):
            log.write_text("first\nsecond\n")
            raise look
        return {"12": Job("12", look, "", "t1", 0)}

    monkeypatch.setattr("negbench.records.jobs.jobs", squeue)
    follow_log(path, log, poll_s=0, job_poll_s=0)
    shown = capsys.readouterr()
    assert shown.out == "first\nsecond\n"
    assert shown.err == "negbench: squeue has not answered for 60 s; the run folders alone are read\n"
    looks = iter(answers)
    seen: list[str] = []

    def sleep(seconds: float) -> None:
        seen.append("look")
        if len(seen) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("negbench.cli.commands.jobs.time.sleep", sleep)
    result = CliRunner().invoke(app, ["status", "--output", str(path.parent), "--watch"])
    assert len(seen) == 3, result.output


def test_what_slurm_holds_after_a_failed_launch_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho $@ >> {tmp_path}/calls\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    states = {"12": "launch failed requeued held", "13": "JobHeldUser", "14": "Priority"}
    known = {job_id: Job(job_id, "PENDING", reason, "", 0) for job_id, reason in states.items()}
    assert release_held([slurm_job(job_id) for job_id in states], known) == ["12"]
    assert (tmp_path / "calls").read_text() == "release 12\n"
    assert release_held([cast(JobNote, {}), slurm_job("99")], known) == []


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output + (result.stderr if result.stderr_bytes else "")


def test_status_on_the_command_line(make: Make) -> None:
    path = make(done="", metrics=metrics(ROWS))
    code, shown = invoke("status", "--output", str(path.parent))
    assert code == 0 and "quick" in shown and "done" in shown and "2/10" in shown
    code, shown = invoke("status", "--output", str(path.parent), "--json")
    assert json.loads(shown)[0]["run_id"] == "run"
    assert json.loads(invoke("status", "--output", str(path.parent), "--study", "other", "--json")[1]) == []


def test_logs_of_a_job_and_of_a_sweep(make: Make, tmp_path: Path) -> None:
    logs = tmp_path / "12"
    logs.mkdir()
    (logs / "12_1_log.out").write_text("first\nsecond\n")
    path = make(job=slurm_job() | {"folder": str(tmp_path)})
    assert invoke("logs", str(path), "--rank", "1", "-n", "1") == (0, "second\n")
    assert invoke("logs", str(path))[0] == 2
    assert "there is no rank 2" in invoke("logs", str(path), "--rank", "2")[1]
    plain = make("plain")
    assert "has no log" in invoke("logs", str(plain))[1]
    (plain / "run.log").write_text("of a sweep\n")
    assert invoke("logs", str(plain)) == (0, "of a sweep\n")
    assert invoke("logs", str(plain), "--follow") == (0, "of a sweep\n")


def test_cancelling_a_process_of_this_machine(make: Make) -> None:
    path = make(environment={})
    code = (
        "import fcntl, signal, sys, os, time, json\n"
        "f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX)\n"
        "json.dump({'pid': os.getpid(), 'host': os.uname().nodename}, f); f.flush()\n"
        "print('locked', flush=True); time.sleep(60)\n"
    )
    arguments = [sys.executable, "-c", code, str(path / "run.lock")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        code_, shown = invoke("cancel", str(path))
        assert code_ == 0 and str(process.pid) in shown
        assert process.wait(10) == -15
    code_, shown = invoke("cancel", str(path), str(path.parent))
    assert code_ == 2 and "nothing to cancel" in shown and "is not a run folder" in shown


@pytest.mark.slurm
def test_states_on_a_real_slurm(cluster: Cluster, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, cluster.env[name])
    script = ("sbatch", "--parsable", "-o", os.devnull, "--array=0-1%1", "--wrap", "sleep 60")
    job_id = cluster.run(*script)
    paths = [make(str(number), job=slurm_job(f"{job_id}_{number}")) for number in range(2)]
    cluster.wait_for(f"{job_id}_0", "RUNNING", 20)
    states = [status_of(path, jobs()) for path in paths]
    assert [run.state for run in states] == ["running", "pending"]
    assert states[0].node.startswith("t") and states[1].detail == "JobArrayTaskLimit"
    assert invoke("cancel", *map(str, paths))[0] == 0
    cluster.wait_idle(20)
    assert [status_of(path, jobs()).state for path in paths] == ["cancelled", "cancelled"]


@pytest.mark.parametrize("name", ["summary.json", "environment.json", "config.yaml", "metrics.jsonl", "data.json"])
@pytest.mark.parametrize("odd", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_a_pipe_or_a_device_in_place_of_a_record_is_damage(name: str, odd: Callable[[Path], None], make: Make) -> None:
    run = make(done="", metrics=ROWS)
    (run / name).unlink(missing_ok=True)
    odd(run / name)
    assert status_of(run, {}).state in ("done", "damaged")
    assert any(problem.startswith(f"{name}: it cannot be read") for problem in verify(run).problems)
