"""The part of a recipe that says how a network is fitted."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from sartransfer.recipe.strict import Strict


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
    class_weights: Literal["balanced", "complement", "complement-literal"] | tuple[float, ...] | None = None
    """Weights of the classes in the loss; balanced: inverse training frequency, mean 1; complement: one minus the
    class's share, mean 1 (Huang et al. 2020, eq. 3); complement-literal: the same with the sum 1, as printed."""
    sampler: Literal["shuffle", "balanced", "exactly-balanced"] = "shuffle"
    """Classification: shuffle, each patch once an epoch; balanced, drawn with replacement, each class as likely;
    exactly-balanced, so that each batch holds equally many of each class. Independent of `class_weights`."""
    min_steps: int = Field(0, ge=0)
    """Least batches of an epoch: where there are too few samples for it they are gone through more than once, each time
    in a new order, so that a small label fraction is not also a short training."""
    bootstrap: bool = False
    """Bagging: each run trains on as many patches (or scenes) as there are, drawn with replacement by its seed; the
    ensemble of the runs is the bagged model."""
    augment: AugmentRecipe = AugmentRecipe()
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the processor computes in it (AVX-512 BF16, AMX, recent GPUs), else fp32."""
    average: float = Field(0.0, ge=0, lt=1)
    """Validate and keep a moving average of the weights instead of the weights: the share of the old average that
    each step keeps, e.g. 0.98; 0: none. Steadies which epoch is best where validation is small."""
    gradient_clip: float | None = Field(None, gt=0)
    workers: int = Field(0, ge=0)
    """Processes that read data beside the training; 0: none."""

    @model_validator(mode="after")
    def _repeats(self) -> Self:
        if self.min_steps and self.sampler != "shuffle":
            raise ValueError(f"min_steps goes with sampler: shuffle, not with {self.sampler}")
        return self
