"""A finished run, to be changed."""

import shutil
from pathlib import Path

import pytest

from tests.helpers import runs


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    resolved, output = runs.short("moco"), tmp_path_factory.mktemp("made")
    runs.start(resolved, output)
    return output / resolved.run_id


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "results" / made.name))
