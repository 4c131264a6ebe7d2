"""Records of runs, one file of which is damaged, and what `status` and `report` make of them."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import yaml
from typer.testing import CliRunner

from negbench.cli.main import app
from negbench.records.run.data import DataRecord, PartRecord
from negbench.records.status import find_runs, status_of
from negbench.report.read.runs import load
from tests.helpers import benches, records, tunings

VALUES = (  # as JSON or YAML
    *("null", "true", "5", "-1", "1.5", "91.2", "0", "1e999", "NaN", "-Infinity", "1" + 5000 * "0", "1" + 400 * "0"),
    *("1e308", '"text"', '""', '"[/x]"', r'"\ud800"', r'"\u0000"', "[]", "[1]", '["a", {}]', "{}", '{"a": [1]}'),
    *(300 * "[" + 300 * "]", '{"kind": 1}', "2020-01-01", '"2020-01-01"', "!!bool x", '"../../etc"', 400 * "[["),
)
PLACE = "the place of a value"
KINDS = ("cut", "bytes", "zeros", "whole", "value", "key", "twice", "line", "mark")


def make_folders(output: Path) -> list[Path]:
    """Folders of four runs in different states, of a tuning, and of a bench with a run."""
    study = records.study(output / "study", "damage", "diagnostics: true\n")
    runs, tuned, benched = (output / name for name in ("runs", "tuned", "benched"))
    figures: dict[str, Any] = {"alignment": 0.5, "spread": 0.9}
    source = {"negatives": 10.0, "effective_negatives": 5.0, "false_negative_mass": 0.1}
    described = [figures | {"sources": {"queue": source}}] * 5
    for method, seed, knn in (("moco", 0, 0.5), ("moco", 1, 0.6), ("adco", 0, 0.7)):
        records.write(runs, study, method, seed, knn, curve=(0.1, 0.2, 0.3, 0.4, knn), diagnostics=described)
    stopped = records.write(runs, study, "adco", 1, 0.7, state="failed", error="KeyError: 'x'", curve=[0.1] * 5)
    lock = {"attempt": 1, "pid": 1, "host": "here", "started": "2026-11-25T12:00:00+0000"}
    note = {"launcher": "local", "job_id": "99999999", "folder": str(output), "num_ranks": 1, "command": ["negbench"]}
    note["settings"] = {"study": "damage", "method": "adco", "seed": 1, "label": "adco (lr=1)", "changed": {"lr": 1}}
    part = PartRecord(images=100, names="0123", contents="4567", num_compared=100)
    data = DataRecord(classes=("a", "b"), train=part, test=part)
    for folder in find_runs(runs):
        (folder / "run.lock").write_text(json.dumps(lock))
        (folder / "job.json").write_text(json.dumps(note))
        (folder / "data.json").write_text(data.model_dump_json())
        (folder / "evaluations").mkdir()
        knn = json.loads((folder / "summary.json").read_text())["knn_top1"]
        (folder / "evaluations" / "knn.json").write_text(json.dumps({"trained": {"top1": {"20": knn}}}))
    assert not stopped.done.exists()
    study = tunings.study_file(output / "study", "  optimizer.lr: [0.1, 0.2, 0.4, 0.8]\n")
    tunings.finished(tuned, study, {"moco": [0.3, 0.5], "adco": [0.4, None]})
    subjects = [benches.subject(name, [0.1, 0.2, 0.3]) for name in ("moco", "adco")]
    benches.write(
        benched / "bench-golden", [("study", None, [*subjects, benches.subject("bare 2+2", [0.1] * 3, "bare")])]
    )
    shutil.copytree(find_runs(runs)[0], benched / find_runs(runs)[0].name)
    return [runs, tuned, benched]


def files_of(folder: Path) -> list[Path]:
    """The records in a folder that may be damaged."""
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and path.suffix in (".json", ".jsonl", ".yaml", ".lock")
    )


def damaged(path: Path, random: Random) -> tuple[str, bytes]:
    """The kind of a damage, and the content that a file has after it."""
    content, kind = path.read_bytes(), random.choice(KINDS)
    place = random.randrange(len(content))
    if kind == "cut":
        return kind, content[:place]
    if kind == "bytes":
        changed = bytearray(content)
        for _ in range(random.randrange(1, 9)):
            changed[random.randrange(len(content))] = random.randrange(256)
        return kind, bytes(changed)
    if kind == "zeros":
        return kind, content[:place] + bytes(min(50, len(content) - place)) + content[place + 50 :]
    if kind == "mark":
        return kind, b"\xef\xbb\xbf" + content
    value = random.choice(VALUES)
    if kind == "whole":
        return kind, value.encode()
    lines = content.decode().splitlines(keepends=True) if path.suffix == ".jsonl" else [content.decode()]
    number = random.randrange(len(lines))
    if kind == "line":
        other = lines[random.randrange(len(lines))]
        return kind, "".join(
            [*lines[:number], *random.choice(([], [other], [other, lines[number]])), *lines[number + 1 :]]
        ).encode()
    lines[number] = _with_another(kind, lines[number], value, path.suffix == ".yaml", random)
    return kind, "".join(lines).encode()


def _with_another(kind: str, text: str, value: str, is_yaml: bool, random: Random) -> str:
    """A document in which one place holds `value`, lacks its key, or has it twice."""
    tree = yaml.safe_load(text) if is_yaml else json.loads(text)
    holder, key = random.choice(list(_places(tree)))
    if kind == "key":
        del holder[key]
    else:
        holder[key] = PLACE
    end = "\n" if text.endswith("\n") else ""
    written = json.dumps(tree) + end
    twice = f'{value}, "{key}": {value}' if kind == "twice" and isinstance(holder, dict) else value
    return written.replace(json.dumps(PLACE), twice)


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in pairs:
        yield tree, key
        if isinstance(value, dict | list) and value:
            yield from _places(value)


def look(folder: Path) -> dict[str, Any]:
    """What `status` and a report say of each run, by its name. Raises what their commands raise."""
    for command in (["status", "--output", str(folder)], ["report", str(folder), "--tables-only"]):
        result = CliRunner().invoke(app, command)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
    runs = find_runs(folder)
    statuses = {path.name: json.dumps(asdict(status_of(path, {}))) for path in runs}
    return {run.name: (statuses[run.name], run.state, run.reason, run.summary) for run in load(runs)}


def check(folder: Path, path: Path, content: bytes, before: dict[str, Any]) -> str:
    """Give a file that content for a while, and return the state of its run in a report; empty if it is of no run.

    AssertionError if another run's rows differ from `before`.
    """
    kept = path.read_bytes()
    path.write_bytes(content)
    try:
        now = look(folder)
    finally:
        path.write_bytes(kept)
    names = {path.parent.name, path.parent.parent.name} & before.keys()
    assert {name: now[name] for name in now.keys() - names} == {name: before[name] for name in before.keys() - names}
    return "".join(now[name][1] for name in names)
