"""Show that a change of the code changes no result: what two revisions make is compared bit for bit.

    python -m benchmarks.same_results HEAD~3                     # beside the working tree
    python -m benchmarks.same_results main HEAD --keep DIR       # a revision's results are kept in DIR, and found there

Each revision is installed by pip into a folder of its own and runs the commands of benchmarks/same_commands.py: runs of
all methods, evaluations by every protocol, exports, a tuning, plans and reports, among them those of results/reference.
OLD's studies and records are given to both. One thread of a CPU takes some minutes for a revision.

Numbers, keys, columns, tensors, identifiers and files that differ are printed, and the exit code is 1. What is under a
key in `MEASURED` is a time, memory or a place, and may differ. Texts that differ, which are strings with a space, pages
and pictures, are listed and do no harm. `RENAMED` says which keys OLD wrote under another name, `ADDED` which it lacks.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import same_commands
from benchmarks.same_files import leaves, read

ROOT = Path(__file__).parents[1]
WORK = Path(tempfile.gettempdir()) / "negbench-same-results"  # records name files by their path, so there is one place
INPUT_FOLDERS = {"configs": "configs", "reference": "results/reference"}
NOT_MADE = (*INPUT_FOLDERS, "home", "log")  # in a revision's results, and not to be compared
RENAMED: dict[str, str] = {}  # "summary.json:OLD_KEY": "NEW_KEY", at any depth of that file; a column of a table alike
ADDED = {  # keys that NEW alone may have, at any depth of the file
    "summary.json": frozenset(("ending", "changed")),
    "environment.json": frozenset(("changed", "changes", "method_code", "results_version", "decoders")),
    "job.json": frozenset(("changed",)),
    "encoder.json": frozenset(("version", "negbench_version")),
    "bench.json": frozenset(("loggers", "version", "data.version", "decoders")),
    **dict.fromkeys(("config.yaml", "report.json"), frozenset(("loggers", "version", "data.version"))),
}
ADDED_TO_CHECKPOINTS = frozenset(("version", "negbench_version", "run_id", "metrics_sha256"))
ADDED_FILES = re.compile(r"(.*/)?(data\.json|changes.*\.patch|code/.*\.py)")
MEASURED = frozenset(  # but in `reports`, which are of the same records
    (
        *("time", "started", "seconds", "train_seconds", "step_seconds", "epoch_seconds", "epoch_seconds_median"),
        *("epoch_start_seconds", "eval_seconds", "checkpoint_seconds", "data_wait_seconds", "lost_seconds"),
        *("data_wait_share", "loader_bound", "images_per_second", "views_per_second", "device_hours"),
        *("joules", "energy_joules", "peak_memory_bytes", "peak_reserved_bytes", "metrics_bytes"),
        "metrics_sha256",
        *("load_average", "pid", "host", "hostname"),
        "sha256",  # of a checkpoint, which holds times; its tensors are compared
    )
)
MEASURED_IN = {  # further keys, by the folder in a revision's results; in `bench` all are
    "measured": frozenset(
        (
            *("findings", "cautions", "epoch_seconds_q1", "epoch_seconds_q3", "end_to_end_seconds"),
            *(f"{key}_{kind}" for key in ("train_seconds", "device_hours") for kind in ("median", "low", "high")),
            *("ratio_mean", "ratio_low", "ratio_high"),
        )
    ),
    "plan": frozenset(
        (
            *("cautions", "checkpoints", "computing_seconds", "parts_seconds", "step_peak_bytes"),
            *("computing_seconds_lower_quartile", "computing_seconds_upper_quartile", "read_bytes_per_second"),
            *("decoded_images_per_second_per_core", "decoding_cores", "decoding_cores_per_node"),
            *("workers_per_process_needed", "encoded_images_per_second", "knn_seconds_per_pair"),
            "probe_seconds_per_step",
        )
    ),
}
TEXTS = frozenset({"label", "title", "note", "error", "reason"})  # keys of texts that need no space
SHOWN_OF_A_FILE = 5


@dataclass
class Found:
    """What a comparison has counted and seen."""

    counts: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)
    texts: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # where a text became another one

    def show(self) -> None:
        print(f"compared: {', '.join(f'{count:,} {what}' for what, count in sorted(self.counts.items()))}")
        for (old, new), places in self.texts.items():
            more = f" and {len(places) - 1} more" if len(places) > 1 else ""
            print(f"changed text: {places[0]}{more}: {old[:100]!r} -> {new[:100]!r}")
        print("\n".join(self.differences) or "nothing differs")


def compare(old: Path, new: Path) -> Found:
    """All files below the two folders."""
    found = Found()
    files = [_files(top) for top in (old, new)]
    for name in sorted(files[0].keys() | files[1].keys()):
        if name in files[0] and name in files[1]:
            _compare_files(files[0][name], files[1][name], Path(name), found)
        elif name in files[1] and ADDED_FILES.fullmatch(name):
            found.counts["added files"] += 1
        else:
            found.differences.append(f"{name}: is {'missing' if name in files[0] else 'new'}")
    return found


def _files(top: Path) -> dict[str, Path]:
    """What is compared, by name: without a bench's date, and the digest of a checkpoint, which holds times."""
    paths = [path.relative_to(top) for path in top.rglob("*") if path.is_file()]
    compared = [path for path in paths if path.parts[0] not in NOT_MADE and _is_compared(path)]
    return {re.sub(r"-\d{8}-\d{6}/|(?<=encoder-step-\d{8})-\w{8}/", "/", str(path)): top / path for path in compared}


def _is_compared(name: Path) -> bool:
    """Pictures and pages of what was measured here differ each time, and digests of files that hold times."""
    if name.name in ("run.lock", "manifest.json") or name.suffix in (".sha256", ".log", ".pdf", ".svg"):
        return False
    return name.parts[0] not in ("measured", "bench") or name.suffix in (".csv", ".json")


def _compare_files(old_file: Path, new_file: Path, name: Path, found: Found) -> None:
    old, new = (_leaves_of(path, name.name, names) for path, names in ((old_file, RENAMED), (new_file, {})))
    found.counts["files"] += 1
    found.counts["runs"] += name.name == "metrics.jsonl"
    found.counts["rows of metrics"] += len({path[0] for path in old}) if name.suffix == ".jsonl" else 0
    measured = frozenset() if name.parts[0] == "reports" else MEASURED | MEASURED_IN.get(name.parts[0], frozenset())
    differences = []
    added = ADDED_TO_CHECKPOINTS if name.suffix == ".pt" else ADDED.get(name.name, frozenset())
    for path in [*old, *(path for path in new if path not in old)]:
        where = f"{name}: {'.'.join(path)}"
        if path not in old and added.intersection(path):
            found.counts["added values"] += 1
        elif path not in new or path not in old:
            differences.append(f"{where} is {'missing' if path in old else 'new'}")
        elif name.parts[0] == "bench" or measured.intersection(path):
            found.counts["measurements, by key alone"] += 1
        elif _is_text(old[path], path) and _is_text(new[path], path):
            found.counts["texts"] += 1
            if old[path] != new[path]:
                found.texts.setdefault((old[path], new[path]), []).append(where)
        else:
            kind = {".csv": "cells", ".md": "cells"}.get(name.suffix, "values")
            found.counts["tensors" if isinstance(old[path], torch.Tensor) else kind] += 1
            if told := _difference(old[path], new[path]):
                differences.append(f"{where}: {told}")
    found.differences += differences[:SHOWN_OF_A_FILE]
    if rest := len(differences) - SHOWN_OF_A_FILE:
        found.differences += [f"{name}: and {rest} more"] if rest > 0 else []


def _is_text(value: Any, path: tuple[str, ...]) -> bool:
    return type(value) is str and (" " in value or not TEXTS.isdisjoint(path))


def _difference(old: Any, new: Any) -> str:
    """What differs, empty if nothing does; numbers are as equal as their bits."""
    if isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor):
        if (old.dtype, old.shape) != (new.dtype, new.shape):
            return f"{old.dtype} {list(old.shape)} -> {new.dtype} {list(new.shape)}"
        flat = (tensor.flatten().clone(memory_format=torch.contiguous_format) for tensor in (old, new))
        bytes_of = [tensor.view(torch.uint8).view(-1, tensor.element_size()) for tensor in flat]
        if torch.equal(*bytes_of):
            return ""
        differing = (bytes_of[0] != bytes_of[1]).any(dim=1).nonzero().flatten()
        first = [tensor.flatten()[differing[0]].item() for tensor in (old, new)]
        return f"{len(differing)} of {old.numel()} elements, {first[0]} -> {first[1]}"
    return "" if type(old) is type(new) and repr(old) == repr(new) else f"{old!r} -> {new!r}"


def _leaves_of(file: Path, name: str, renamed: dict[str, str]) -> dict[tuple[str, ...], Any]:
    """Everything in a file by its keys, which have the names that NEW gives them."""
    found = leaves(read(file))
    return {tuple(renamed.get(f"{name}:{key}", key) for key in path): leaf for path, leaf in found}


def _git(*arguments: str, **env: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=True).stdout.strip()


def commit_of(revision: str | None) -> str:
    """The commit's hash; of the working tree a tree's, or that of HEAD if nothing has been changed."""
    if revision is not None:
        return _git("rev-parse", "--verify", f"{revision}^{{commit}}")
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": f"{folder}/index"}
        _git("read-tree", "HEAD", **index)
        _git("add", "--all", **index)
        tree = _git("write-tree", **index)
    return _git("rev-parse", "HEAD") if tree == _git("rev-parse", "HEAD^{tree}") else tree


def results(commit: str, old: str, keep: Path) -> Path:
    """What `commit` makes of the studies and records of `old`: the folder in `keep`, made if it is not there."""
    inputs = {name: _git("rev-parse", f"{old}:{path}") for name, path in INPUT_FOLDERS.items()}
    commands = Path(same_commands.__file__).read_text()
    machine = [torch.__version__, platform.python_version(), torch.backends.cpu.get_cpu_capability()]
    facts = json.dumps([inputs, commands, *machine, _processor()])
    kept = keep / f"{commit[:12]}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"
    if kept.exists():
        print(f"{commit[:12]}: results are in {kept}")
        return kept
    print(f"{commit[:12]}: running negbench's commands", flush=True)
    try:
        WORK.mkdir()
    except FileExistsError:
        raise RuntimeError(f"{WORK} exists: another comparison runs, or was killed; then delete it") from None
    try:
        lib, work = WORK / "lib", WORK / "work"
        same_commands.install(commit, ROOT, lib)
        for name, tree in inputs.items():
            same_commands.extract(tree, ROOT, work / name)
        same_commands.run_all(lib, work)
        keep.mkdir(parents=True, exist_ok=True)
        shutil.move(work, kept)
    finally:
        shutil.rmtree(WORK)
    return kept


def _processor() -> str:
    match = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return match[1] if match else platform.processor()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", metavar="OLD", help="a revision")
    parser.add_argument("new", metavar="NEW", nargs="?", help="another. Default: the working tree")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where results of revisions are kept and looked for")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        keep = options.keep or Path(folder)
        old = commit_of(options.old)
        try:
            made = [results(commit, old, keep) for commit in (old, commit_of(options.new))]
        except RuntimeError as error:
            print(error)
            return 1
        found = compare(*made)
    found.show()
    return 1 if found.differences else 0


if __name__ == "__main__":
    sys.exit(main())
