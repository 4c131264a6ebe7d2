"""One answer to whether a machine had other work when something was timed."""

import pytest

from negbench.records.crowding import FOR_BENCHES, FOR_RUNS, is_crowded


@pytest.mark.parametrize(("load", "bench", "run"), [(0.9, False, False), (1.1, True, False), (2.1, True, True)])
def test_a_run_in_a_sweep_finds_the_load_of_the_run_before_and_a_bench_finds_none(
    load: float, bench: bool, run: bool
) -> None:
    environment = {"load_average": load, "num_cpus": 2}
    assert (is_crowded(environment, FOR_BENCHES), is_crowded(environment, FOR_RUNS)) == (bench, run)


@pytest.mark.parametrize("environment", [{}, {"load_average": None, "num_cpus": 2}, {"load_average": 9.0}])
def test_an_unknown_load_is_no_crowd(environment: dict[str, float | None]) -> None:
    assert not is_crowded(environment, FOR_RUNS)
