"""Measuring a group: its sides take turns, and a round is a turn of each in order."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.peers.plan import IMAGES, Group, Measured, Side
from benchmarks.peers.side import ONE_THREAD, RunningSide, SideDied
from negbench.runtime.signals import signals_blocked

NO_PEERS = "needs the peers' environment, which is not there"


@dataclass(frozen=True)
class Pythons:
    """What sides are run with. `peer` is None where the peers' environment is absent."""

    own: str
    peer: str | None

    def command(self, side: Side, images: str) -> list[str]:
        python = self.peer if side.peer else self.own
        assert python is not None
        arguments = [images if argument == IMAGES else argument for argument in side.arguments]
        return [python, "-m", f"benchmarks.peers.{side.module}", *arguments]


def measure(group: Group, rounds: int, pythons: Pythons, images: str) -> Measured:
    """All sides are killed at the end, whatever it is. One that dies is left out, and the others go on."""
    measured = Measured(group, {}, {side.name: NO_PEERS for side in group.sides if side.peer and pythons.peer is None})
    sides = [side for side in group.sides if side.name not in measured.left_out]
    if group.unit == "bytes":
        for side in sides:
            _take_turns([side], 1, measured, pythons, images)
    else:
        _take_turns(sides, rounds, measured, pythons, images)
    return measured


def _take_turns(sides: list[Side], rounds: int, measured: Measured, pythons: Pythons, images: str) -> None:
    group, running = measured.group, dict[str, RunningSide]()

    def attempt(side: Side, work: Callable[[], None]) -> None:
        try:
            work()
        except SideDied as died:
            measured.left_out[side.name] = str(died)
            measured.values.pop(side.name, None)
            running.pop(side.name).kill()
            _tell(f"{group.name}: {side.name} ended: {died}")

    try:
        for side in sides:
            _tell(f"{group.name}: starting {side.name}")
            with signals_blocked():  # until it is known, and so can be killed
                running[side.name] = RunningSide(pythons.command(side, images), ONE_THREAD if side.one_thread else {})
            measured.values[side.name] = []
            attempt(side, running[side.name].wait_until_ready)
        for number in range(rounds if running else 0):
            _tell(f"{group.name}: round {number + 1} of {rounds}")
            for side in sides:
                if side.name in running:
                    attempt(side, lambda side=side: _turn(side, running[side.name], measured))  # type: ignore[misc]
    finally:
        for alive in running.values():
            alive.kill()


def _turn(side: Side, running: RunningSide, measured: Measured) -> None:
    measured.values[side.name].append(running.take_turn(1, side.steps))


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
