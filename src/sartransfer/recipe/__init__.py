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
    Initialization,
    LibraryStart,
    ModelRecipe,
    RandomStart,
    RunStart,
    StageRecipe,
    StagesStart,
    Start,
)
from sartransfer.recipe.strict import (
    Strict,
)
from sartransfer.recipe.training import (
    AugmentRecipe,
    EarlyStopRecipe,
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
    "FileStart",
    "Initialization",
    "LabelNoiseRecipe",
    "LibraryStart",
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
    "Strict",
    "TestRecipe",
    "TrainingRecipe",
    "ValidationRecipe",
    "digest",
    "parse_recipe",
    "recipe_schema",
    "without_places",
]
