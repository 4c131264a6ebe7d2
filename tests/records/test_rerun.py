"""Runs that are repeated, also out of a bundle."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest

from negbench.launch.rerun import importable
from negbench.records.checks.repeat import compare
from negbench.records.run_folder import RunFolder
from negbench.runtime.errors import UserError
from tests.data.test_fingerprint import image_folder
from tests.helpers import runs
from tests.helpers.processes import ARGUMENTS, finished
from tests.helpers.recorded import edit, negbench

METHOD = "from negbench.methods.simclr import Config, build\nimport {helper}\n"


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
