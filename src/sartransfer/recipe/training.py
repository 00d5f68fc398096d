"""The part of a recipe that says how a network is fitted."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from sartransfer.recipe.strict import Strict


class OptimizerRecipe(Strict):
    """How weights are moved."""

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    """Adam, Adam with decoupled weight decay (Loshchilov and Hutter 2019), or stochastic gradient descent."""
    lr: float = Field(1e-3, gt=0)
    """The learning rate; a schedule moves it."""
    encoder_lr: float | None = Field(None, gt=0)
    """Another learning rate for the encoder; None: the same."""
    weight_decay: float = Field(0.0, ge=0)
    """The share of each weight that is taken away, times the learning rate; adam and sgd add it to the gradient."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """For SGD."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Each layer towards the image learns at this many times the rate of the one after it (Clark et al. 2020), e.g.
    0.75 for a vision transformer; 1: all at one rate. For networks with numbered layers (Prithvi, ResNet)."""


class ScheduleRecipe(Strict):
    """How the learning rate moves."""

    name: Literal["constant", "plateau", "one-cycle", "cosine"] = "constant"
    """constant; plateau: lower when the validation loss no longer falls; one-cycle: up and down again (Smith 2018);
    cosine: down to `min_lr` over all epochs."""
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
    """By how much a validation value must be better than the best so far to count."""


class AugmentRecipe(Strict):
    """What is changed at random in training samples; nothing unless asked for."""

    flips: bool = False
    """Mirror images, along rows and columns."""
    rotations: bool = False
    """By multiples of 90 degrees (square samples; others are turned by 180)."""
    gain: float = Field(0.0, ge=0, lt=1)
    """Contrast: values are scaled about the training mean by 1 +- gain, all bands alike."""
    shift: float = Field(0.0, ge=0)
    """Brightness: +- this many training standard deviations, all bands alike."""
    band_shift: float = Field(0.0, ge=0)
    """The same, drawn for each band alone; differences follow their two bands."""


class LoraRecipe(Strict):
    """Low-rank adaptation: the encoder's own weights stay, and small products beside its attention learn."""

    rank: int = Field(8, gt=0)
    """Of the products: more learn more, and cost more."""
    alpha: float = Field(16.0, gt=0)
    """The addition is scaled by alpha / rank."""
    layers: tuple[str, ...] = ("*.attn.qkv", "*.attn.proj")
    """Which linear layers of the encoder, as globs."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """The share of the inputs of an addition that each step leaves out."""
    keep: tuple[str, ...] = ()
    """What else of the encoder goes on learning, e.g. ``patch_embed``."""


class TrainingRecipe(Strict):
    """How a network is fitted."""

    epochs: int = Field(30, gt=0)
    """At most; `early_stop` may end them."""
    batch_size: int = Field(16, gt=0)
    """Samples of a batch, of all devices together."""
    accumulate: int = Field(1, gt=0)
    """Batches whose gradients are added up before a step; batch norm still sees single batches."""
    optimizer: OptimizerRecipe = OptimizerRecipe()
    """Which rule moves the weights, and how far."""
    schedule: ScheduleRecipe = ScheduleRecipe()
    """Which schedule moves the learning rate."""
    early_stop: EarlyStopRecipe | None = None
    """When training ends before its last epoch; None: never."""
    monitor: Literal["loss", "metric"] = "loss"
    """What validation judges the best epoch by: the loss, or the recipe's primary metric."""
    weights: Literal["best", "last"] = "best"
    """Which weights are tested and mapped with."""
    loss: dict[str, float] = Field(default_factory=lambda: {"cross_entropy": 1.0})
    """Losses by name (`losses.LOSSES`) and what each is multiplied by."""
    loss_options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Options of the losses, by the loss's name, e.g. ``{dice: {classes: [1]}}``."""
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
    """What is changed at random in training samples."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the processor computes in it (AVX-512 BF16, AMX, recent GPUs), else fp32."""
    average: float = Field(0.0, ge=0, lt=1)
    """Validate and keep a moving average of the weights instead of the weights: the share of the old average that
    each step keeps, e.g. 0.98; 0: none. Steadies which epoch is best where validation is small."""
    gradient_clip: float | None = Field(None, gt=0)
    """The largest norm of all gradients together: longer ones are shortened to it; None: as they are."""
    freeze: Literal["encoder"] | Annotated[int, Field(ge=0, strict=True)] = 0
    """``encoder``: all of the encoder stays as it starts; a number: its patch embedding and so many blocks; 0: none.
    Single parameters are frozen by a start's own `freeze`."""
    lora: LoraRecipe | None = None
    """Adapt the encoder by low-rank additions alone (Hu et al. 2022); None: train its weights themselves."""
    freeze_batch_norm: bool = False
    """Batch norms keep the statistics that they start with (their scales and shifts learn all the same): for small
    batches, and for several devices without GPUs."""
    workers: int = Field(0, ge=0)
    """Processes that read data beside the training; 0: none."""
    devices: int = Field(1, gt=0)
    """Processes that share each batch, one a GPU (or on cores), on this machine; `batch_size` stays that of all."""

    @model_validator(mode="after")
    def _repeats(self) -> Self:
        if self.lora and self.freeze:
            raise ValueError("lora keeps the encoder's weights as they are already: leave `freeze` out")
        if self.min_steps and self.sampler != "shuffle":
            raise ValueError(f"min_steps goes with sampler: shuffle, not with {self.sampler}")
        return self
