"""`config.yaml`: the settings of a run as they are on disk, of any version. Imports no torch and no method."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from negbench.records.files import DamagedError, read_bytes
from negbench.records.forms import Amount, Plain, Positive, Record, Whole, reason_of
from negbench.settings.keys import Flat, OnceEach, flatten_raw

SEED = re.compile(r"^seed: (\d+)$", re.MULTILINE)
_FASTEST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TREE: TypeAdapter[Any] = TypeAdapter(dict[str, Plain])


class _Loader(OnceEach, _FASTEST): ...  # type: ignore[misc]


class Settings(Record):
    """What readers use, by dotted keys."""

    study: str
    seed: Whole
    epochs: Positive
    method: str = Field(alias="method.name")
    track: str = ""
    note: str = ""
    batch_size: Positive = 1
    evaluate_every_epochs: Amount = 0


def read_settings(path: Path) -> Flat:
    """Return the settings in a file by dotted keys, empty if there is no file. `DamagedError` if it holds no run's."""
    try:
        text = read_bytes(path).decode("utf-8-sig").replace("\r\n", "\n")
        seed = SEED.search(text)
        settings = _parsed(SEED.sub("seed: 0", text, count=1)) | ({"seed": int(seed[1])} if seed else {})
        Settings.model_validate(settings)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DamagedError(path, f"it cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise DamagedError(path, reason_of(error)) from None
    except Exception as error:  # PyYAML raises more than YAMLError, as KeyError for `!!bool x`
        raise DamagedError(path, f"it is no YAML of settings: {' '.join(str(error).split())}") from None
    return settings


@cache
def _parsed(text: str) -> Flat:
    """Parsed once for all seeds: YAML takes longer than all else in a run's folder."""
    if "&" in text and any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
        raise ValueError("it has aliases, of which few lines can make any number of values")
    settings = flatten_raw(_TREE.validate_python(yaml.load(text, _Loader), strict=True))
    json.dumps(settings, ensure_ascii=False).encode()  # fails for halves of a character, which YAML can escape
    return settings
