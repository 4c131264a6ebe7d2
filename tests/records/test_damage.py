"""Damaged records: each is one row that says why, and the others are as they were."""

from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.helpers import damage


class Looks(dict[Path, dict[str, Any]]):
    """What is said of each folder before."""

    def __repr__(self) -> str:
        return "looks"


@pytest.fixture(scope="module")
def looks(tmp_path_factory: pytest.TempPathFactory) -> Looks:
    folders = damage.make_folders(tmp_path_factory.mktemp("damage"))
    return Looks({folder: damage.look(folder) for folder in folders})


@settings(
    max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(random=st.randoms(use_true_random=False))
def test_one_damaged_file_is_one_row_that_says_why(looks: Looks, random: Random) -> None:
    folder = random.choice(list(looks))
    path = random.choice(damage.files_of(folder))
    kind, content = damage.damaged(path, random)
    note(f"{kind}: {path}")
    damage.check(folder, path, content, looks[folder])
