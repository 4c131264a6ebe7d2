"""Protocols by name: how an encoder is evaluated on the test set. Imports no torch.

Each is an entry here and a function from a `Subject` to a JSON record, which holds all that its figure depends on.
Those with settings of their own take a `Request` too.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pkgutil import resolve_name

from negbench.runtime.errors import UserError
from negbench.settings.plugins import nearest

STANDARD = ("knn", "linear")  # what every run is evaluated by; the others are asked for by name


@dataclass(frozen=True)
class Protocol:
    """What makes `evaluations/NAME.json`.

    A protocol of `every_epoch` is called at the end of each epoch, and the run's figure is the highest: selection on
    the test set, which only recipes may do.
    """

    name: str
    function: str  # module:name
    figure: str = ""  # of the record's `key`, in summary.json and on the screen
    title: str = ""  # of that figure, for a reader
    projector: bool = False  # whether it reads the projector's output
    every_epoch: bool = False
    key: str = "top1"  # of the record: the protocol's figure
    settings: str = ""  # module:name of the model of its own settings
    data: str = ""  # what `--data DIR` must hold; empty: it is evaluated on the run's own data
    takes_labels: bool = False  # whether it trains on the labels that `--labels-file` lists
    untrained: bool = True  # whether the untrained encoder is evaluated too

    @property
    def at_end(self) -> bool:
        """Whether a run may be evaluated by it at its end, on all its ranks."""
        return not self.settings


_SETTINGS = "negbench.settings.protocol_settings:"
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("knn", "negbench.evaluate.protocols.knn:knn_protocol"),
        Protocol("linear", "negbench.evaluate.protocols.linear:linear_protocol"),
        Protocol(
            "knn-moco-demo",
            "negbench.evaluate.protocols.knn_anchors:knn_moco_demo",
            figure="knn_moco_demo_top1",
            title="kNN as in MoCo's demo",
            projector=True,
        ),
        Protocol(
            "knn-lightly",
            "negbench.evaluate.protocols.knn_anchors:knn_lightly",
            figure="knn_lightly_highest_test_top1",
            title="kNN as lightly's (highest of all epochs on the test set)",
            every_epoch=True,
        ),
        Protocol(
            "linear-moco",
            "negbench.evaluate.protocols.classifier:linear",
            figure="linear_moco_top1",
            title="linear as MoCo's",
            settings=_SETTINGS + "LinearMoco",
            untrained=False,
        ),
        Protocol(
            "linear-adco",
            "negbench.evaluate.protocols.classifier:linear",
            figure="linear_adco_top1",
            title="linear as AdCo's",
            settings=_SETTINGS + "LinearAdco",
            untrained=False,
        ),
        Protocol(
            "finetune",
            "negbench.evaluate.protocols.classifier:finetune",
            figure="finetune_top1",
            title="fine-tuned with all labels",
            settings=_SETTINGS + "Finetune",
            untrained=False,
        ),
        Protocol(
            "semi-1",
            "negbench.evaluate.protocols.classifier:finetune",
            figure="semi_1_top1",
            title="fine-tuned with 1% of the labels",
            settings=_SETTINGS + "Semi1",
            takes_labels=True,
            untrained=False,
        ),
        Protocol(
            "semi-10",
            "negbench.evaluate.protocols.classifier:finetune",
            figure="semi_10_top1",
            title="fine-tuned with 10% of the labels",
            settings=_SETTINGS + "Semi10",
            takes_labels=True,
            untrained=False,
        ),
        Protocol(
            "transfer",
            "negbench.evaluate.protocols.logistic:transfer",
            figure="transfer_top1",
            title="logistic regression on another data set",
            settings=_SETTINGS + "Transfer",
            data="an image folder: train/CLASS and val/CLASS (or test/CLASS)",
        ),
        Protocol(
            "voc07",
            "negbench.evaluate.protocols.voc07:voc07",
            figure="voc07_mean_ap",
            title="SVMs on PASCAL VOC2007, mean average precision",
            key="mean_ap",
            settings=_SETTINGS + "Voc07",
            data="VOCdevkit/VOC2007, trainval and test",
        ),
        Protocol(
            "places205",
            "negbench.evaluate.protocols.places205:places205",
            figure="places205_top1",
            title="linear on Places205",
            settings=_SETTINGS + "Places205",
            data="trainvalsplit_places205/ and data/vision/torralba/deeplearning/images256/",
            untrained=False,
        ),
    )
}
NAMED = {name: protocol for name, protocol in PROTOCOLS.items() if name not in STANDARD and protocol.at_end}


def find_protocol(name: str, known: Iterable[str] = PROTOCOLS) -> Protocol:
    """The protocol called `name`. UserError if none of the `known` ones is."""
    if name not in known:
        raise UserError(f"unknown protocol {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    return PROTOCOLS[name]


def keys_of_protocols() -> set[str]:
    """The names of all settings that protocols have."""
    return {
        key
        for protocol in PROTOCOLS.values()
        if protocol.settings
        for key in resolve_name(protocol.settings).model_fields
    }


def of_every_epoch(names: Iterable[str]) -> list[Protocol]:
    """Those of the protocols called `names` that are evaluated at the end of every epoch."""
    return [PROTOCOLS[name] for name in names if PROTOCOLS[name].every_epoch]


def check_track(names: Iterable[str], track: str) -> None:
    """UserError if a protocol selects on the test set, and the track is not that of recipes."""
    for protocol in of_every_epoch(names):
        if track != "recipe":
            raise UserError(
                f"protocol {protocol.name} takes the highest of all epochs on the test set, as published figures do; "
                f"only a recipe may, and this study has track: {track}"
            )
