"""Names the packages: every folder of negbench/, and methods/ and configs/ as negbench.methods and negbench.configs."""

from setuptools import find_namespace_packages, setup

OUTSIDE = ("methods", "configs")


def found(root: str) -> list[str]:
    return find_namespace_packages(include=[root, f"{root}.*"], exclude=["*.__pycache__"])


setup(
    packages=[*found("negbench"), *(f"negbench.{package}" for root in OUTSIDE for package in found(root))],
    package_dir={f"negbench.{root}": root for root in OUTSIDE},
)
