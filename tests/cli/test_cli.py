"""The command line: exit codes, sentences, signals, and what it costs to start."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageStat
from typer.testing import CliRunner

from negbench.cli.main import app
from negbench.settings.plugins.protocols import PROTOCOLS
from tests.helpers import processes, runs, tiny

COMMAND = [sys.executable, "-m", "negbench.cli"]
NUM_KILLS = int(os.environ.get("NEGBENCH_KILLS", "3"))
EPOCHS = 8 * NUM_KILLS  # of 4 steps


def arguments(output: Path, method: str = "moco", *settings: str) -> list[str]:
    pairs = [part for setting in [*runs.SHORT, *runs.SMALL.get(method, []), *settings] for part in ("--set", setting)]
    return ["run", "--method", method, "--device", "cpu", "--output", str(output), *pairs]


def invoke(*args: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(args))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_listing_and_help_import_no_torch() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom negbench.cli.main import app\n"
        "for args in (['--help'], ['methods']):\n    assert CliRunner().invoke(app, args).exit_code == 0\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\nassert 'pandas' not in sys.modules\n"
        "assert 'negbench.settings.plugins.protocols' not in sys.modules, 'the protocols of all packages were sought'\n"
        "assert 'negbench.models.files.formats' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_help_of_evaluate_lists_the_protocols() -> None:
    code, stdout, _ = invoke("evaluate", "--help")
    words = stdout.replace("│", "").replace("-", "").split()  # a long name is folded at its hyphens
    assert code == 0
    for protocol in PROTOCOLS:
        assert protocol.replace("-", "") in "".join(words)


def test_methods_lists_every_file() -> None:
    code, stdout, _ = invoke("methods")
    assert code == 0
    for name in tiny.METHODS:
        assert name in stdout
    assert "arXiv:2011.08435" in stdout


def test_config_shows_values_and_their_layers() -> None:
    code, stdout, _ = invoke("config", "--method", "moco", "--set", "method.temperature=0.37", "--seed", "4")
    lines = [line.split() for line in stdout.splitlines()]
    assert code == 0
    assert ["method.temperature", "0.37", "--set"] in lines
    assert ["seed", "4", "--set"] in lines
    assert any(line[:1] == ["batch_size"] and line[2:] == ["study", "quickstart"] for line in lines)


def test_run_prints_its_summary_as_json_and_nothing_else_on_standard_output(tmp_path: Path) -> None:
    code, stdout, _ = invoke(*arguments(tmp_path), "--quiet", "--json")
    summary = json.loads(stdout)
    assert (code, summary["status"], summary["method"]) == (0, "done", "moco")
    code, stdout, stderr = invoke(*arguments(tmp_path))
    assert code == 0
    assert "is finished" in stderr
    assert f"{100 * summary['knn_top1']:.1f}%" in stdout


def test_a_run_without_the_test_set_shows_the_held_out_images(tmp_path: Path) -> None:
    code, stdout, _ = invoke(*arguments(tmp_path, "moco", "evaluation.test=false"))
    (summary,) = (json.loads(path.read_text()) for path in tmp_path.rglob("summary.json"))
    assert code == 0
    assert summary["knn_top1"] is None
    assert "held-out training images" in stdout and f"{100 * summary['knn_top1_validation']:.1f}%" in stdout


def test_run_shows_a_line_an_epoch_where_there_is_no_terminal(tmp_path: Path) -> None:
    _, _, stderr = invoke(*arguments(tmp_path))
    lines = [line for line in stderr.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
    assert "loss" in lines[0] and "kNN" in lines[0] and "left" in lines[0] and "left" not in lines[2]


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--method", "mocco"], "unknown method 'mocco', did you mean 'moco'?"),
        (["--config", "quikstart"], "unknown study 'quikstart', did you mean 'quickstart'?"),
        (["--set", "optimizer.learnig_rate=1"], "unknown key optimizer.learnig_rate (--set)"),
        (["--set", "batch_size=100000"], "batch_size 100000 exceeds"),
        (["--set", "views=foo"], "views (--set): unknown view policy 'foo'"),
        (["--cluster", "local", "--json"], "--json belongs to a run here"),
        (["--cluster", "local", "--quiet"], "--quiet belongs to a run here"),
        (["--device", "tpu"], "--device must be one of auto, cpu, cuda"),
        (["--set", "batch_norm=shuffled"], "use batch_norm: split"),
        (["--set", "batch_norm_splits=5"], "choose batch_size"),
        (["--set", "precision=fp16"], "precision fp16 needs a GPU"),
        (["--set", "data.name=imagefolder"], "data.root"),
        (["--set", "data.name=imagefolder", "--set", "data.root=/nowhere"], "/nowhere"),
        (
            ["--set", "data.name=cifar10", "--set", "data.root=/nowhere", "--set", "data.download=false"],
            "as /nowhere/cif",
        ),
        (["--set", "data.image_size=512"], "data.image_size of patterns is at most 128, not 512"),
    ],
)
def test_mistakes_get_one_sentence_and_exit_code_2(extra: list[str], sentence: str, tmp_path: Path) -> None:
    code, stdout, stderr = invoke(*arguments(tmp_path / "runs"), *extra)
    assert code == 2, stderr
    assert stdout == ""
    assert len(stderr.strip().splitlines()) == 1
    assert sentence in stderr
    assert not list(tmp_path.rglob("metrics.jsonl"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "--seed", "abc"], "invalid value for '--seed': "),
        (["run", "--methd", "moco"], "no such option: --methd, did you mean '--method'?"),
        (["rnu"], "no such command 'rnu'"),
        (["evaluate"], "missing argument 'path'"),
    ],
)
def test_mistakes_in_options_get_one_sentence_and_exit_code_2(arguments: list[str], sentence: str) -> None:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"negbench: {sentence}") and done.stderr.count("\n") == 1


def test_help_without_a_command() -> None:
    done = subprocess.run(COMMAND, capture_output=True, text=True)
    assert done.returncode == 2 and "Usage:" in done.stdout + done.stderr and "negbench:" not in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_cuda_asked_for_and_absent(tmp_path: Path) -> None:
    code, _, stderr = invoke(*arguments(tmp_path), "--device", "cuda")
    assert code == 2
    assert "no CUDA device" in stderr


def test_unwritable_output(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, stderr = invoke(*arguments(tmp_path / "file"))
    assert code == 2
    assert "cannot write to" in stderr and "--output" in stderr


def test_views_writes_a_picture(tmp_path: Path) -> None:
    code, _, _ = invoke("views", "--num-images", "5", "--output", str(tmp_path / "views.png"))
    assert code == 0
    assert (tmp_path / "views.png").read_bytes().startswith(b"\x89PNG")
    with Image.open(tmp_path / "views.png") as drawn:
        assert max(ImageStat.Stat(drawn).stddev) > 20
    recipe = ["--config", "paper/adco-imagenet-200", "--set", "data.name=patterns", "--set", "data.image_size=32"]
    assert invoke("views", *recipe, "--output", str(tmp_path / "views.png"))[0] == 0  # of a study with its own method
    code, _, stderr = invoke("views", "--output", str(tmp_path / "nowhere" / "views.png"))
    assert code == 2 and "cannot write" in stderr


def launch(output: Path, *settings: str) -> processes.Command:
    return processes.start(*arguments(output, "adco", f"epochs={EPOCHS}", *settings))


def last_step(output: Path) -> int:
    steps = [0]
    for metrics in output.rglob("metrics.jsonl"):
        for line in metrics.read_text().splitlines():
            with contextlib.suppress(ValueError):
                steps.append(json.loads(line)["step"])
    return max(steps)


def wait_for_step(output: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while last_step(output) < step:
        assert time.monotonic() < deadline, f"no step {step} in {output}"
        time.sleep(0.01)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_writes_a_checkpoint_and_the_exit_code_names_it(signum: int, code: int, tmp_path: Path) -> None:
    process = launch(tmp_path)
    wait_for_step(tmp_path, 4)
    process.send_signal(signum)
    _, stderr = process.communicate()
    assert process.returncode == code
    assert "the same command resumes from the checkpoint" in stderr
    assert list(tmp_path.rglob("step-*.pt"))
    assert "Traceback" not in stderr


@pytest.mark.timeout(600 + 60 * NUM_KILLS)
def test_kill_9_at_random_moments_changes_nothing(tmp_path: Path) -> None:
    """NEGBENCH_KILLS sets how many."""
    settings = ("checkpoint_every_min=0.005", "evaluate_every_epochs=4", "model.name=resnet8")  # steps long enough
    undisturbed = launch(tmp_path / "undisturbed", *settings)
    undisturbed.communicate()
    moments = random.Random(0)
    killed = tmp_path / "killed"
    for number in range(NUM_KILLS):
        process = launch(killed, *settings)
        wait_for_step(killed, last_step(killed) + 2 + moments.randrange(2 * 4 * EPOCHS // (3 * NUM_KILLS)))
        time.sleep(moments.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, f"kill {number} came after the end"
    last = launch(killed, *settings)
    last.communicate()
    assert last.returncode == undisturbed.returncode == 0
    resolved = runs.short("adco", f"epochs={EPOCHS}", *settings)
    resumed, whole = (runs.folder(resolved, output) for output in (killed, tmp_path / "undisturbed"))
    runs.assert_same(runs.outcome(resumed), runs.outcome(whole))
    summary = resumed.read_summary()
    assert summary["restarts"] == NUM_KILLS
    assert summary["lost_seconds"] > 0
