"""Protocols by name: how an encoder is evaluated on the test set. Imports no torch.

Each is an entry here and a function from a `Subject` to a JSON record, which holds all that its figure depends on.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from negbench.registry import nearest

if TYPE_CHECKING:
    from negbench.evaluate.subject import Subject

STANDARD = ("knn", "linear")  # what every run is evaluated by; the others are asked for by name


@dataclass(frozen=True)
class Protocol:
    """What makes `evaluations/NAME.json`.

    A protocol of `every_epoch` is called at the end of each epoch, and the run's figure is the highest: selection on
    the test set, which only recipes may do. Its record's figure is `top1`.
    """

    name: str
    function: str  # module:name
    figure: str = ""  # of the record's `top1`, in summary.json
    title: str = ""  # of that figure, for a reader
    projector: bool = False  # whether it reads the projector's output
    every_epoch: bool = False

    def record(self, subject: "Subject") -> dict[str, Any]:
        """The protocol's record of one encoder."""
        made: dict[str, Any] = {"protocol": self.name} | resolve_name(self.function)(subject)
        return made


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("knn", "negbench.evaluate.protocol:knn_protocol"),
        Protocol("linear", "negbench.evaluate.protocol:linear_protocol"),
        Protocol(
            "knn-moco-demo",
            "negbench.evaluate.knn_anchors:knn_moco_demo",
            figure="knn_moco_demo_top1",
            title="kNN as in MoCo's demo",
            projector=True,
        ),
        Protocol(
            "knn-lightly",
            "negbench.evaluate.knn_anchors:knn_lightly",
            figure="knn_lightly_highest_test_top1",
            title="kNN as lightly's (highest of all epochs on the test set)",
            every_epoch=True,
        ),
    )
}
NAMED = {name: protocol for name, protocol in PROTOCOLS.items() if name not in STANDARD}


def find_protocol(name: str, known: Iterable[str] = PROTOCOLS) -> Protocol:
    """The protocol called `name`. ValueError if none of the `known` ones is."""
    if name not in known:
        raise ValueError(f"unknown protocol {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    return PROTOCOLS[name]


def of_every_epoch(names: Iterable[str]) -> list[Protocol]:
    """Those of the protocols called `names` that are evaluated at the end of every epoch."""
    return [PROTOCOLS[name] for name in names if PROTOCOLS[name].every_epoch]


def check_track(names: Iterable[str], track: str) -> None:
    """ValueError if a protocol selects on the test set, and the track is not that of recipes."""
    for protocol in of_every_epoch(names):
        if track != "recipe":
            raise ValueError(
                f"protocol {protocol.name} takes the highest of all epochs on the test set, as published figures do; "
                f"only a recipe may, and this study has track: {track}"
            )
