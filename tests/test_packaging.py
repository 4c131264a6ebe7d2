"""What a wheel and a source distribution hold, by the files that setuptools lists for them."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = {"negbench": Path("negbench"), "methods": Path("negbench/methods"), "configs": Path("negbench/configs")}


def files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    commands: list[str | Path] = ["egg_info", "--egg-base", folder, "build_py", "--build-lib", folder / "wheel"]
    done = subprocess.run([sys.executable, "setup.py", *commands], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "absent" not in done.stderr  # from the list of packages
    return folder


def test_a_wheel_holds_every_file_of_its_folders_and_no_other(built: Path) -> None:
    expected = {place / path.relative_to(ROOT / root) for root, place in PLACES.items() for path in files(ROOT / root)}
    assert {path.relative_to(built / "wheel") for path in files(built / "wheel")} == expected


def test_a_source_distribution_can_run_its_tests(built: Path) -> None:
    held = set((built / "negbench.egg-info" / "SOURCES.txt").read_text().splitlines())
    for folder in (*PLACES, "tests", "benchmarks", "docs", "results/reference"):
        assert {path.relative_to(ROOT).as_posix() for path in files(ROOT / folder)} <= held
    assert {"CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "README.md", "pyproject.toml", "setup.py"} <= held
