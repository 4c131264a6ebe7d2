"""Protocols by name: how an encoder is evaluated on the test set.

Each is a file in `evaluate/protocols/`: facts, and a function from a `Subject` to a JSON record, which holds all that
its figure depends on. Those with settings of their own take a `Request` too.
"""

from collections.abc import Iterable
from pkgutil import resolve_name

from negbench.runtime.errors import UserError
from negbench.settings.plugins import find
from negbench.settings.plugins.facts import STANDARD, Protocol

_FACTS: dict[str, Protocol] = find.facts_of(find.PROTOCOL)
PROTOCOLS = dict(sorted(_FACTS.items(), key=lambda item: item[1].place))
NAMED = {name: protocol for name, protocol in PROTOCOLS.items() if name not in STANDARD and protocol.at_end}


def find_protocol(name: str, known: Iterable[str] = PROTOCOLS) -> Protocol:
    """Return the protocol called `name`. UserError if it is none of the `known`."""
    return PROTOCOLS[find.find_plugin(find.PROTOCOL, name, known).name]


def keys_of_protocols(names: Iterable[str]) -> set[str]:
    """Return the names of all settings of negbench's own protocols and of those called `names`."""
    own = [protocol for protocol in PROTOCOLS.values() if protocol.settings.startswith("negbench.")]
    with_settings = [PROTOCOLS[name] for name in names if PROTOCOLS[name].settings]
    return {key for protocol in (*own, *with_settings) for key in resolve_name(protocol.settings).model_fields}


def of_every_epoch(names: Iterable[str]) -> list[Protocol]:
    """Return the protocols among `names` that are evaluated at the end of every epoch."""
    return [PROTOCOLS[name] for name in names if PROTOCOLS[name].every_epoch]


def check_track(names: Iterable[str], track: str) -> None:
    """Raise UserError if a protocol selects on the test set and the track is not that of recipes."""
    for protocol in of_every_epoch(names):
        if track != "recipe":
            raise UserError(
                f"protocol {protocol.name} takes the highest of all epochs on the test set, as published figures do; "
                f"only a recipe may, and this study has track: {track}"
            )
