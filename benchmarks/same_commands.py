"""What `benchmarks.same_results` runs with a revision: a fixed list of negbench's commands, all of them small.

Nothing of negbench is imported here: a revision is installed into a folder of its own, and its commands run in forked
processes that find negbench there and nowhere else.
"""

import importlib
import os
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import yaml

from tests.helpers import layouts

METHODS = ("adco", "moco", "simclr", "byol")
STUDY = """
data: {name: patterns, image_size: 8, num_images: 70, workers: 0}
views: patterns
model: {name: resnet8}
projector: {hidden: 16, dim: 8}
epochs: 3
batch_size: 16
batch_norm: split
batch_norm_splits: 2
precision: fp32
schedule: {warmup_epochs: 1}
evaluate_every_epochs: 1
log_every_steps: 2
evaluation: {linear_epochs: 2, protocols: knn-moco-demo}
per_method:
  adco: {method: {num_negatives: 40}}
  moco: {method: {num_negatives: 40}}
  byol: {method: {predictor_hidden: 8}}
tuning:
  optimizer.lr: [0.05, 0.1, 0.2]
  per_method: {moco: {method.temperature: [0.1, 0.2, 0.5]}}
"""
CROPS = "views.crops=[{size: 8, scale: [0.1, 0.4], num: 2}]"
FOLDER = ("data.name=imagefolder", "data.root=data/birds", "data.num_images=null")
VARIANTS = (
    *((method, CROPS) for method in METHODS),
    ("moco", CROPS, "method.symmetric=true"),
    ("moco", "method.symmetric=true", "method.mask_own_image=true"),
    *((method, "method.num_negatives=70000", "epochs=1") for method in ("adco", "moco")),  # contrasted in blocks
    ("adco", "method.in_batch_negatives=false", "method.symmetric=true"),
    *(("adco", setting) for setting in ("method.start=random", "method.update=none", "method.update=descend")),
    ("adco", "batch_norm=process", "optimizer.name=adamw", "optimizer.lr=0.001", "schedule.per_epoch=true"),
    ("simclr", "precision=bf16", "optimizer.name=lars", "optimizer.clip=true", "projector.output_batch_norm=true"),
    ("byol", "method.symmetric=false", "method.key_momentum_schedule=constant", "optimizer.exclude=norm-and-bias"),
    ("byol", "track=recipe", "evaluation.protocols=[knn-lightly,knn-moco-demo]"),
    ("moco", *FOLDER),
    ("moco", *FOLDER, "data.root=data/packed", "seed=1"),
)
CLASSIFIERS = ("linear-moco", "linear-adco", "finetune", "semi-1", "semi-10")
QUICK = ("--set", "epochs=2", "--set", "batch_size=64")
PRELOADED = ("torch._dynamo", "torchvision.transforms.v2", "pandas", "scipy.stats", "sklearn.linear_model")
STRANGER = 99  # the exit code of a command that has found a negbench elsewhere
WITHOUT_CHECKOUT = """import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
"""


@dataclass(frozen=True)
class Command:
    """`negbench ARGUMENTS`; those with a * name the one file that matches. Called again if `signum` ended it."""

    name: str
    arguments: Sequence[str]
    ranks: int = 1
    signum: int = 0  # what all ranks are sent when the first checkpoint is there
    shown: str = ""  # the file in which what it prints is kept


def run(method: str, output: str, *settings: str, name: str = "", ranks: int = 1, signum: int = 0) -> Command:
    given = [part for text in settings for part in ("--set", text)]
    arguments = ["run", "--method", method, "--config", "same.yaml", *given, "--device", "cpu", "--output", output]
    return Command(name or " ".join((method, *settings)), [*arguments, "--quiet"], ranks, signum)


def commands(work: Path) -> Iterator[Command]:
    """All of them, in order. `work` holds `configs` and `reference`, which are the same for both revisions."""
    yield Command("pack", ["data", "pack", "data/birds", "data/packed"])
    yield Command("verify", ["data", "verify", "data/packed"])
    for method in METHODS:
        yield run(method, "runs")
        yield run(method, "runs", "seed=1")
    for method, *settings in VARIANTS:
        yield run(method, "variants", *settings)
    for method in METHODS:
        norm = "batch_norm=shuffled" if method in ("adco", "moco") else "batch_norm=sync"
        yield run(method, "two", norm, name=f"{method}, two ranks", ranks=2)
    yield run("moco", "two", "batch_norm=sync", CROPS, name="crops, two ranks", ranks=2)
    launched = run("adco", "launched", "batch_norm=process", name="launched")
    yield Command("launched", [*launched.arguments, "--processes-per-node", "2"])
    for method, signum, ranks in (("adco", 9, 1), ("byol", 9, 1), ("simclr", 15, 1), ("moco", 15, 2)):
        yield run(method, "stopped", "epochs=8", name=f"{method}, signal {signum}", ranks=ranks, signum=signum)
    yield run("moco", "exported", "model.name=resnet18", "model.stem=imagenet", "epochs=1", name="resnet18")
    yield from _evaluations()
    tiny = ["--config", "same.yaml", "--device", "cpu"]
    yield Command(
        "tune", ["tune", "--methods", "moco", "--trials", "2", *tiny, "--set", "epochs=1", "--output", "tuned"]
    )
    yield Command("sweep", ["sweep", "--methods", "simclr", "--seeds", "2:3", *tiny, "--output", "runs"])
    yield Command("bench", ["bench", "--methods", "adco", *tiny, "--rounds", "2", "--output", "bench"])
    shape = ["--processes-per-node", "2", "--device", "cpu", "--seconds", "0", "--json"]
    few = ["--set", "batch_size=16", "--set", "data.image_size=32", "--num-images", "1000000"]
    for study, options in (("same.yaml", ["--method", "moco"]), ("paper/adco-imagenet-200", few)):
        name = f"plan/{Path(study).stem}.json"
        yield Command(name, ["plan", "--config", study, *options, *shape], shown=name)
    yield Command("methods", ["methods"], shown="shown/methods.txt")
    for path in sorted((work / "configs").rglob("*.yaml")):
        study = path.relative_to(work / "configs").with_suffix("").as_posix()
        for method in _methods_of(path):
            named = ["--method", method] if method else []
            shown = f"shown/{study} {method}.table".replace(" .", ".")
            yield Command(shown, ["config", "--config", study, *named], shown=shown)
    yield Command("report", ["report", "runs", "--output", "measured/report"])
    yield Command("report of tuning", ["report", "tuned/same-tuning", "--output", "measured/tuning"])
    for folder in sorted(path for path in (work / "reference").iterdir() if path.is_dir()):
        held = {path.parent.parent for name in ("summary.json", "bench.json") for path in folder.rglob(name)}
        if held:
            parts = sorted(str(path.relative_to(work)) for path in held)
            output = f"reports/{folder.name}"
            yield Command(output, ["report", *parts, "--output", output], shown=f"shown/report-{folder.name}.txt")


def _methods_of(study: Path) -> list[str]:
    """Those that the study has settings for, or an empty one where it names one itself."""
    raw = yaml.safe_load(study.read_text())
    return [""] if "method" in raw else list(raw.get("per_method") or METHODS)


def _evaluations() -> Iterator[Command]:
    """Every protocol, of a run and of a file, and the files themselves."""
    for format in ("torchvision", "timm", "safetensors", "detectron2", "onnx"):
        suffix = {"torchvision": "pth", "timm": "safetensors", "detectron2": "pkl"}.get(format, format)
        output = f"exports/{format}.{suffix}"
        yield Command(output, ["export", "exported/same-moco-*", "--format", format, "--output", output])
    options = {
        "standard": ["--protocol", "knn", "--protocol", "linear"],
        "classifiers": [part for name in CLASSIFIERS for part in ("--protocol", name)] + list(QUICK),
        "transfer": ["--protocol", "transfer", "--data", "data/birds", "--set", "num_strengths=3"],
        "voc07": ["--protocol", "voc07", "--data", "data/voc", "--set", "costs=[0.1, 1]"],
        "places205": ["--protocol", "places205", "--data", "data/places", *QUICK],
    }
    of_file = ["--config", "same.yaml", "--output", "files"]
    for name, asked in options.items():
        yield Command(f"{name} of a run", ["evaluate", "exported/same-moco-*", *asked, "--device", "cpu"])
        file = ["evaluate", "exports/torchvision.pth", *asked, *of_file, "--device", "cpu"]
        yield Command(f"{name} of a file", file)
    checkpoint = ["evaluate", "runs/same-byol-s1-*/checkpoints/step-*12.pt", "--protocol", "knn-moco-demo", *of_file]
    yield Command("a checkpoint's file", [*checkpoint, "--device", "cpu"])


def install(tree: str, root: Path, lib: Path) -> None:
    """The package of the git tree `tree` as pip installs it, in `lib`. RuntimeError if Python finds another there."""
    checkout = lib.with_name("checkout")
    extract(tree, root, checkout)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--no-index"]
    pip += ["--no-build-isolation", "--target", str(lib), str(checkout)]
    subprocess.run(pip, check=True)
    (lib / "sitecustomize.py").write_text(WITHOUT_CHECKOUT)
    ask = "import negbench, sys; print(negbench.__file__, *map(str, sys.meta_path))"
    found = subprocess.run(
        [sys.executable, "-P", "-c", ask], env=os.environ | {"PYTHONPATH": str(lib)}, capture_output=True, text=True
    )
    if not found.stdout.startswith(f"{lib}/") or "__editable__" in found.stdout:
        raise RuntimeError(f"negbench of {tree} is not found in {lib}: {found.stdout}{found.stderr}")


def extract(tree: str, root: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    archive = subprocess.run(["git", "-C", str(root), "archive", tree], capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)


def run_all(lib: Path, work: Path) -> None:
    """All commands in `work` with the negbench in `lib`. RuntimeError for one that does not end as it must."""
    (work / "same.yaml").write_text(STUDY)
    layouts.image_folder(work / "data/birds", train=20)
    layouts.voc07(work / "data/voc")
    layouts.places205(work / "data/places")
    for name in ("log", "exports"):
        (work / name).mkdir()
    for name in PRELOADED:
        importlib.import_module(name)
    for number, command in enumerate(commands(work)):
        started = time.monotonic()
        log = work / "log" / f"{number:03}"
        codes = _executed(command, lib, work, log)
        if command.signum:
            expected = 128 + command.signum if command.signum == 15 else -command.signum
            if set(codes) != {expected}:
                raise RuntimeError(f"{command.name} ended with {codes} before the signal, or not by it; see {log}")
            codes = _executed(command, lib, work, log, again=True)
        if any(codes):
            raise RuntimeError(f"{command.name} ended with {codes}:\n{log.with_suffix('.err').read_text()[-3000:]}")
        if command.shown:
            shown = work / command.shown
            shown.parent.mkdir(parents=True, exist_ok=True)
            shown.write_text(log.with_suffix(".out").read_text())
        print(f"  {time.monotonic() - started:5.1f} s  {command.name}", flush=True)


def _executed(command: Command, lib: Path, work: Path, log: Path, again: bool = False) -> list[int | None]:
    """The exit code of each rank."""
    arguments = [str(_only(work, text)) if "*" in text else text for text in command.arguments]
    ranks: list[Mapping[str, str]] = [{}]
    if command.ranks > 1:
        place = {"WORLD_SIZE": str(command.ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        ranks = [place | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(command.ranks)]
    processes = [
        get_context("fork").Process(
            target=_negbench,
            args=(arguments, lib, work, env, log if not number else log.with_name(f"{log.name}-{number}")),
        )
        for number, env in enumerate(ranks)
    ]
    for process in processes:
        process.start()
    if command.signum and not again:
        _send(command, processes, work)
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def _send(command: Command, processes: Sequence[BaseProcess], work: Path) -> None:
    output = work / command.arguments[command.arguments.index("--output") + 1]
    method = command.arguments[command.arguments.index("--method") + 1]
    while not list(output.glob(f"*-{method}-*/checkpoints/step-*.pt")) and processes[0].is_alive():
        time.sleep(0.002)
    for process in processes:
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, command.signum)


def _negbench(arguments: Sequence[str], lib: Path, work: Path, env: Mapping[str, str], log: Path) -> None:
    """In a forked process: `python -m negbench.cli ARGUMENTS` with the negbench in `lib`."""
    assert "negbench" not in sys.modules
    os.chdir(work)
    for number, suffix in enumerate((".out", ".err"), start=1):
        os.dup2(os.open(log.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    home = {f"XDG_{kind}_HOME": str(work / "home") for kind in ("CACHE", "CONFIG")}
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(lib), "PYTHONHASHSEED": "0", **home, **env}
    sys.modules["torch"].set_num_threads(1)
    sys.path[:] = [str(lib), *(path for path in sys.path[1:] if not (Path(path) / "negbench").exists())]
    exec(WITHOUT_CHECKOUT)
    sys.argv = ["negbench", *arguments]
    try:
        runpy.run_module("negbench.cli", run_name="__main__", alter_sys=True)
    finally:
        ours = [module for name, module in sys.modules.items() if name.partition(".")[0] == "negbench"]
        files = [str(file) for module in ours if (file := getattr(module, "__file__", None))]
        if strangers := [file for file in files if not file.startswith(f"{lib}/")]:
            print(f"these are not of {lib}: {strangers}", file=sys.stderr, flush=True)
            os._exit(STRANGER)


def _only(work: Path, pattern: str) -> Path:
    """The path that matches, relative to `work`. RuntimeError unless there is exactly one."""
    found = list(work.glob(pattern))
    if len(found) != 1:
        raise RuntimeError(f"{pattern} matches {[path.name for path in found]}, and should match one")
    return found[0].relative_to(work)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
