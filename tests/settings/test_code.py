"""Which changes of a method's code count, and that no run is reused after one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from negbench import RESULTS_VERSION
from negbench.runtime.errors import UserError
from negbench.runtime.failure import Interrupted
from negbench.settings.plugins.code import code_digest, code_files
from negbench.settings.plugins.find import METHOD, PluginFile, find_method
from tests.helpers import runs

CODE = '''"""A method."""
import json
from helper import scale

def build(config):
    """It is built."""
    return scale(config) + 1
'''


def digest(folder: Path, module: str | None = None) -> str:
    return code_digest(PluginFile(METHOD, "mine", folder / "mine.py", module))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "helper.py").write_text("import deeper\n\ndef scale(x):\n    return 2 * x\n")
    (tmp_path / "deeper.py").write_text("import helper\nX = 1\n")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("mine.py", "It is built.", "It is built otherwise."),
        ("mine.py", "A method.", "Another text."),
        ("mine.py", "import json\n", "import json  # a comment\n\n"),
        ("mine.py", "scale(config) + 1", "(scale( config )+1)"),
        ("helper.py", "2 * x", "(2*x)"),
    ],
)
def test_comments_docstrings_and_formatting_do_not_count(folder: Path, file: str, before: str, after: str) -> None:
    expected = digest(folder)
    text = (folder / file).read_text()
    assert before in text
    (folder / file).write_text(text.replace(before, after))
    assert digest(folder) == expected


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [("mine.py", "+ 1", "+ 2"), ("helper.py", "2 * x", "3 * x"), ("deeper.py", "X = 1", "X = 2")],
)
def test_what_a_method_does_counts_and_what_it_imports(folder: Path, file: str, before: str, after: str) -> None:
    expected = digest(folder)
    (folder / file).write_text((folder / file).read_text().replace(before, after))
    assert digest(folder) != expected


def test_a_package_of_methods_counts_as_a_whole_and_wherever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "sources_of_mine"
    (package / "parts").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "parts" / "__init__.py").touch()
    (package / "mine.py").write_text("from .parts import queue\nfrom sources_of_mine.parts.ring import Ring\n")
    (package / "parts" / "queue.py").write_text("SIZE = 1\n")
    (package / "parts" / "ring.py").write_text("class Ring: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    seen = [digest(package, "sources_of_mine.mine")]
    for name in ("queue", "ring"):
        (package / "parts" / f"{name}.py").write_text("SIZE = 2\n")
        seen.append(digest(package, "sources_of_mine.mine"))
    assert len(set(seen)) == 3


def test_other_methods_of_negbench_count_and_the_rest_of_it_does_not(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from negbench.contrast import Method\nfrom negbench.methods.moco import Queue\n")
    both = digest(tmp_path)
    (tmp_path / "mine.py").write_text("from negbench.contrast import Method\nfrom negbench.methods import moco\n")
    assert digest(tmp_path) != both
    assert code_digest(find_method("moco")) == code_digest(replace(find_method("moco"), path=_copy(tmp_path, "moco")))


def test_packages_of_an_environment_that_this_one_extends_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "lib" / "site-packages" / "installed_elsewhere"
    installed.mkdir(parents=True)
    monkeypatch.syspath_prepend(installed.parent)
    (tmp_path / "mine.py").write_text("import installed_elsewhere\n")
    seen = set()
    for code in ("X = 1\n", "X = 2\n"):
        (installed / "__init__.py").write_text(code)
        seen.add(digest(tmp_path))
    assert len(seen) == 1


def _copy(folder: Path, method: str) -> Path:
    path = folder / f"{method}.py"
    path.write_text(find_method(method).path.read_text())
    return path


def test_no_run_is_reused_after_a_change_of_its_method(tmp_path: Path) -> None:
    path = _copy(tmp_path, "simclr")
    resolved = runs.short("simclr", "evaluation.linear=false")
    resolved = replace(resolved, method_file=replace(resolved.method_file, path=path))
    with pytest.raises(Interrupted):
        runs.start(resolved, tmp_path, runs.StopAt(2))
    code = path.read_text()
    path.write_text(code.replace("all_views=True", "all_views=False"))
    with pytest.raises(UserError, match=r"was made by another code than .*simclr\.py has now; make it anew"):
        runs.start(resolved, tmp_path)
    path.write_text("# A comment.\n" + code)
    summary = runs.start(resolved, tmp_path)
    assert runs.start(resolved, tmp_path) == summary
    path.write_text(code.replace("all_views=True", "all_views=False"))
    with pytest.raises(UserError, match="was made by another code"):
        runs.start(resolved, tmp_path)
    runs.start(resolved, tmp_path, fresh=True)


def test_the_files_of_a_method_have_the_places_that_python_imports_them_from(folder: Path) -> None:
    (folder / "pack").mkdir()
    for name, code in (("__init__.py", ""), ("deep.py", "Y = 2\n")):
        (folder / "pack" / name).write_text(code)
    (folder / "deeper.py").write_text("import pack.deep\n")
    files = code_files(PluginFile(METHOD, "mine", folder / "mine.py", None))
    assert files == {
        name: folder / name for name in ("mine.py", "helper.py", "deeper.py", "pack/__init__.py", "pack/deep.py")
    }
    assert list(code_files(find_method("adco"))) == ["methods/adco.py"]


def test_the_results_version_is_the_number_of_entries_that_change_results() -> None:
    entries = (Path(__file__).parents[2] / "CHANGELOG.md").read_text().partition("\n## ")[2]
    assert entries.count("**results**") == RESULTS_VERSION


def test_no_run_of_another_results_version_is_resumed_or_reused(tmp_path: Path) -> None:
    resolved = runs.short("simclr", "evaluation.linear=false")
    run = runs.folder(resolved, tmp_path)

    def claim(version: int | None) -> None:
        known = json.loads(run.environment.read_text()) | {"results_version": version}
        run.environment.write_text(json.dumps(known))

    with pytest.raises(Interrupted):
        runs.start(resolved, tmp_path, runs.StopAt(2))
    assert json.loads(run.environment.read_text())["results_version"] == RESULTS_VERSION
    other = rf"was made by a negbench of results version 1, and this one has {RESULTS_VERSION}: their results cannot"
    claim(1)
    with pytest.raises(UserError, match=other):
        runs.start(resolved, tmp_path)
    claim(None)  # of an earlier version, which is not compared
    summary = runs.start(resolved, tmp_path)
    claim(1)
    with pytest.raises(UserError, match=other):
        runs.start(resolved, tmp_path)
    assert run.read_summary() == summary
