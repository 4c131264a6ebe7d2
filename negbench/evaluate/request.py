"""A request for a protocol with its settings, and the making of a record."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import TYPE_CHECKING, Any

from negbench.runtime.errors import UserError
from negbench.runtime.words import did_you_mean
from negbench.settings.keys import parse_override, validate
from negbench.settings.plugins.facts import Protocol
from negbench.settings.plugins.find import PROTOCOL, find_plugin, import_plugin
from negbench.settings.plugins.protocols import find_protocol
from negbench.settings.protocol_settings import ProtocolSettings

if TYPE_CHECKING:
    from negbench.evaluate.subject import Subject


CONSTANT = "all images have the same features, so the figures are of an encoder that tells no images apart"


@dataclass(frozen=True)
class Request:
    """One protocol with its settings, and with `data` and `labels_file` if it takes them."""

    protocol: Protocol
    settings: Any  # of the protocol's own subclass of ProtocolSettings
    data: Path | None = None
    labels_file: Path | None = None

    def described(self) -> dict[str, Any]:
        """Return what a record says of it: all settings, their source, and whether they are published ones."""
        given = {"data": str(self.data)} if self.data else {}
        if self.labels_file:
            given["labels_file"] = str(self.labels_file)
        settings: ProtocolSettings = self.settings
        return given | {
            "settings": settings.model_dump(mode="json"),
            "settings_source": settings.source,
            "settings_are_defaults": not self._changed(),
            "defaults_are_published": settings.published,
        }

    def _changed(self) -> dict[str, Any]:
        defaults = type(self.settings)().model_dump(mode="json")
        return {key: value for key, value in self.settings.model_dump(mode="json").items() if value != defaults[key]}

    def stem(self, record: dict[str, Any]) -> str:
        """Return the record's file name without `.json`: protocol, data set's folder, and a digest of the rest.

        So evaluating with other settings, images or labels overwrites no figure.
        """
        differences = {"settings": self._changed(), "images": record.get("data_digest", "")}
        if self.labels_file:
            differences["labels"] = record["labels_digest"]
        folder = [self.data.resolve().name] if self.data else []
        return "-".join([self.protocol.name, *folder, *([digest(differences)] if any(differences.values()) else [])])


def make_requests(
    names: Iterable[str], overrides: Sequence[str] = (), data: Path | None = None, labels_file: Path | None = None
) -> dict[str, Request]:
    """Return a request for each protocol of `names` with settings. UserError if one does not take what is given."""
    given = dict(parse_override(text) for text in overrides)
    requests: dict[str, Request] = {}
    for protocol in map(find_protocol, names):
        options = {"--set": overrides, "--data": data, "--labels-file": labels_file}
        takes = {"--set": protocol.settings, "--data": protocol.data, "--labels-file": protocol.takes_labels}
        for option, value in options.items():
            if value and not takes[option]:
                raise UserError(f"protocol {protocol.name} takes no {option}{_why_not(protocol, option)}")
        if protocol.data:
            _check_folder(protocol, data)
        if labels_file and not labels_file.is_file():
            raise UserError(f"--labels-file {labels_file} is no file")
        if protocol.settings:
            settings = _validate(protocol, given)
            requests[protocol.name] = Request(protocol, settings, data, labels_file)
    return requests


def import_protocol(name: str) -> ModuleType:
    """Return the module of a protocol. UserError if another package's cannot be imported."""
    return import_plugin(find_plugin(PROTOCOL, name))


def make_record(protocol: Protocol, subject: "Subject", request: Request | None = None) -> dict[str, Any]:
    """Return the protocol's record of one encoder; a protocol with settings needs its `request`.

    FloatingPointError if the encoder's features are not finite. Where all are equal, `constant_features` is true.
    """
    function = import_protocol(protocol.name).evaluate
    made: dict[str, Any] = function(subject) if request is None else function(subject, request)
    _check_figures(protocol, made)
    if subject.constant:
        made = made | {"constant_features": True}
    if request is None:
        return {"protocol": protocol.name} | made
    return {"protocol": protocol.name} | made | subject.described() | request.described()


def remarks(evaluations: dict[str, dict[str, Any]]) -> list[str]:
    """Return a sentence for each thing that the figures of the trained encoder lack, or should not be read as."""
    records = {name: evaluation["trained"] for name, evaluation in evaluations.items()}
    said = [f"{name}: {record['left_out']}" for name, record in records.items() if "left_out" in record]
    if constant := [name for name, evaluation in evaluations.items() if is_constant(evaluation)]:
        said.append(f"caution: {', '.join(constant)}: {CONSTANT}")
    return said


def is_constant(evaluation: dict[str, Any]) -> bool:
    """Return whether the trained encoder's features were the same of all images."""
    return bool(evaluation["trained"].get("constant_features"))


def _check_figures(protocol: Protocol, record: dict[str, Any]) -> None:
    """Raise ValueError, UserError for another package's protocol, unless each figure is a fraction in [0, 1]."""
    figures = record.get(protocol.key)
    for figure in figures.values() if isinstance(figures, dict) else [figures]:
        if figure is not None and not (isinstance(figure, int | float) and 0 <= figure <= 1):
            giver = find_plugin(PROTOCOL, protocol.name).giver
            kind = ValueError if giver == "negbench" else UserError
            raise kind(
                f"protocol {protocol.name} of {giver} made {protocol.key} = {figure!r}; an accuracy is a fraction from "
                "0 to 1"
            )


def digest(content: object) -> str:
    """Return eight hexadecimal digits that identify a JSON value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def _validate(protocol: Protocol, given: dict[str, Any]) -> ProtocolSettings:
    schema: type[ProtocolSettings] = resolve_name(protocol.settings)
    known = list(schema.model_fields)
    for key in given:
        if key not in known:
            raise UserError(
                f"{protocol.name} has no setting {key}{did_you_mean(key, known)}; it has {', '.join(known)}"
            )
    return validate(schema, given, dict.fromkeys(given, "--set"))


def _check_folder(protocol: Protocol, data: Path | None) -> None:
    if data is None:
        raise UserError(f"protocol {protocol.name} needs --data DIR, which holds {protocol.data}")
    if not data.is_dir():
        raise UserError(f"--data {data} is no folder; {protocol.name} needs one that holds {protocol.data}")


def _why_not(protocol: Protocol, option: str) -> str:
    if option == "--set":
        return ": its settings are the run's own"
    if option == "--data":
        return ": it is evaluated on the run's own data"
    return "; semi-1 and semi-10 do"
