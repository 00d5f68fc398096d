"""What all parts of a recipe have in common: frozen, typed, and unknown keys are errors."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from sartransfer.errors import nearest


class Strict(BaseModel):
    """A part of a recipe: frozen, and a key that it does not know is an error naming the nearest one."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            allowed = sorted(f.alias or name for name, f in cls.model_fields.items())
            for key in values:
                if key not in allowed and key not in cls.model_fields:
                    raise ValueError(
                        f"unknown key {key!r}.{nearest(str(key), allowed)} Allowed: {', '.join(allowed)}"
                    )
        return values
