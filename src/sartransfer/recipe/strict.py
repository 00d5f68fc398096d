"""What all parts of a recipe have in common: frozen, typed, and unknown keys are errors."""

from typing import Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator

from sartransfer.errors import nearest


class Strict(BaseModel):
    """A part of a recipe: frozen, and a key that it does not know is an error naming the nearest one."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

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

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, values: Any) -> Any:
        """Refuse true and false where numbers are wanted: pydantic takes them for 1 and 0."""
        for name, field in cls.model_fields.items() if isinstance(values, dict) else ():
            key = field.alias if field.alias in values else name
            value, kinds = values.get(key), _kinds(field.annotation)
            several = get_origin(field.annotation) in (tuple, list, dict)
            numbers = kinds & {int, float} and not kinds & {bool, Any}
            if numbers and several != isinstance(value, bool) and (found := _truth_in(value)) is not None:
                raise ValueError(f"{key} must be {'numbers' if several else 'a number'} (given: {found})")
        return values


def _kinds(annotation: Any) -> set[Any]:
    """Return the types that an annotation is made of."""
    inner = get_args(annotation)
    if inner:
        return set().union(*map(_kinds, inner))
    return {annotation} if annotation is Any or isinstance(annotation, type) else set()


def _truth_in(value: Any) -> bool | None:
    """Return the first truth value in nested lists or groups, or None."""
    if isinstance(value, bool):
        return value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return next((found for item in inner if (found := _truth_in(item)) is not None), None)
