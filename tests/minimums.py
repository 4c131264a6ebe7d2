"""Prints pip's arguments for `make test-minimums`: each dependency at its declared minimum, but for torch's."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

WITHOUT = {"torch", "torchvision"}  # reports and status work where these are missing


def minimums() -> list[str]:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    lowest = []
    for requirement in map(Requirement, project["dependencies"]):
        (bound,) = requirement.specifier
        assert bound.operator == ">=", requirement
        if requirement.name not in WITHOUT:
            lowest.append(f"{requirement.name}=={bound.version}")
    return lowest


if __name__ == "__main__":
    print(*minimums())
