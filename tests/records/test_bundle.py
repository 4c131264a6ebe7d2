"""Runs that are verified, bundled, unpacked elsewhere and repeated."""

import hashlib
import importlib
import json
import shutil
import stat
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from negbench.cli.main import app
from negbench.data.reuse import Reuse
from negbench.launch.rerun import importable
from negbench.records.checks import bundle
from negbench.records.checks.manifest import MANIFEST, write_manifest
from negbench.records.checks.repeat import compare
from negbench.records.checks.same import check_records
from negbench.records.run_folder import RunFolder
from negbench.runtime.errors import UserError
from tests.data.test_fingerprint import image_folder
from tests.helpers import runs
from tests.helpers.processes import ARGUMENTS, finished

METHOD = "from negbench.methods.simclr import Config, build\nimport {helper}\n"


def negbench(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    resolved, output = runs.short("moco"), tmp_path_factory.mktemp("made")
    runs.start(resolved, output)
    return output / resolved.run_id


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "results" / made.name))


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content)))


def test_a_run_as_it_was_written_verifies(run: Path) -> None:
    assert negbench("verify", run) == (0, f"{run}: verified 1 of 1 runs verified")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: edit(run / "summary.json", lambda s: s | {"knn_top1": 0.9}), "summary.json was changed"),
        (
            lambda run: edit(run / "evaluations" / "knn.json", lambda e: e | {"x": 1}),
            "evaluations/knn.json was changed",
        ),
        (lambda run: (run / "metrics.jsonl").write_text(""), "metrics.jsonl was changed after the run's end"),
        (lambda run: (run / "data.json").unlink(), "data.json is missing"),
        (lambda run: (run / "code" / "methods" / "moco.py").write_text("x = 1"), "code/methods/moco.py was changed"),
        (lambda run: (run / "evaluations" / "voc07.json").write_text("{}"), "voc07.json is not in manifest.json"),
        (lambda run: (run / MANIFEST).write_text("[1]"), "manifest.json is damaged"),
        (lambda run: next(run.glob("checkpoints/*.pt")).write_bytes(b"x"), "does not have its checksum"),
    ],
)
def test_what_was_changed_after_the_end_is_named(run: Path, change: Callable[[Path], Any], said: str) -> None:
    change(run)
    code, output = negbench("verify", run)
    assert code == 1 and said in output
    assert "0 of 1 runs verified" in output


@pytest.mark.parametrize(
    ("name", "rewrite"),
    [
        ("summary.json", lambda text: json.dumps(json.loads(text))),
        ("summary.json", lambda text: "\ufeff" + text.replace("\n", "\r\n")),
        ("metrics.jsonl", lambda text: text.replace("\n", "\r\n")),
        ("config.yaml", lambda text: text.replace("\n", "\r\n")),
    ],
)
def test_other_white_space_of_a_record_is_told_and_no_problem(
    run: Path, name: str, rewrite: Callable[[str], str]
) -> None:
    (run / name).write_text(rewrite((run / name).read_text()), newline="")
    code, output = negbench("verify", run)
    assert code == 0 and f"? {name} differs in bytes from what the run wrote, not in content" in output


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda run: edit(run / "summary.json", lambda s: s | {"knn_top1": 0.9}),
            "its summary.json is damaged (summary",
        ),
        (lambda run: edit(run / "summary.json", lambda s: {"knn_top1": 0.9}), "its summary.json is damaged (summary"),
        (lambda run: edit(run / "summary.json", lambda s: s | {"label": "x"}), "was changed after the run's end"),
        (lambda run: (run / "summary.json").unlink(), "its summary.json is damaged (summary.json is missing"),
        (lambda run: (run / "metrics.jsonl").write_text(""), None),
        (lambda run: (run / "evaluations" / "knn.json").unlink(), None),
        (lambda run: (run / "config.yaml").write_text("[1]"), None),
    ],
)
def test_a_finished_run_is_not_reported_from_a_changed_summary(
    run: Path, change: Callable[[Path], Any], said: str | None
) -> None:
    change(run)
    notes: list[str] = []
    if said is None:
        check_records(RunFolder(run), notes.append)
        assert len(notes) == 1 and notes[0].startswith(f"caution: {run} does not verify: ")
        return
    with pytest.raises(UserError) as error:
        Reuse(notes.append).check(RunFolder(run), runs.short("moco"))
    assert said in str(error.value) and "put the file back, or make the run anew with --fresh" in str(error.value)


def test_a_manifest_that_cannot_be_read_is_kept(run: Path) -> None:
    (run / MANIFEST).write_text("[1]")
    write_manifest(RunFolder(run), ["evaluations/knn.json"])
    assert (run / MANIFEST).read_text() == "[1]"


@pytest.mark.parametrize("content", ["", "null", "{}", "epochs: 3"])
def test_settings_that_are_not_whole_are_not_filled_up_to_evaluate(run: Path, content: str) -> None:
    (run / "config.yaml").write_text(content)
    (run / "data.json").unlink()
    code, output = negbench("evaluate", run, "--protocol", "knn", "--device", "cpu")
    assert code == 2 and f"{run / 'config.yaml'} is damaged" in output


def test_what_an_earlier_run_lacks_is_unknown(run: Path) -> None:
    for name in (MANIFEST, "data.json"):
        (run / name).unlink()
    code, output = negbench("verify", run)
    assert code == 0
    assert f"? it has no {MANIFEST}" in output and "? its data is not on record" in output


def test_a_later_evaluation_enters_the_manifest(run: Path) -> None:
    assert negbench("evaluate", run, "--protocol", "knn", "--device", "cpu")[0] == 0
    assert negbench("verify", run)[0] == 0


def test_a_bundle_is_repeated_elsewhere_bit_for_bit(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "moco.zip"
    assert negbench("bundle", run.parent, file, "--encoder")[0] == 0
    written = file.read_bytes()
    file.unlink()
    assert negbench("bundle", run, file, "--encoder")[0] == 0
    assert file.read_bytes() == written
    shutil.rmtree(run)
    for option in ([], ["--evaluate-only"]):  # the second finds the bundle unpacked
        code, output = negbench("rerun", file, "--output", tmp_path / "again", "--device", "cpu", "--quiet", *option)
        assert code == 0 and output.endswith("1 of 1 runs are the same, bit for bit"), output
    assert negbench("verify", tmp_path / "again")[0] == 0


def test_what_is_not_the_same_again_is_named(run: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    number = next(i for i, row in enumerate(rows) if row["kind"] == "train" and row["step"] == 4)
    rows[number]["loss"] += 1e-7
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, output = negbench("rerun", run, "--output", tmp_path / "again", "--device", "cpu", "--quiet")
    assert code == 1 and "metrics.jsonl differs first at step 4: loss is" in output
    assert output.endswith("0 of 1 runs are the same, bit for bit")


def test_another_seed_is_another_run(run: Path, tmp_path: Path) -> None:
    code, output = negbench("rerun", run, "--output", tmp_path / "again", "--device", "cpu", "--quiet", "--seed", 5)
    assert code == 0 and "knn_top1" in output and "the same" not in output
    assert [path.name.partition("-s5-")[0] for path in (tmp_path / "again").iterdir()] == ["quickstart-moco"]


def test_a_run_is_not_repeated_into_itself_on_other_data_or_by_other_code(run: Path, tmp_path: Path) -> None:
    code, output = negbench("rerun", run, "--output", run.parent, "--device", "cpu")
    assert code == 2 and "is the run itself" in output
    edit(run / "environment.json", lambda e: e | {"method_code": "other", "git_revision": "abc"})
    code, output = negbench("rerun", run, "--output", tmp_path / "again", "--device", "cpu")
    assert code == 2 and "was made by another code than" in output and "at revision abc" in output
    assert not (tmp_path / "again").exists()


@pytest.mark.processes
def test_a_run_of_two_processes_is_repeated_by_two(tmp_path: Path) -> None:
    where = ("--device", "cpu", "--quiet", "--output")
    code, _, err = finished("run", "--method", "moco", *ARGUMENTS, "--processes-per-node", "2", *where, str(tmp_path))
    assert code == 0, err
    (run,) = tmp_path.iterdir()
    code, out, err = finished("rerun", str(run), *where, str(tmp_path / "again"))
    assert (code, out.splitlines()[-1]) == (0, "1 of 1 runs are the same, bit for bit"), out + err


def test_the_place_of_the_data_may_change_and_nothing_else(tmp_path: Path) -> None:
    images = image_folder(tmp_path / "images", train=35)
    folder = ["data.name=imagefolder", f"data.root={images}", "data.num_images=null", "evaluation.linear=false"]
    resolved = runs.short("simclr", *folder)
    runs.start(resolved, tmp_path / "results")
    moved = images.rename(tmp_path / "moved")
    again = ("rerun", tmp_path / "results" / resolved.run_id, "--output", tmp_path / "again", "--device", "cpu", "-q")
    code, output = negbench(*again, "--set", f"data.root={moved}")
    assert code == 0, output
    (moved / "train" / "a" / "00.png").unlink()
    code, output = negbench(*again, "--set", f"data.root={moved}")
    assert code == 2 and "was made on other data: it has 69 images to train instead of 70" in output
    code, output = negbench(*again, "--set", "epochs=1")
    assert code == 2 and "its settings; only data.root, data.workers, data.fingerprint may be set" in output


def test_code_that_a_bundle_brings_runs_if_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "helper_of_mine.py").write_text(f"open({str(ran)!r}, 'a')\n")
    method = tmp_path / "mine.py"
    method.write_text(METHOD.format(helper="helper_of_mine"))
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        resolved = runs.short(str(method))
        runs.start(resolved, tmp_path / "results")
    assert negbench("bundle", tmp_path / "results", tmp_path / "mine.zip")[0] == 0
    for path in (ran, method, tmp_path / "helper_of_mine.py"):
        path.unlink()
    monkeypatch.delitem(sys.modules, "helper_of_mine")
    monkeypatch.setattr(sys, "path", [*sys.path])
    again = ("rerun", tmp_path / "mine.zip", "--output", tmp_path / "again", "--device", "cpu", "--quiet")
    code, output = negbench(*again)
    assert code == 2 and "add --trust-code" in output and not ran.exists()
    assert negbench("verify", tmp_path / "again" / "mine-bundle" / "runs")[0] == 0 and not ran.exists()
    code, output = negbench(*again, "--trust-code")
    assert code == 0, output
    assert ran.exists()


def test_a_bundle_is_of_finished_runs_that_verify(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.zip"
    copy = shutil.copytree(run, tmp_path / "copies" / run.name)
    with pytest.raises(UserError, match="are copies of one run"):
        bundle.write_bundle(file, [run, copy])
    (run / "data.json").unlink()
    with pytest.raises(UserError, match=r"does not verify: data.json is missing"):
        bundle.write_bundle(file, [run])
    (copy / "done").unlink()
    with pytest.raises(UserError, match="is not finished"):
        bundle.write_bundle(file, [copy])
    assert not file.exists()
    file.write_text("kept")
    with pytest.raises(UserError, match=r"x.zip exists; choose another name"):
        bundle.write_bundle(file, [copy])
    assert file.read_text() == "kept"


def forged(file: Path, name: str, content: bytes = b"x", mode: int = stat.S_IFREG | 0o644, size: int = 1) -> Path:
    entry = {"size": size, "sha256": hashlib.sha256(content).hexdigest()}
    index = {"version": 1, "negbench_version": "0", "files": {name: entry}}
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(bundle.INDEX, json.dumps(index))
        info = zipfile.ZipInfo("placeholder")
        info.filename, info.external_attr = name, mode << 16
        archive.writestr(info, content)
    return file


@pytest.mark.parametrize(
    "name",
    ["../out", "/tmp/out", "a/../../out", "C:/out", "a\\..\\out", "./out", "a//out", ".hidden", "runs/.x/config.yaml"],
)
def test_only_plain_paths_inside_the_folder_are_unpacked(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"is no plain path inside a folder|does not hold the files"):
        bundle.unpack(forged(tmp_path / "b.zip", name), tmp_path / "place" / "folder")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["b.zip"]


RUN = "runs/study-moco-s0-01234567"


def test_links_lies_and_other_files_are_refused_with_a_sentence(tmp_path: Path) -> None:
    folder, name = tmp_path / "folder", f"{RUN}/config.yaml"
    files = {
        "is no plain file": forged(tmp_path / "link.zip", name, b"/etc/passwd", stat.S_IFLNK | 0o777),
        "config.yaml is not as bundle.json says": forged(tmp_path / "size.zip", name, b"x" * 3_000_000),
        "has room for": forged(tmp_path / "room.zip", name, size=2**60),
        f"is damaged: {RUN} does not verify: config.yaml: ": forged(tmp_path / "changed.zip", name),
        "has no bundle.json": tmp_path / "none.zip",
        "is no bundle of negbench, or is damaged": tmp_path / "text.zip",
        "bundle.json: files: Field required": tmp_path / "fields.zip",
        "holds no runs": tmp_path / "empty.zip",
    }
    for damaged, member, files_of in (
        ("none.zip", "other", ""),
        ("fields.zip", bundle.INDEX, ""),
        ("empty.zip", bundle.INDEX, ', "files": {}'),
    ):
        with zipfile.ZipFile(tmp_path / damaged, "w") as archive:
            archive.writestr(member, f'{{"version": 1, "negbench_version": "0"{files_of}}}')
    (tmp_path / "text.zip").write_text("no archive")
    for said, file in files.items():
        with pytest.raises(UserError, match=said):
            bundle.unpack(file, folder)
        assert not folder.exists() and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (f"{RUN}/a\nb.py", "is no plain path"),
        (f"{RUN}/\x1b[31m.py", "is no plain path"),
        (f"{RUN}/code/a\u202eb.py", "is no plain path"),
        (f"{RUN}/code/a .py/x.py", None),
        (f"{RUN}/code/a./x.py", "is no plain path"),
        (f"{RUN}/code/{'x' * 300}.py", "is no plain path"),
        (f"{RUN}/CON:", "is no plain path"),
        (f"{RUN}/CONFIG.YAML", "is no record of a run"),
        (f"{RUN}/extra", "is no record of a run"),
        (f"{RUN}/checkpoints/x/step-00000001.pt", "is no record of a run"),
        (f"{RUN}.zip", "is no record of a run"),
        (f"{RUN.upper()}/config.yaml", "is no record of a run"),
        ("tunings/1/x/extra", "is no record of a run"),
        ("tunings/1/tuning.json", None),
        (f"{RUN}/code/methods/moco.py", None),
        (f"{RUN}/checkpoints/step-00000001.pt.sha256", None),
        (f"{RUN}/changes-2.patch", None),
    ],
)
def test_a_bundle_holds_records_by_plain_names_alone(name: str, said: str | None) -> None:
    reason = bundle._unfit({f"{RUN}/config.yaml": 1, name: 1})
    assert (reason is None) if said is None else (reason is not None and said in reason)


@pytest.mark.parametrize("names", [("a.py", "A.py"), ("caf\u00e9.py", "cafe\u0301.py"), ("a.py", "a.py/b.py")])
def test_two_names_that_some_file_systems_take_for_one_are_refused(names: tuple[str, str]) -> None:
    reason = bundle._unfit([f"{RUN}/code/{name}" for name in names])
    assert reason is not None and "are one on some file systems" in reason


def again(file: Path, output: Path, *options: object) -> tuple[int, str]:
    return negbench("rerun", file, "--output", output, "--device", "cpu", "--quiet", "--evaluate-only", *options)


def rezipped(bundled: Path, file: Path, change: Callable[[dict[str, bytes]], Any]) -> Path:
    """A bundle whose index is right and whose records were changed."""
    with zipfile.ZipFile(bundled) as archive:
        contents = {name: archive.read(name) for name in archive.namelist() if name != bundle.INDEX}
    change(contents)
    entries = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(bundle.INDEX, json.dumps({"version": 1, "negbench_version": "0", "files": entries}))
        for name, content in contents.items():
            archive.writestr(name, content)
    return file


def test_a_bundle_of_changed_or_missing_records_is_refused(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "moco.zip"
    bundle.write_bundle(file, [run], encoder=True)
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name != bundle.INDEX]
    harmless = {("done", "changed"), ("manifest.json", "changed"), ("manifest.json", "missing")}
    harmless |= {
        (f"checkpoints/step-00000012.pt{end}", way) for end in ("", ".sha256") for way in ("missing", "changed")
    }
    for name in names:
        for way, change in (
            ("changed", lambda contents, name=name: contents.update({name: contents[name] + b"}"})),
            ("missing", lambda contents, name=name: contents.pop(name)),
        ):
            if (name.partition(f"{run.name}/")[2], way) not in harmless:
                with pytest.raises(UserError, match=r"is damaged: runs/.* (does not verify|is not finished)"):
                    bundle.unpack(rezipped(file, tmp_path / "forged.zip", change), tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()


def test_what_lies_where_a_bundle_is_unpacked_is_kept(run: Path, tmp_path: Path) -> None:
    file, place = tmp_path / "moco.zip", tmp_path / "again" / "moco-bundle"
    bundle.write_bundle(file, [run], encoder=True)
    bundle.unpack(file, tmp_path / "whole")

    def other_folder() -> None:
        place.mkdir()
        (place / "mine").write_text("kept")

    def more_files() -> None:
        shutil.copytree(tmp_path / "whole", place)
        (place / "runs" / run.name / "method.py").write_text("kept")

    places: list[Callable[[], Any]] = [other_folder, more_files, lambda: place.write_text("kept")]
    places += [partial(place.symlink_to, tmp_path / name) for name in ("nowhere", "whole")]
    for make in places:
        place.parent.mkdir()
        make()
        before = sorted(tmp_path.rglob("*"))
        code, output = again(file, place.parent)
        assert code == 2 and f"{place} is there, and differs from what the bundle unpacks to" in output
        assert sorted(tmp_path.rglob("*")) == before
        shutil.rmtree(place.parent)


def test_a_folder_beside_that_another_process_unpacks_to_is_kept(run: Path, tmp_path: Path) -> None:
    file, mine = tmp_path / "moco.zip", tmp_path / "again" / ".moco-bundle.partial" / "mine"
    bundle.write_bundle(file, [run], encoder=True)
    mine.parent.mkdir(parents=True)
    mine.write_text("kept")
    assert bundle.unpack(file, tmp_path / "again" / "moco-bundle")
    assert mine.read_text() == "kept"


def test_no_code_of_a_run_is_found_by_the_name_of_its_method(run: Path, tmp_path: Path) -> None:
    evil, ran = run / "code" / "evil.py", tmp_path / "ran"
    evil.write_text(f"from negbench.methods.moco import Config, build\nopen({str(ran)!r}, 'a')\n")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("name: moco", f"name: {evil}"))
    code, output = negbench("rerun", run, "--output", tmp_path / "again", "--device", "cpu", "--quiet")
    assert code == 2 and "which is not installed, and brings no code of it along" in output
    assert not ran.exists()


def test_code_of_a_run_stands_for_no_module_of_python_and_for_no_other_runs(tmp_path: Path) -> None:
    for number in (1, 2):
        folder = RunFolder(tmp_path / str(number))
        folder.code.mkdir(parents=True)
        folder.method.write_text("")
        (folder.code / "helper_of_a_run.py").write_text(f"NUMBER = {number}\n")
        with importable(folder, trust_code=True):
            assert vars(importlib.import_module("helper_of_a_run"))["NUMBER"] == number
    assert "helper_of_a_run" not in sys.modules and str(folder.code) not in sys.path
    (folder.code / "random.py").write_text("")
    with pytest.raises(UserError, match=r"random\.py would stand for the module random"), importable(folder, True):
        pass


def test_a_protocol_that_is_not_on_record_is_not_the_same(run: Path, tmp_path: Path) -> None:
    (run / "evaluations" / "knn.json").write_text("null")
    assert "evaluations/knn.json is not on record, or cannot be read" in compare(run, run, ["knn"]).differences
