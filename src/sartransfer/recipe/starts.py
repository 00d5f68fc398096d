"""The part of a recipe that says what network training begins from: initializations and chains of stages."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from sartransfer.recipe.data import DataRecipe
from sartransfer.recipe.strict import Strict
from sartransfer.recipe.training import TrainingRecipe


class ModelRecipe(Strict):
    """A network by name (`models.MODELS`, ``smp:Unet:resnet18``, ``timm:NAME``) and its options."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


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
    training: dict[str, Any] = Field(default_factory=dict)
    """Settings of the recipe's `training` that differ for this entry, e.g. another loss: ``{loss: {topk_smooth: 1}}``
    (a loss named here takes the place of the recipe's; other parts are merged key by key)."""


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
