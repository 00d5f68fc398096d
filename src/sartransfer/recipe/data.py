"""The part of a recipe that says which scenes, which bands of them, and how they are split."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from sartransfer.recipe.strict import Strict

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
"""Names of test sets are names of files, as those of initializations are of folders. Without spaces none is that of all
unseen test sets together (``unseen events``)."""
MEANT = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "dev"), "validation"),
}
"""What others call training and validation, in small letters: taken as names, they would be test sets here."""


def name_fault(name: str) -> str | None:
    """Say why `name` cannot be that of a split (and what to call it), or None: ``train`` and ``validation`` can."""
    meant = MEANT.get(name.lower())
    if meant == name:
        return None
    if meant:
        return (
            f"{name!r} is no name of a test set: did you mean {meant!r}? What is neither 'train' nor 'validation' is "
            "tested on; give a test set another name."
        )
    if NAME.fullmatch(name):
        return None
    near = re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-._+")
    return (
        f"{name!r} cannot name a test set, whose name is a file's too: letters, digits, '.', '_', '+' and '-' only, a "
        f"letter or a digit first. Rename it{f', {near!r} for example' if near else ''}."
    )


class BandRecipe(Strict):
    """One input of the network: a band by name, or the difference of two."""

    name: str
    """Of the band: as the scenes call it, or a new one for a band that is worked out."""
    unit: str | None = None
    """What the numbers shall be (``sigma0_db``); None: as the first training scene has them."""
    difference: tuple[str, str] | None = None
    """[a, b]: this input is a - b."""


class HalvesRecipe(Strict):
    """Scenes of which one half trains and the other validates: a straight cut through the footprint."""

    months: tuple[Annotated[int, Field(ge=1, le=12)], ...] = ()
    """Training scenes of these months are cut."""
    scenes: tuple[str, ...] = ()
    """And these, by id."""
    side: Literal["ne", "sw"] = "ne"
    """The half that validates: the upper right one of the map, or the lower left one."""
    buffer_m: float = Field(0.0, ge=0)
    """Metres next to the cut that do not train. Without a buffer no training patch sees a validation pixel either:
    patches lie wholly inside their half."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.months and not self.scenes:
            raise ValueError("name the scenes to cut: `months` (1 to 12) or `scenes` (ids)")
        return self


class ValidationRecipe(Strict):
    """How validation is drawn from training: whole groups, with a seed of its own, or halves of scenes."""

    fraction: float = Field(0.2, ge=0, lt=1)
    """Share of the training scenes; 0: no validation, then nothing can be chosen by it (weights: last)."""
    seed: int = Field(0, ge=0)
    """Which groups are drawn."""
    halves: HalvesRecipe | None = None
    """Halves of scenes instead of whole groups; `fraction` and `seed` say nothing then."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.halves is not None and {"fraction", "seed"} & self.model_fields_set - self._defaults():
            raise ValueError("give either `halves` or `fraction` (and `seed`), not both")
        return self

    def _defaults(self) -> set[str]:
        """Fields that say nothing: at their defaults, as in a resolved recipe, which names them all."""
        return {n for n in ("fraction", "seed") if getattr(self, n) == type(self).model_fields[n].default}


class TestRecipe(Strict):
    """One test set taken out of a catalog that has none: whole groups by name, or so many patches a class."""

    __test__ = False  # not a test, whatever pytest thinks of the name

    groups: tuple[str, ...] = ()
    """These groups, whole (unseen collections)."""
    per_class: int | None = Field(None, gt=0)
    """This many patches a class, drawn from the groups that training keeps: its scores say nothing of new groups."""
    seed: int = Field(0, ge=0)
    """Of the draw, for per_class."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if bool(self.groups) == (self.per_class is not None):
            raise ValueError("give either `groups` or `per_class`, not both and not neither")
        return self


class LabelNoiseRecipe(Strict):
    """Training labels made wrong on purpose, to see what a loss makes of it; validation and tests stay true."""

    share: float = Field(gt=0, lt=1)
    """Share of the training patches of each class whose label is changed (rounded to whole patches)."""
    kind: Literal["uniform", "alike"] = "uniform"
    """uniform: to any other class; alike: to the class that `alike` names as its look-alike."""
    alike: dict[str, str] = Field(default_factory=dict)
    """Class -> look-alike; classes without one keep their labels."""
    seed: int = Field(0, ge=0)
    """Which labels are changed, and to what."""

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if (self.kind == "alike") != bool(self.alike):
            raise ValueError("`alike` (class: look-alike) goes with kind: alike, and only with it")
        return self


class PatchRecipe(Strict):
    """Random training patches cut from scenes."""

    size: int | None = Field(None, gt=0)
    """Side in pixels."""
    size_m: float | None = Field(None, gt=0)
    """Or in metres on the ground: as many pixels as come nearest, by the pixel size of the training scenes."""
    per_scene: int = Field(1, gt=0)
    """Patches of one scene in one epoch."""
    min_labelled: float = Field(0.7, ge=0, le=1)
    """Least share of a patch whose label counts (is not ignored)."""
    min_class: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    """Class -> least share of a patch that has it, of all its pixels; every class named here must have its share."""
    redraw: bool = True
    """New places in every epoch; false: the same places all through a run."""

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.size is None) == (self.size_m is None):
            raise ValueError("give either `size` (pixels) or `size_m` (metres), not both and not neither")
        if sum(self.min_class.values()) > 1:
            raise ValueError(
                f"the shares of min_class add up to {sum(self.min_class.values()):g}: more than a patch"
            )
        return self

    @property
    def side_words(self) -> str:
        """The side for people: ``192 px``, ``80 km``."""
        if self.size is not None:
            return f"{self.size} px"
        metres = self.size_m or 0.0
        return f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"


class ExternalRecipe(Strict):
    """A test set from other data: never trained on, and apart from the unseen events of the catalog."""

    dataset: str | None = None
    """A known dataset, found in `root`."""
    root: str | None = None
    """Of a `dataset`: the folder where it lies."""
    catalog: str | None = None
    """Or a catalog of one's own."""
    split: str | None = None
    """Which split of it; None: all its scenes."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.dataset is None) == (self.catalog is None):
            raise ValueError("name either a `dataset` (with its `root`) or a `catalog`")
        return self


class DataRecipe(Strict):
    """Which scenes, which of their bands, and how they are split."""

    dataset: str | None = None
    """A known dataset (`data.datasets.DATASETS`), found in `root`."""
    root: str | None = None
    """The dataset's folder; ``${NAME}`` is taken from the environment; relative to the recipe."""
    options: dict[str, Any] = Field(default_factory=dict)
    """What else the dataset's function takes, by name: the size of simulated scenes, for example."""
    catalog: str | None = None
    """Or a catalog of one's own: CSV or GeoJSON."""
    bands: tuple[BandRecipe, ...] = ()
    """Inputs in channel order; empty: all bands of the first training scene."""
    classes: tuple[str, ...] = ()
    """Class names where the catalog does not name them."""
    label_values: dict[int, str] = Field(default_factory=dict)
    """Label raster value -> class name or ``ignore``, where the catalog does not say."""
    validation: ValidationRecipe = ValidationRecipe()
    """What is held out of training to choose by."""
    test: ValidationRecipe | None = None
    """Draw a test set by group too, for a catalog that has none."""
    patch: PatchRecipe | None = None
    """Train on random patches; None: on whole scenes (tiles, chips)."""
    chip: int | None = Field(None, gt=0)
    """Classification: cut this many pixels, square, from the centre of each chip."""
    cache: Literal["none", "memory-map", "bitshuffle-lz4"] = "none"
    """Keep training and validation scenes decoded on disk (SARTRANSFER_CACHE, else the user's cache): for scenes that
    do not fit into memory together. Changes no number: ``memory-map`` is fastest, ``bitshuffle-lz4`` smallest."""
    normalization: Literal["training", "none"] = "training"
    """(x - mean) / std with statistics of valid training pixels, or the values as they are."""
    level: int | None = Field(None, gt=0)
    """Classification with labels in levels (``settlement/high density/skyscrapers``): how many of them count;
    None: the whole label."""
    drop: tuple[str, ...] = ()
    """Classes (at that level) whose patches are left out."""
    tests: dict[str, TestRecipe] = Field(default_factory=dict)
    """Test sets by name, taken out of a catalog that has none; what remains is for training."""
    external: dict[str, ExternalRecipe] = Field(default_factory=dict)
    """Test sets from other datasets or catalogs, by name; of the same classes, in the same order."""
    label_noise: LabelNoiseRecipe | None = None
    """Make a share of the training labels wrong, for an experiment."""
    groups_are: Literal["events", "collections", "scenes"] | None = None
    """What the report calls the groups; None: collections where patches are classified, else events."""
    same_scenes: tuple[str, ...] = ()
    """Test sets known to continue training scenes: reported as *same scenes* instead of refused."""
    footprint_days: Annotated[float, Field(gt=0)] | None = None
    """Days after which what is to be told on a place is another scene there (sea ice drifts): footprints that overlap
    then stand on both sides of a split; None: never, whatever their dates. Scenes without a time have none apart."""

    @field_validator("bands", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [{"name": v} if isinstance(v, str) else v for v in value]
        return value

    @field_validator("tests", "external")
    @classmethod
    def _test_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for fault in filter(None, map(name_fault, value)):
            raise ValueError(fault)
        return value

    @field_validator("label_values", mode="before")
    @classmethod
    def _values_once(cls, value: Any) -> Any:
        keys = [str(key).strip() for key in value] if isinstance(value, dict) else []
        whole = [int(key) for key in keys if re.fullmatch("[+-]?[0-9]+", key)]
        if twice := [v for v in whole if whole.count(v) > 1]:
            raise ValueError(
                f"label value {twice[0]} stands twice ({', '.join(keys)}): say once what it means"
            )
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.dataset is None) == (self.catalog is None):
            raise ValueError(
                "name either a `dataset` (with its `root`) or a `catalog`, not both and not neither"
            )
        if self.options and self.dataset is None:
            raise ValueError("`options` are of a `dataset`; a catalog has none")
        if self.test is not None and self.tests:
            raise ValueError("name either `test` (one drawn test set) or `tests` (several by name), not both")
        taken = {"train", "validation"} & {*self.tests, *self.external}
        if taken:
            raise ValueError(f"a test set cannot be named {taken.pop()!r}")
        return self
