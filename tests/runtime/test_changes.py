"""What a run says of the code that ran: the commit, and a patch of what differs from it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import negbench
from negbench.records.run import code
from negbench.records.run_folder import RunFolder
from negbench.runtime import changes
from negbench.settings.plugins.find import find_method


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository in whose folder `inside` negbench is, with a commit."""
    root = tmp_path / "inside"
    for name in ("negbench/__init__.py", "methods/old.py", "docs/page.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("first\n")
    (root / ".gitignore").write_text("ignored.py\n")
    (tmp_path / "other.txt").write_text("first\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    monkeypatch.setattr(negbench, "__file__", str(root / "negbench" / "__init__.py"))
    for function in (changes.git_revision, changes.changes, changes._surroundings):
        function.cache_clear()
    yield root
    for function in (changes.git_revision, changes.changes, changes._surroundings):
        function.cache_clear()


def test_an_unchanged_checkout_is_its_commit(checkout: Path) -> None:
    (checkout / "methods" / "ignored.py").write_text("x")
    (checkout / "results.txt").write_text("x")
    assert changes.git_revision() == git(checkout, "rev-parse", "HEAD").strip()
    assert changes.changes() == ""


PROGRAMS = {  # settings of a checkout that name programs, and attributes that call them
    "fsmonitor": ({"core.fsmonitor": "{program}"}, ""),
    "hook": ({"core.hooksPath": "{folder}"}, ""),
    "external diff": ({"diff.external": "{program}"}, ""),
    "driver": ({"diff.x.command": "{program}"}, "* diff=x"),
    "textconv": ({"diff.x.textconv": "{program}"}, "* diff=x"),
    "filter": ({"filter.a.b.clean": "{program}", "filter.a.b.required": "true"}, "* filter=a.b"),
    "process": ({"filter.x.process": "{program}", "filter.x.required": "true"}, "* filter=x"),
    "pager": ({"core.pager": "{program}", "pager.diff": "true"}, ""),
}


@pytest.mark.parametrize(("settings", "attributes"), PROGRAMS.values(), ids=PROGRAMS)
def test_no_program_is_run_that_a_checkout_names(
    settings: dict[str, str], attributes: str, checkout: Path, tmp_path: Path
) -> None:
    ran, program = tmp_path / "ran", tmp_path / "programs" / "post-index-change"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {ran}\ncat\n")
    program.chmod(0o755)
    for key, value in settings.items():
        git(checkout, "config", key, value.format(program=program, folder=program.parent))
    if attributes:
        (checkout / ".gitattributes").write_text(attributes)
    (checkout / "negbench" / "__init__.py").write_text("other\n")  # of equal size
    (checkout / "methods" / "new.py").write_text("new\n")
    assert str(changes.git_revision()).endswith("+changes")
    assert "+other" in changes.changes() and "+new" in changes.changes()
    assert not ran.exists()


def test_another_repository_in_the_environment_is_not_asked(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = git(checkout, "rev-parse", "HEAD").strip()
    git(tmp_path, "init", "-q", "another")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "another" / ".git"))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "false")
    assert changes.git_revision() == revision


def test_changed_and_new_files_make_a_patch_that_repeats_them(checkout: Path, tmp_path: Path) -> None:
    (checkout / "negbench" / "__init__.py").write_text("second\n")
    (checkout / "methods" / "néw method.py").write_text("new\n")
    (checkout / "docs" / "page.md").unlink()
    assert str(changes.git_revision()).endswith("+changes")
    git(tmp_path, "clone", "-q", ".", "clone")
    (tmp_path / "patch").write_text(changes.changes())
    clone = tmp_path / "clone" / "inside"
    git(clone, "apply", "--directory", "inside", str(tmp_path / "patch"))
    assert (clone / "negbench" / "__init__.py").read_text() == "second\n"
    assert (clone / "methods" / "néw method.py").read_text() == "new\n"
    assert not (clone / "docs" / "page.md").exists()


def test_a_new_method_alone_is_a_change(checkout: Path) -> None:
    (checkout / "methods" / "new.py").write_text("new\n")
    assert str(changes.git_revision()).endswith("+changes")
    assert "+++ b/methods/new.py" in changes.changes()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("configs/.env", "X=1\n"),
        ("methods/server.pem", "X\n"),
        ("methods/my_credentials.py", "x = 1\n"),
        ("methods/a.py", "-----BEGIN RSA PRIVATE KEY-----\n"),
        ("methods/a.py", "wandb_api_key = 'abcdefgh12345678'\n"),
        ("methods/a.py", 'login(token="hf_' + "a" * 34 + '")\n'),
        ("methods/large.py", "x = 1\n" * 60_000),
        ("methods/binary.py", "\0\1"),
    ],
)
def test_secrets_large_files_and_binaries_are_named_alone(checkout: Path, name: str, content: str) -> None:
    (checkout / name).parent.mkdir(exist_ok=True)
    (checkout / name).write_text(content)
    (checkout / "methods" / "old.py").write_text("token = tokens[0]\n")
    patch = changes.changes()
    assert patch.startswith(f"# changed, and not in this patch: {name}\n")
    assert content.strip() not in patch and "+token = tokens[0]" in patch


def test_outside_a_checkout_nothing_is_known(checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(negbench, "__file__", str(tmp_path / "site-packages" / "negbench" / "__init__.py"))
    assert changes.git_revision() is None and changes.changes() == ""


def test_a_snapshot_brings_commit_and_patch_along(checkout: Path) -> None:
    (checkout / "revision").write_text("abc+changes")
    (checkout / changes.PATCH).write_text("a patch")
    assert (changes.git_revision(), changes.changes()) == ("abc+changes", "a patch")


def test_a_run_keeps_its_code_and_the_changes_of_each_attempt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    for patch, expected in (("", None), ("a", "changes.patch"), ("b", "changes-3.patch"), ("a", "changes.patch")):
        monkeypatch.setattr(code, "changes", lambda patch=patch: patch)
        folder.open()
        assert code.write_code(folder, find_method("moco"))["changes"] == expected
        folder.close()
    assert (folder.path / "changes.patch").read_text() == "a"
    assert (folder.path / "changes-3.patch").read_text() == "b"
    assert (folder.code / "methods" / "moco.py").read_bytes() == find_method("moco").path.read_bytes()
