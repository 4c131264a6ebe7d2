"""The forms of records: the types of what readers use, and reading by them. Imports no torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypeAliasType

from negbench.records.files import DamagedError, read_json, read_object
from negbench.records.find import search

P = ParamSpec("P")
T = TypeVar("T")
LARGEST = 2**63  # of amounts, so that sums and squares of many are finite
Amount = Annotated[int, Field(ge=0, lt=LARGEST)]
Positive = Annotated[int, Field(ge=1, lt=LARGEST)]
Quantity = Annotated[float, Field(ge=0, lt=LARGEST, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Whole = Annotated[int, Field(gt=-(10**300), lt=10**300)]  # also as a float
Name = Annotated[str, Field(pattern=r"^[^/\x00]{1,255}$")]  # of a folder
Plain = TypeAliasType("Plain", "bool | Whole | float | str | list[Plain] | dict[str, Plain] | None")
STRICT = ConfigDict(strict=True, extra="allow")


class Strict(BaseModel):
    """A record without conversions, of which readers use all."""

    model_config = ConfigDict(strict=True)


class Record(BaseModel):
    """A record whose further keys have plain values."""

    model_config = STRICT
    __pydantic_extra__: dict[str, Plain]


def read_form(path: Path, form: TypeAdapter[Any]) -> dict[str, Any]:
    """Return the object in a file as it is there; empty if it is, or without a file.

    `DamagedError` if it is not of the `form`.
    """
    content = read_object(path)
    if content:
        try:
            form.validate_python(content)
        except ValidationError as error:
            raise DamagedError(path, reason_of(error)) from None
    return content


def readable(damage: list[str], read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """Return what `read` returns; None for a damaged file, which is then added to `damage` with the reason."""
    try:
        return read(*args, **kwargs)
    except DamagedError as error:
        damage.append(error.brief)
        return None


def reason_of(error: ValidationError) -> str:
    """Return where a record is wrong and how, in a few words."""
    first = error.errors()[0]
    place, said = first["loc"], first["msg"].removeprefix("Value error, ")
    if place[-1:] == ("bool",):  # the first of the types of `Plain`
        place, said = place[:-1], "Input should be a plain value"
    return f"{'.'.join(map(str, place))}: {said}" if place else said


@dataclass(frozen=True)
class RecordedFolders:
    """Folders that are known by the file `record` in them, an object that names its study."""

    record: str

    def has(self, path: Path) -> bool:
        """Whether `path` is one of them."""
        return (path / self.record).exists()

    def inside(self, folder: Path) -> list[Path]:
        """Return those in `folder`, at any depth, by name."""
        return sorted(path for path, names in search(folder) if self.record in names) if folder.is_dir() else []

    def studies(self, folder: Path) -> dict[Path, str]:
        """Return the studies of those in `folder`; empty if a record cannot be read."""
        return {path: str(read_json(path / self.record).get("study", "")) for path in self.inside(folder)}

    def find(self, arguments: Sequence[str], default: Path) -> list[Path]:
        """Return those named, those in folders named, and those of studies named, which `default` holds."""
        found: list[Path] = []
        for argument in arguments or [str(default)]:
            path = Path(argument)
            if path.is_dir():
                found += [path] if self.has(path) else self.inside(path)
            else:
                found += [known for known, study in self.studies(default).items() if study == argument]
        return list(dict.fromkeys(found))
