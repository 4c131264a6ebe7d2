"""mypy, beside the other tests: it takes one core two minutes where it has no cache."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.processes
def test_types_fit() -> None:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "mypy"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
