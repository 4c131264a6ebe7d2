"""Parts of a step: times that add up, and no trace where nobody records."""

import itertools
from contextlib import nullcontext

import pytest
import torch

from negbench.models.step import optimizer_step
from negbench.runtime import span as spans
from negbench.runtime.span import PARTS, Spans, seconds_between, span
from tests.helpers import runs, tiny

CPU = torch.device("cpu")


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks one second apart."""
    seconds = itertools.count(0.0)
    monkeypatch.setattr(spans, "mark", lambda device: next(seconds))


@pytest.mark.usefixtures("ticking")
def test_parts_leave_out_what_is_inside_them_and_add_up() -> None:
    recorder = Spans(CPU)
    with recorder.recording():  # 0
        with span("loss"):  # 1
            with span("refresh"), span("views"):  # 2, 3
                pass  # 4, 5
            with span("refresh"):  # 6
                pass  # 7
        with span("loss"):  # 8, 9
            pass
    assert recorder.seconds() == {"rest": 3.0, "loss": 4.0, "refresh": 3.0, "views": 1.0}
    assert sum(recorder.seconds().values()) == 11.0  # twelve marks


@pytest.mark.usefixtures("ticking")
def test_an_exception_closes_its_parts() -> None:
    recorder = Spans(CPU)
    with pytest.raises(KeyError), recorder.recording(), span("loss"):
        raise KeyError
    assert recorder.seconds() == {"rest": 2.0, "loss": 1.0}
    again = Spans(CPU)
    with again.recording():  # nobody records any more
        pass
    assert again.seconds() == {"rest": 1.0}


def test_nothing_is_marked_where_nobody_records(monkeypatch: pytest.MonkeyPatch) -> None:
    def mark(device: torch.device) -> float:
        raise AssertionError("a mark was made")

    monkeypatch.setattr(spans, "mark", mark)
    assert span("views") is span("loss")
    tiny.train(tiny.variant("adco"), 0, 2)


@pytest.mark.parametrize("name", tiny.VARIANTS)
def test_a_step_is_bitwise_the_same_under_spans(name: str) -> None:
    states = []
    for recorded in (False, True):
        method = tiny.variant(name)
        optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.3)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        recorder = Spans(CPU)
        for step in range(4):
            with recorder.recording() if recorded else nullcontext():
                output = method(*tiny.batch(step, num_views=tiny.num_views(method)), step)
                optimizer_step(output.loss, optimizer, scaler)
                method.after_step(output, step)
        states.append({key: value.clone() for key, value in method.state_dict().items()})
    runs.assert_same(states[0], states[1])
    assert set(recorder.seconds()) <= {*PARTS, "rest"}
    assert {"query_forward", "loss", "backward", "optimizer", "refresh"} <= set(recorder.seconds())


def test_marks_are_seconds() -> None:
    assert seconds_between(1.25, 3.5) == 2.25
