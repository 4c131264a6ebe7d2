"""The base class of groups of settings, one setting, and the types of settings."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from negbench.runtime.errors import UserError


def _ordered(span: tuple[float, float]) -> tuple[float, float]:
    if not 0 < span[0] <= span[1]:
        raise UserError("must be two positive numbers, low then high")
    return span


def _share(span: tuple[float, float]) -> tuple[float, float]:
    if not 0 < span[0] <= span[1] <= 1:
        raise UserError("must be two numbers in (0, 1], low then high")
    return span


Probability = Annotated[float, Field(ge=0, le=1)]
Range = tuple[float, float]
OrderedRange = Annotated[Range, AfterValidator(_ordered)]
ShareRange = Annotated[Range, AfterValidator(_share)]
Triple = tuple[float, float, float]


class SettingsGroup(BaseModel):
    """A frozen group of settings; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


def setting(default: Any, description: str, *, scientific: bool = True, **constraints: Any) -> Any:
    """Return a field. `scientific=False`: it cannot change a result and so is no part of the run id."""
    return Field(default, description=description, json_schema_extra={"scientific": scientific}, **constraints)
