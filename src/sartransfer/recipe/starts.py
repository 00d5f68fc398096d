"""The part of a recipe that says what network training begins from: initializations and chains of stages."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from sartransfer.recipe.data import DataRecipe
from sartransfer.recipe.strict import Strict
from sartransfer.recipe.training import TrainingRecipe


class ModelRecipe(Strict):
    """A network by name (`models.MODELS`, ``smp:Unet:resnet18``, ``timm:NAME``) and its options."""

    name: str
    """Of the network."""
    options: dict[str, Any] = Field(default_factory=dict)
    """What its builder takes, e.g. ``{aspp_channels: 128}``; a name that it does not know is refused."""


class Start(Strict):
    """What every initialization has in common."""

    first_layer: Literal["repeat", "mean", "select", "conv1x1"] = "repeat"
    """How a first layer made for other bands meets ours; where a recipe names none, networks of Prithvi's form take
    ``mean`` (`prithvi_starts`)."""
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
    """The kind of start."""


class LibraryStart(Start):
    """Published weights by name; the library loads them from its hub."""

    from_: Literal["torchvision", "timm", "smp", "terratorch"] = Field(alias="from")
    """The library."""
    name: str
    """As the library calls the weights, e.g. ``ResNet18_Weights.IMAGENET1K_V1``."""


class HubStart(Start):
    """Weights in a repository of the Hugging Face hub, or in its cache on this machine."""

    from_: Literal["hub"] = Field(alias="from")
    """The kind of start."""
    name: str
    """``prithvi-v1-100m``, ``prithvi-v2-300m``, ``prithvi-v2-600m`` (and their ``-tl`` forms), or
    ``huggingface:OWNER/NAME/FILE``."""
    revision: str | None = None
    """A commit of the repository; None: its newest, so that only a commit makes a run repeatable for good."""


class FileStart(Start):
    """Weights in a file: safetensors, or a PyTorch state dict."""

    from_: Literal["file"] = Field(alias="from")
    """The kind of start."""
    path: str
    """Of the file, relative to the recipe."""


class RunStart(Start):
    """The weights of an earlier run."""

    from_: Literal["run"] = Field(alias="from")
    """The kind of start."""
    path: str
    """The run's folder, relative to the recipe."""
    which: Literal["best", "last"] = "best"
    """The weights of its best epoch, or of its last."""


class StagesStart(Start):
    """A chain of transfer: each stage is trained on its own data, from the one before."""

    from_: Literal["stages"] = Field(alias="from")
    """The kind of start."""
    stages: tuple["StageRecipe", ...] = Field(min_length=1)
    """In the order in which they are trained."""


Initialization = Annotated[
    RandomStart | LibraryStart | FileStart | HubStart | RunStart | StagesStart, Field(discriminator="from_")
]


class MaskedRecipe(Strict):
    """Masked autoencoding (He et al. 2022): most patches are hidden, and a light decoder paints them."""

    ratio: float = Field(0.75, gt=0, lt=1)
    """Share of the tokens that is hidden, of all frames together."""
    normalize: bool = True
    """The loss compares with each patch's pixels scaled to mean 0 and standard deviation 1, which learns better."""
    width: int = Field(128, gt=0)
    """Channels of a token in the decoder."""
    depth: int = Field(2, gt=0)
    """Blocks of the decoder."""
    heads: int = Field(4, gt=0)
    """Of attention, in the decoder's blocks."""

    @model_validator(mode="after")
    def _shared(self) -> Self:
        if self.width % 16 or self.width % self.heads:
            raise ValueError(f"width={self.width} must be a multiple of 16 and of heads={self.heads}")
        return self


class StageRecipe(Strict):
    """One link of a chain: data, head and schedule of its own; the body is kept."""

    name: str
    """Of the stage, for its folder and in the report."""
    task: Literal["segment", "classify", "reconstruct"]
    """reconstruct: masked autoencoding on images without labels, for networks of Prithvi's form."""
    data: DataRecipe
    """What it is trained on."""
    training: TrainingRecipe
    """How it is trained."""
    masked: MaskedRecipe = MaskedRecipe()
    """For reconstruct."""
    start: Initialization = RandomStart.model_validate({"from": "random"})
    """What the first stage starts from (later ones start from the stage before)."""
    model: ModelRecipe | None = None
    """Another network for this stage, whose body fits the next; None: that of the start or the recipe."""
    seed: int = Field(0, ge=0)
    """A stage is trained once, with this seed, and shared by all runs that need it."""

    @field_validator("start", mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        return {"from": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _reconstructs(self) -> Self:
        if self.task != "reconstruct":
            if self.masked != MaskedRecipe():
                raise ValueError(f"`masked` goes with task: reconstruct, not with {self.task}")
            return self
        training, plain = self.training, TrainingRecipe()
        for key in NOT_MASKED:
            if getattr(training, key) != getattr(plain, key):
                raise ValueError(f"training.{key} has no place in a stage that reconstructs images")
        if training.schedule.name == "plateau" or training.monitor == "metric":
            raise ValueError(
                "a stage that reconstructs takes schedule constant, one-cycle or cosine, and monitor loss"
            )
        if training.weights == "best" and self.data.validation.fraction == 0:
            raise ValueError("weights: best needs validation; set data.validation.fraction or weights: last")
        return self


NOT_MASKED = (
    "loss", "loss_options", "class_weights", "sampler", "bootstrap", "min_steps", "accumulate", "average", "freeze",
    "devices", "lora", "early_stop",
)  # fmt: skip
"""Settings of a training that a stage without labels does not know."""

StagesStart.model_rebuild()


def has_prithvi_form(model: Any) -> bool:
    """Say whether a `ModelRecipe`, or the values of one, names a network of Prithvi's form."""
    name = model.get("name") if isinstance(model, Mapping) else getattr(model, "name", None)
    return isinstance(name, str) and (name.startswith("prithvi-") or name == "vit")


def prithvi_starts(starts: Any, model: Any) -> Any:
    """Spell out how weights meet the bands where networks of Prithvi's form leave it open: by the mean kernel.

    Written into the values, so that the resolved recipe says it; starts that say it themselves stay as they are.

    Args:
        starts: values of a recipe's `initializations`. model: of its `model`.
    """
    if not isinstance(starts, Mapping):
        return starts
    return {name: _met_by_mean(start, model) for name, start in starts.items()}


def _met_by_mean(start: Any, model: Any) -> Any:
    if not isinstance(start, Mapping):
        return start
    own = start.get("model") or model
    stages = start.get("stages")
    spelled = dict(start)
    if isinstance(stages, list | tuple):
        spelled["stages"] = [_stage_met_by_mean(stage, own) for stage in stages]
    if has_prithvi_form(own) and start.get("from", start.get("from_")) != "random":
        spelled.setdefault("first_layer", "mean")
    return spelled


def _stage_met_by_mean(stage: Any, model: Any) -> Any:
    if not isinstance(stage, Mapping) or "start" not in stage:
        return stage
    return {**stage, "start": _met_by_mean(stage["start"], stage.get("model") or model)}
