"""The recipe whole: a comparison in one YAML file."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, TypeAdapter, field_validator, model_validator
from pydantic_core import ValidationError

from sartransfer.errors import InputError, RecipeError, nearest
from sartransfer.faults import describe_faults, read_yaml, set_value
from sartransfer.recipe.data import DataRecipe
from sartransfer.recipe.places import digest, resolve_paths, without_places
from sartransfer.recipe.presets import PRESETS, expand_preset
from sartransfer.recipe.starts import Initialization, ModelRecipe, prithvi_starts
from sartransfer.recipe.strata import StrataRecipe
from sartransfer.recipe.strict import Strict
from sartransfer.recipe.training import TrainingRecipe

MOST_SEEDS = 10_000
"""Runs of one start and share; more would be a seed that was meant as [N]."""


class PredictionRecipe(Strict):
    """How a trained network is asked."""

    views: Literal[1, 4, 8] = 1
    """Views of an image whose probabilities are averaged: 1, the image; 4, with its mirror images and both
    turned by 180 degrees; 8, turned by 90 degrees too. Each view costs one prediction."""


class PrimaryRecipe(Strict):
    """The score that the verdict is about."""

    metric: Literal["accuracy", "precision", "recall", "f1", "iou", "top2", "f1_micro", "f1_macro",
                    "f1_weighted", "iou_micro", "iou_macro", "iou_weighted"]  # fmt: skip
    """Its name; macro, micro and weighted are means over the classes."""
    class_: str = Field("", alias="class")
    """Which class, for precision, recall, f1 and iou; empty for the others."""

    @model_validator(mode="after")
    def _class_or_not(self) -> Self:
        if (self.metric in ("precision", "recall", "f1", "iou")) != bool(self.class_):
            raise ValueError(f"metric {self.metric!r} {'needs' if not self.class_ else 'takes no'} `class`")
        return self


class Recipe(Strict):
    """A comparison: data, network, initializations, seeds, training; `from_yaml` reads the right kind."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Of the comparison, in its report."""
    task: Literal["segment", "classify"]
    description: str = ""
    """What it is for, in the report."""
    data: DataRecipe
    """Which scenes, which bands of them, and how they are split."""
    model: ModelRecipe
    """The network."""
    initializations: dict[str, Initialization] = Field(min_length=1)
    """What it starts from: a name of your own -> random, or where weights are."""
    baseline: str | None = None
    """The start that the others are compared with; None: the first. With several networks, each start is
    compared with the baseline of its own network: the first start that names it."""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = (0, 1, 2, 3, 4, 5)
    """Whole numbers from 0 to under 2**32, or how many: 6 is 0 to 5."""
    fractions: tuple[float, ...] = (1.0,)
    """Shares of the training scenes, for a label-efficiency curve."""
    fraction_draw: Literal["by-seed", "once"] = "by-seed"
    """Which scenes a share under 1 holds. ``by-seed``: each seed draws its own, the same for all starts, so that
    intervals over seeds tell of the choice of labels, too. ``once``: one draw for all; intervals hold for that one."""
    training: TrainingRecipe = TrainingRecipe()
    """How each run is trained."""
    prediction: PredictionRecipe = PredictionRecipe()
    """May be changed after training: only the scores are computed anew."""
    primary: PrimaryRecipe
    """The score that decides."""
    tests: tuple[str, ...] = ()
    """Test sets to score; empty: all that the catalog has."""
    contrasts: tuple[tuple[str, str], ...] = ()
    """Pairs of initializations to be compared besides those that `results.pairs` plans, such as [prithvi, unet]: of
    different networks too, which the report then says. They count among the planned ones (Holm)."""
    margin: float = Field(0.01, gt=0)
    """The smallest difference of the primary metric that matters to you."""
    baselines: tuple[Literal["threshold", "threshold-drop", "threshold-after"], ...] = ()
    """Threshold rules that are scored on the same test scenes and shown as rows of the tables, for two classes of
    pixels: `threshold` is whichever the scenes allow (see `baselines`); the other two are parts of it, for pairs of
    8-bit display values. May be changed after training."""
    rule_labelled: tuple[str, ...] = ()
    """Test sets whose labels a rule has made, such as one of change from the same images: their scores are agreement
    with that rule, kept apart from accuracy on hand labels, and no verdict rests on them while others are there."""
    strata: StrataRecipe | None = None
    """Segmentation: count the pixels of test scenes by incidence angle, by distance from a seam or an edge too. May be
    changed after training: only the scores are computed anew."""

    @field_validator("initializations", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for name in value:
                if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", str(name)):
                    raise ValueError(f"initialization {name!r}: letters, digits, '.', '_', '+' and '-' only")
            return {k: _spelled(v) for k, v in value.items()}
        return value

    @model_validator(mode="before")
    @classmethod
    def _met_bands(cls, values: Any) -> Any:
        if isinstance(values, dict) and "initializations" in values:
            starts = prithvi_starts(values["initializations"], values.get("model"))
            return {**values, "initializations": starts}
        return values

    @field_validator("seeds", mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int):
            return value
        if value > MOST_SEEDS:
            raise ValueError(
                f"{value} is a number of seeds, of which there may be {MOST_SEEDS:,}; for the one seed {value} write "
                f"[{value}]"
            )
        return tuple(range(value))

    @field_validator("fractions")
    @classmethod
    def _apart(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        folders: dict[str, float] = {}  # a run lies in a folder named by its share, to four digits
        for fraction in value:
            if (name := f"{fraction:.4g}") in folders:
                raise ValueError(
                    f"{folders[name]} and {fraction} are one share: both round to {name}, and their runs would share a"
                    " folder. Shares must differ in their first four digits; leave one out"
                )
            folders[name] = fraction
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.baseline is not None and self.baseline not in self.initializations:
            raise ValueError(
                f"baseline {self.baseline!r} is not among the initializations."
                + nearest(self.baseline, self.initializations)
            )
        for pair in self.contrasts:
            for name in pair:
                if name not in self.initializations:
                    raise ValueError(
                        f"contrasts: {name!r} is not among the initializations."
                        + nearest(name, self.initializations)
                    )
            if pair[0] == pair[1] or sum(set(pair) == set(other) for other in self.contrasts) > 1:
                raise ValueError(
                    f"contrasts: {list(pair)} must be two initializations, and stand there once."
                )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be given and be distinct, not {list(self.seeds)}")
        if not self.fractions or any(not 0 < f <= 1 for f in self.fractions):
            raise ValueError(f"fractions must lie in (0, 1], not {list(self.fractions)}")
        if self.training.weights == "best" and self.data.validation.fraction == 0:
            raise ValueError("weights: best needs validation; set data.validation.fraction or weights: last")
        return self

    @model_validator(mode="after")
    def _trainings(self) -> Self:
        for name, start in self.initializations.items():
            if not start.training:
                continue
            try:
                training = self.training_of(name)
            except ValidationError as error:
                values = {"training": start.training}
                faults = [{**e, "loc": ("training", *e["loc"])} for e in error.errors()]
                raise ValueError(f"{name}: " + " ".join(describe_faults(faults, values))) from None
            if training.weights == "best" and self.data.validation.fraction == 0:
                raise ValueError(f"{name}: weights: best needs validation")
        return self

    @property
    def baseline_name(self) -> str:
        """The start that the others are compared with."""
        return self.baseline or next(iter(self.initializations))

    @property
    def groups_are(self) -> str:
        """What the groups of the scenes are to people: ``events``, ``collections`` or ``scenes``."""
        return self.data.groups_are or ("collections" if self.task == "classify" else "events")

    def model_of(self, initialization: str) -> ModelRecipe:
        """The network of one start: its own, or the recipe's."""
        return self.initializations[initialization].model or self.model

    def training_of(self, initialization: str) -> TrainingRecipe:
        """How one start is trained: as the recipe says, with the start's own settings over it."""
        own = self.initializations[initialization].training
        if not own:
            return self.training
        return TrainingRecipe.model_validate(_merged(self.training.model_dump(mode="json"), own))

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: tuple[str, ...] = ()) -> "SegmentRecipe | ClassifyRecipe":
        """Read a recipe; paths in it are relative to it, ``${NAME}`` comes from the environment.

        Args:
            path: a YAML file.
            overrides: dotted settings such as ``training.epochs=3``, their values read as YAML.

        Raises:
            InputError: no such file. RecipeError: what is wrong, where, and the nearest valid key.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"no recipe at {path}. Give the path of a YAML file.")
        try:
            values = read_yaml(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path} is not readable as YAML: {error}") from None
        if not isinstance(values, dict):
            raise RecipeError(f"{path} holds {type(values).__name__}, not the keys of a recipe.")
        for override in overrides:
            set_value(values, override)
        return parse_recipe(resolve_paths(values, path.resolve().parent), where=str(path))

    def to_yaml(self) -> str:
        """The resolved recipe as YAML: every field, also those left at their defaults."""
        return yaml.safe_dump(self.to_json(), sort_keys=False, allow_unicode=True)

    def to_json(self) -> dict[str, Any]:
        """The resolved recipe as JSON values."""
        values: dict[str, Any] = self.model_dump(mode="json", by_alias=True)
        return values

    def digest(self) -> str:
        """Hash of what the recipe asks for.

        Where the data lie does not enter (their content does, in a run), nor do settings left at their defaults:
        a setting that a later version knows must not make a logged look at a test set another recipe's.
        """
        given = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        given["data"].pop("cache", None)  # where pixels are kept changes none of them
        return digest(without_places({"task": self.task, **given}))


class SegmentRecipe(Recipe):
    """A comparison that labels every pixel."""

    task: Literal["segment"]
    """A class for every pixel; ``classify`` gives one to every patch or chip."""

    @model_validator(mode="after")
    def _of_pixels(self) -> Self:
        if self.primary.metric == "top2":
            raise ValueError(
                "primary.metric 'top2' is for task: classify, where each patch has one class; take iou, f1 or accuracy"
            )
        return self


class ClassifyRecipe(Recipe):
    """A comparison that gives one class to every patch or chip."""

    task: Literal["classify"]
    """A class for every patch or chip; ``segment`` gives one to every pixel."""


_ADAPTER: TypeAdapter[SegmentRecipe | ClassifyRecipe] = TypeAdapter(
    Annotated[SegmentRecipe | ClassifyRecipe, Field(discriminator="task")]
)


def parse_recipe(values: dict[str, Any], *, where: str = "recipe") -> SegmentRecipe | ClassifyRecipe:
    """Return the recipe that these values spell; raises `RecipeError` naming every fault and its place."""
    try:
        return _ADAPTER.validate_python(values)
    except ValidationError as error:
        lines = describe_faults(error.errors(), values)
        raise RecipeError(f"{where} is not a valid recipe:\n" + "\n".join(lines)) from None


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of recipes, for editors, with the short forms that recipes may use."""
    schema = _ADAPTER.json_schema(by_alias=True)
    parts = {name: part["properties"] for name, part in schema["$defs"].items()}
    preset = {"type": "object", "required": ["preset"], "properties": {"preset": {"enum": list(PRESETS)}}}
    for fields in (parts["SegmentRecipe"], parts["ClassifyRecipe"]):
        _also(fields["seeds"], {"type": "integer", "minimum": 1})
        _also(fields["initializations"]["additionalProperties"], {"enum": ["random", *PRESETS]})
        _also(fields["initializations"]["additionalProperties"], preset)
    _also(parts["StageRecipe"]["start"], {"const": "random"})
    _also(parts["DataRecipe"]["bands"]["items"], {"type": "string"})
    return schema


def _spelled(start: Any) -> Any:
    """Spell out the short forms of an initialization: a word, or a preset."""
    if isinstance(start, str):
        return expand_preset({"preset": start}) if start in PRESETS else {"from": start}
    return expand_preset(start) if isinstance(start, dict) and "preset" in start else start


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Lay `own` over `base`, key by key; a loss and its options are one thing, and replaced whole."""
    whole = {**base}
    if "loss" in own:
        whole["loss_options"] = {}
    for key, value in own.items():
        deep = isinstance(value, dict) and isinstance(whole.get(key), dict)
        whole[key] = _merged(whole[key], value) if deep and key not in WHOLE else value
    return whole


WHOLE = ("loss", "loss_options")


def _also(schema: dict[str, Any], form: dict[str, Any]) -> None:
    kept = {k: schema.pop(k) for k in list(schema) if k not in ("default", "title", "description")}
    schema["anyOf"] = [form, kept]
