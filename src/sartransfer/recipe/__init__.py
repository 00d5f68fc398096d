"""The recipe: everything a comparison needs, in one YAML file of few, typed fields."""

from sartransfer.recipe.comparison import (
    ClassifyRecipe,
    PredictionRecipe,
    PrimaryRecipe,
    Recipe,
    SegmentRecipe,
    parse_recipe,
    recipe_schema,
)
from sartransfer.recipe.data import (
    BandRecipe,
    DataRecipe,
    ExternalRecipe,
    HalvesRecipe,
    LabelNoiseRecipe,
    PatchRecipe,
    TestRecipe,
    ValidationRecipe,
)
from sartransfer.recipe.places import (
    digest,
    without_places,
)
from sartransfer.recipe.starts import (
    FileStart,
    HubStart,
    Initialization,
    LibraryStart,
    MaskedRecipe,
    ModelRecipe,
    RandomStart,
    RunStart,
    StageRecipe,
    StagesStart,
    Start,
)
from sartransfer.recipe.strata import (
    StrataRecipe,
)
from sartransfer.recipe.strict import (
    Strict,
)
from sartransfer.recipe.training import (
    AugmentRecipe,
    EarlyStopRecipe,
    LoraRecipe,
    OptimizerRecipe,
    ScheduleRecipe,
    TrainingRecipe,
)

__all__ = [
    "AugmentRecipe",
    "BandRecipe",
    "ClassifyRecipe",
    "DataRecipe",
    "EarlyStopRecipe",
    "ExternalRecipe",
    "FileStart",
    "HalvesRecipe",
    "HubStart",
    "Initialization",
    "LabelNoiseRecipe",
    "LibraryStart",
    "LoraRecipe",
    "MaskedRecipe",
    "ModelRecipe",
    "OptimizerRecipe",
    "PatchRecipe",
    "PredictionRecipe",
    "PrimaryRecipe",
    "RandomStart",
    "Recipe",
    "RunStart",
    "ScheduleRecipe",
    "SegmentRecipe",
    "StageRecipe",
    "StagesStart",
    "Start",
    "StrataRecipe",
    "Strict",
    "TestRecipe",
    "TrainingRecipe",
    "ValidationRecipe",
    "digest",
    "parse_recipe",
    "recipe_schema",
    "without_places",
]
