"""Bundles: what they hold, and files that are none."""

import hashlib
import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from negbench.records.checks import bundle
from negbench.runtime.errors import UserError
from tests.helpers.recorded import negbench


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
