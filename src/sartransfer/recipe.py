"""The recipe: everything a comparison needs, in one YAML file of few, typed fields."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator, model_validator
from pydantic_core import ValidationError

from sartransfer.errors import InputError, RecipeError, nearest
from sartransfer.faults import describe_faults, read_yaml, set_value


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


class BandRecipe(Strict):
    """One input of the network: a band by name, or the difference of two."""

    name: str
    unit: str | None = None
    """What the numbers shall be (``sigma0_db``); None: as the first training scene has them."""
    difference: tuple[str, str] | None = None
    """[a, b]: this input is a - b."""


class ValidationRecipe(Strict):
    """How validation is drawn from training: whole groups, with a seed of its own."""

    fraction: float = Field(0.2, ge=0, lt=1)
    """Share of the training scenes; 0: no validation, then nothing can be chosen by it (weights: last)."""
    seed: int = 0


class PatchRecipe(Strict):
    """Random training patches cut from scenes."""

    size: int = Field(gt=0)
    """Side in pixels."""
    per_scene: int = Field(1, gt=0)
    """Patches of one scene in one epoch."""
    min_labelled: float = Field(0.7, ge=0, le=1)
    """Least share of a patch whose label counts (is not ignored)."""
    redraw: bool = True
    """New places in every epoch; false: the same places all through a run."""


class DataRecipe(Strict):
    """Which scenes, which of their bands, and how they are split."""

    dataset: str | None = None
    """A known dataset (`data.datasets.DATASETS`), found in `root`."""
    root: str | None = None
    """The dataset's folder; ``${NAME}`` is taken from the environment; relative to the recipe."""
    catalog: str | None = None
    """Or a catalog of one's own: CSV or GeoJSON."""
    bands: tuple[BandRecipe, ...] = ()
    """Inputs in channel order; empty: all bands of the first training scene."""
    classes: tuple[str, ...] = ()
    """Class names where the catalog does not name them."""
    label_values: dict[int, str] = Field(default_factory=dict)
    """Label raster value -> class name or ``ignore``, where the catalog does not say."""
    validation: ValidationRecipe = ValidationRecipe()
    test: ValidationRecipe | None = None
    """Draw a test set by group too, for a catalog that has none."""
    patch: PatchRecipe | None = None
    """Train on random patches; None: on whole scenes (tiles, chips)."""
    chip: int | None = Field(None, gt=0)
    """Classification: cut this many pixels, square, from the centre of each chip."""
    normalization: Literal["training", "none"] = "training"
    """(x - mean) / std with statistics of valid training pixels, or the values as they are."""
    same_scenes: tuple[str, ...] = ()
    """Test sets known to continue training scenes: reported as *same scenes* instead of refused."""

    @field_validator("bands", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [{"name": v} if isinstance(v, str) else v for v in value]
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.dataset is None) == (self.catalog is None):
            raise ValueError(
                "name either a `dataset` (with its `root`) or a `catalog`, not both and not neither"
            )
        return self


class ModelRecipe(Strict):
    """A network by name (`models.MODELS`, ``smp:Unet:resnet18``, ``timm:NAME``) and its options."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class OptimizerRecipe(Strict):
    """How weights are moved."""

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    lr: float = Field(1e-3, gt=0)
    encoder_lr: float | None = Field(None, gt=0)
    """Another learning rate for the encoder; None: the same."""
    weight_decay: float = Field(0.0, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    """For SGD."""


class ScheduleRecipe(Strict):
    """How the learning rate moves."""

    name: Literal["constant", "plateau", "one-cycle", "cosine"] = "constant"
    patience: int = Field(5, ge=0)
    """plateau: epochs without a fall of the validation loss."""
    factor: float = Field(0.1, gt=0, lt=1)
    """plateau: what the rate is multiplied by."""
    min_lr: float = Field(1e-8, ge=0)
    """plateau, cosine: the lowest rate."""
    warmup: float = Field(0.25, gt=0, lt=1)
    """one-cycle: share of the steps in which the rate rises."""


class EarlyStopRecipe(Strict):
    """When training ends before its last epoch."""

    patience: int = Field(20, gt=0)
    """Epochs without a better validation value."""
    min_delta: float = Field(0.0, ge=0)


class AugmentRecipe(Strict):
    """What is changed at random in training samples; nothing unless asked for."""

    flips: bool = False
    rotations: bool = False
    """By multiples of 90 degrees (square samples; others are turned by 180)."""
    gain: float = Field(0.0, ge=0, lt=1)
    """Contrast: values are scaled about the training mean by 1 +- gain, all bands alike."""
    shift: float = Field(0.0, ge=0)
    """Brightness: +- this many training standard deviations, all bands alike."""
    band_shift: float = Field(0.0, ge=0)
    """The same, drawn for each band alone; differences follow their two bands."""


class TrainingRecipe(Strict):
    """How a network is fitted."""

    epochs: int = Field(30, gt=0)
    batch_size: int = Field(16, gt=0)
    accumulate: int = Field(1, gt=0)
    """Batches whose gradients are added up before a step; batch norm still sees single batches."""
    optimizer: OptimizerRecipe = OptimizerRecipe()
    schedule: ScheduleRecipe = ScheduleRecipe()
    early_stop: EarlyStopRecipe | None = None
    monitor: Literal["loss", "metric"] = "loss"
    """What validation judges the best epoch by: the loss, or the recipe's primary metric."""
    weights: Literal["best", "last"] = "best"
    """Which weights are tested and mapped with."""
    loss: dict[str, float] = Field(default_factory=lambda: {"cross_entropy": 1.0})
    """Losses by name (`losses.LOSSES`) and what each is multiplied by."""
    loss_options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    class_weights: Literal["balanced"] | tuple[float, ...] | None = None
    """Weights of the classes in the cross-entropy; balanced: inverse training frequency, mean 1."""
    augment: AugmentRecipe = AugmentRecipe()
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the processor computes in it (AVX-512 BF16, AMX, recent GPUs), else fp32."""
    average: float = Field(0.0, ge=0, lt=1)
    """Validate and keep a moving average of the weights instead of the weights: the share of the old average that
    each step keeps, e.g. 0.98; 0: none. Steadies which epoch is best where validation is small."""
    gradient_clip: float | None = Field(None, gt=0)
    workers: int = Field(0, ge=0)
    """Processes that read data beside the training; 0: none."""


class PredictionRecipe(Strict):
    """How a trained network is asked."""

    views: Literal[1, 4, 8] = 1
    """Views of an image whose probabilities are averaged: 1, the image; 4, with its mirror images and both
    turned by 180 degrees; 8, turned by 90 degrees too. Each view costs one prediction."""


class Start(Strict):
    """What every initialization has in common."""

    first_layer: Literal["repeat", "mean", "select", "conv1x1"] = "repeat"
    """How a first layer made for other bands meets ours."""
    select: tuple[int, ...] | None = None
    """select: which input channels of the weights become ours, in order."""
    allow_missing: tuple[str, ...] = ()
    """Names (globs) of encoder tensors that the weights may lack; anything else missing is an error."""
    freeze: tuple[str, ...] = ()
    """Names (globs) of parameters that training leaves alone."""
    model: ModelRecipe | None = None
    """Another network for this start; None: the recipe's."""


class RandomStart(Start):
    """PyTorch's own random start."""

    from_: Literal["random"] = Field("random", alias="from")


class LibraryStart(Start):
    """Published weights by name; the library loads them from its hub."""

    from_: Literal["torchvision", "timm", "smp"] = Field(alias="from")
    name: str


class FileStart(Start):
    """Weights in a file: safetensors, or a PyTorch state dict."""

    from_: Literal["file"] = Field(alias="from")
    path: str


class RunStart(Start):
    """The weights of an earlier run."""

    from_: Literal["run"] = Field(alias="from")
    path: str
    which: Literal["best", "last"] = "best"


class StagesStart(Start):
    """A chain of transfer: each stage is trained on its own data, from the one before."""

    from_: Literal["stages"] = Field(alias="from")
    stages: tuple["StageRecipe", ...] = Field(min_length=1)


Initialization = Annotated[
    RandomStart | LibraryStart | FileStart | RunStart | StagesStart, Field(discriminator="from_")
]


class StageRecipe(Strict):
    """One link of a chain: data, head and schedule of its own; the body is kept."""

    name: str
    task: Literal["segment", "classify"]
    data: DataRecipe
    training: TrainingRecipe
    start: Initialization = RandomStart.model_validate({"from": "random"})
    """What the first stage starts from (later ones start from the stage before)."""
    model: ModelRecipe | None = None
    seed: int = 0
    """A stage is trained once, with this seed, and shared by all runs that need it."""

    @field_validator("start", mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        return {"from": value} if isinstance(value, str) else value


StagesStart.model_rebuild()


class PrimaryRecipe(Strict):
    """The score that the verdict is about."""

    metric: Literal["accuracy", "precision", "recall", "f1", "iou", "top2", "f1_micro", "f1_macro",
                    "f1_weighted", "iou_micro", "iou_macro", "iou_weighted"]  # fmt: skip
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
    task: Literal["segment", "classify"]
    description: str = ""
    data: DataRecipe
    model: ModelRecipe
    initializations: dict[str, Initialization] = Field(min_length=1)
    baseline: str | None = None
    """The start that the others are compared with; None: the first. With several networks, each start is
    compared with the baseline of its own network: the first start that names it."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    fractions: tuple[float, ...] = (1.0,)
    """Shares of the training scenes, for a label-efficiency curve."""
    training: TrainingRecipe = TrainingRecipe()
    prediction: PredictionRecipe = PredictionRecipe()
    """May be changed after training: only the scores are computed anew."""
    primary: PrimaryRecipe
    tests: tuple[str, ...] = ()
    """Test sets to score; empty: all that the catalog has."""
    margin: float = Field(0.01, gt=0)
    """The smallest difference of the primary metric that matters to you."""

    @field_validator("initializations", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for name in value:
                if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", str(name)):
                    raise ValueError(f"initialization {name!r}: letters, digits, '.', '_', '+' and '-' only")
            return {k: {"from": v} if isinstance(v, str) else v for k, v in value.items()}
        return value

    @field_validator("seeds", mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        return tuple(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.baseline is not None and self.baseline not in self.initializations:
            raise ValueError(
                f"baseline {self.baseline!r} is not among the initializations."
                + nearest(self.baseline, self.initializations)
            )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be given and be distinct, not {list(self.seeds)}")
        if not self.fractions or any(not 0 < f <= 1 for f in self.fractions):
            raise ValueError(f"fractions must lie in (0, 1], not {list(self.fractions)}")
        if self.training.weights == "best" and self.data.validation.fraction == 0:
            raise ValueError("weights: best needs validation; set data.validation.fraction or weights: last")
        return self

    @property
    def baseline_name(self) -> str:
        """The start that the others are compared with."""
        return self.baseline or next(iter(self.initializations))

    def model_of(self, initialization: str) -> ModelRecipe:
        """The network of one start: its own, or the recipe's."""
        return self.initializations[initialization].model or self.model

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
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise RecipeError(f"{path} is not readable as YAML: {error}") from None
        if not isinstance(values, dict):
            raise RecipeError(f"{path} holds {type(values).__name__}, not the keys of a recipe.")
        for override in overrides:
            set_value(values, override)
        return parse_recipe(_resolve_paths(values, path.resolve().parent), where=str(path))

    def to_yaml(self) -> str:
        """The resolved recipe as YAML: every field, also those left at their defaults."""
        return yaml.safe_dump(self.to_json(), sort_keys=False, allow_unicode=True)

    def to_json(self) -> dict[str, Any]:
        """The resolved recipe as JSON values."""
        values: dict[str, Any] = self.model_dump(mode="json", by_alias=True)
        return values

    def digest(self) -> str:
        """Hash of what the recipe asks for; where the data lie does not enter (their content does, in a run)."""
        return digest(without_places(self.to_json()))


class SegmentRecipe(Recipe):
    """A comparison that labels every pixel."""

    task: Literal["segment"]


class ClassifyRecipe(Recipe):
    """A comparison that gives one class to every patch or chip."""

    task: Literal["classify"]


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
    for fields in (parts["SegmentRecipe"], parts["ClassifyRecipe"]):
        _also(fields["seeds"], {"type": "integer", "minimum": 1})
        _also(fields["initializations"]["additionalProperties"], {"const": "random"})
    _also(parts["StageRecipe"]["start"], {"const": "random"})
    _also(parts["DataRecipe"]["bands"]["items"], {"type": "string"})
    return schema


def _also(schema: dict[str, Any], form: dict[str, Any]) -> None:
    kept = {k: schema.pop(k) for k in list(schema) if k not in ("default", "title")}
    schema["anyOf"] = [form, kept]


def digest(values: Any) -> str:
    """Return the first 16 hex digits of the SHA-256 of JSON `values`."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def without_places(values: Any) -> Any:
    """Return JSON `values` without machine paths: the last two parts of each path remain."""
    if isinstance(values, dict):
        return {
            k: "/".join(Path(v).parts[-2:]) if k in PLACES and isinstance(v, str) else without_places(v)
            for k, v in values.items()
        }
    return [without_places(v) for v in values] if isinstance(values, list) else values


PLACES = ("root", "catalog", "path")


def _resolve_paths(values: Any, base: Path) -> Any:
    """Expand ``${NAME}`` and make the paths under `PLACES` absolute."""
    if isinstance(values, dict):
        return {
            k: _place(v, base) if k in PLACES and isinstance(v, str) else _resolve_paths(v, base)
            for k, v in values.items()
        }
    return [_resolve_paths(v, base) for v in values] if isinstance(values, list) else values


def _place(text: str, base: Path) -> str:
    def expand(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise RecipeError(
                f"the recipe names ${{{name}}}, which is not set. Set it (export {name}=/path) or write the path."
            )
        return os.environ[name]

    return str(base / Path(re.sub(r"\$\{(\w+)\}", expand, text)).expanduser())
