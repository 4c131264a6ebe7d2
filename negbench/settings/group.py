"""The base class of groups of settings, and one setting."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0, le=1)]
Range = tuple[float, float]
Triple = tuple[float, float, float]


class SettingsGroup(BaseModel):
    """A frozen group of settings; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


def setting(default: Any, description: str, *, scientific: bool = True, **constraints: Any) -> Any:
    """A field. `scientific=False` marks what cannot change a result and therefore stays out of the run id."""
    return Field(default, description=description, json_schema_extra={"scientific": scientific}, **constraints)
