"""The typed configuration of a training run: frozen, validated, and free of heavy imports.

Every field can be overridden on the command line (`--optim.weight-decay 0.05`, `--phases.0.epochs 3`). Fields under
`runtime` and `tracking` say how a run is carried out and may change when it resumes; all others say what is computed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from steel.errors import InputError, told_url
from steel.plain import INLINE, to_dict

MOST_EPOCHS, MOST_SAMPLES, MOST_PIXELS = 1_000_000, 1 << 20, 1 << 30
"""Of a phase, of its batch and of its crop: beyond are slips of the keyboard, which would be tried for a long time."""
_MOST_STRENGTH = 100.0
"""Of an augmentation: long before, nothing of the image is left, and far beyond, its numbers overflow."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


@dataclass(frozen=True)
class FoldsConfig:
    """Which folds of the shards play which role; every other fold is trained on."""

    validation: tuple[int, ...] = (0,)
    """Watched each epoch; the decision is tuned on them."""
    test: tuple[int, ...] = (1,)
    """Never touched by training."""

    def __post_init__(self) -> None:
        _require(len(self.validation) > 0, "folds.validation: name at least one fold")
        both = ", ".join(map(str, sorted(set(self.validation) & set(self.test))))
        _require(not both, f"folds.validation and folds.test both have fold {both}; take it out of one of them")


def _check_heads(heads: tuple[str, ...]) -> None:
    own = {"segmentation", "classification"}
    _require(own.isdisjoint(heads), "model.heads: every network has the segmentation's and the classification's")
    taken = "deep_supervision"  # the name of what its coarser stages add to the loss
    _require(taken not in heads, f"model.heads: {taken} is the name of another part of the loss; take another")
    _require(len(set(heads)) == len(heads), f"model.heads: {', '.join(heads)} names one twice")


@dataclass(frozen=True)
class NetworkConfig:
    """The network alone, as a checkpoint stores it: enough to build it again without any download."""

    architecture: str
    """A segmentation-models-pytorch architecture: `Unet`, `FPN`, `UnetPlusPlus`, ..."""
    encoder: str
    """Its encoder, timm's as `tu-...` included."""
    num_classes: int
    in_channels: int
    """1 (gray) or 3 (RGB)."""
    decoder_channels: tuple[int, ...] | None = None
    """Widths of a U-Net decoder, deepest first; the architecture's own when None. Its length is the encoder depth."""
    dropout: float = 0.2
    """Before the linear layer of the classification head."""
    heads: tuple[str, ...] = ()
    """Those beside the segmentation's and the classification's, by their names in `steel.model.heads.HEADS`."""

    def __post_init__(self) -> None:
        _check_heads(self.heads)
        _require(1 <= self.num_classes <= 16, f"network: {self.num_classes} classes; 1 to 16 are possible")
        _require(self.in_channels in (1, 3), f"model.in-channels: {self.in_channels} is neither 1 (gray) nor 3 (RGB)")
        widths = self.decoder_channels or (1,)
        _require(
            len(widths) <= 8 and all(1 <= width <= 4096 for width in widths),
            f"model.decoder-channels: {widths} is not up to 8 widths of 1 to 4096",
        )
        _require(0 <= self.dropout < 1, f"model.dropout: {self.dropout} is not in [0, 1)")


@dataclass(frozen=True)
class ModelConfig:
    """The network to train and where its encoder's first weights come from."""

    architecture: str = "Unet"
    encoder: str = "resnet34"
    decoder_channels: tuple[int, ...] | None = None
    dropout: float = 0.2
    in_channels: Literal[0, 1, 3] = 0
    """0 follows the data: 1 for gray shards, 3 for colour."""
    weights: str = "hub"
    """The encoder's first weights: `hub` (published ones, by the hub's cache or the network), `none` (random), or the
    path or URL of a file: safetensors or `.pth`, a whole classifier, an encoder, or a checkpoint of this program."""
    mean: tuple[float, ...] | None = None
    """What the first weights expect as mean of their 1 or 3 channels, in 0..1; what their publisher says when None,
    and the mean of the data for random weights."""
    std: tuple[float, ...] | None = None
    """Likewise the standard deviation."""
    heads: tuple[str, ...] = ()
    """Heads beside the segmentation's and the classification's, by name; an extension registers them."""
    deep_supervision: int = 0
    """So many of the decoder's stages before its finest, each half as fine as the next, are judged by the terms of the
    segmentation as well, through layers that are of training alone. 0 by default: three seeds showed no gain."""

    def __post_init__(self) -> None:
        _check_heads(self.heads)
        _require(0 <= self.dropout < 1, f"model.dropout: {self.dropout} is not in [0, 1)")
        _require(self.deep_supervision >= 0, f"model.deep-supervision: {self.deep_supervision} is negative")
        _require(self.weights != "", "model.weights: give hub, none, a path or a URL")
        given = [len(values) for values in (self.mean, self.std) if values is not None]
        _require(given in ([], [1, 1], [3, 3]), "model.mean, model.std: give both, with 1 or 3 values each, or neither")
        _require(all(0 <= mean <= 1 for mean in self.mean or ()), f"model.mean: {self.mean} is not in [0, 1]")
        _require(all(0 < std < math.inf for std in self.std or ()), f"model.std: {self.std} is not a number above 0")


@dataclass(frozen=True)
class LossConfig:
    """What a phase minimises: the weighted sum of loss terms, and what they need to know."""

    weights: Mapping[str, float] = field(
        default_factory=lambda: {"bce": 0.75, "dice": 0.25, "classification": 0.02}, metadata=INLINE
    )
    """Of the terms in `steel.model.losses.LOSS_TERMS`, by name. A term with a weight of 0, or none, is left out."""
    focal_gamma: float = 2.0
    """How much less the focal loss thinks of pixels that are nearly right; 0 makes it cross-entropy."""
    tversky_alpha: float = 0.3
    """Weight of false positives; false negatives weigh `1 - tversky_alpha`."""
    tversky_power: float = 1.0
    """The Tversky loss is taken to this power: above 1 a class that is nearly right pulls less beside one that is
    missed; below 1 it goes on pulling as it becomes right. 0.75 is the focal Tversky loss as published; 1, the plain
    one, by default: no figure says that another pays."""
    boundary_width: int = 3
    """Pixels on either side of a class's true border that the boundary loss judges."""
    absent: float = 1.0
    """Weight of the overlap terms (Dice, Tversky, Lovász) and of the boundary loss where the class is absent. 1 judges
    an absent class as the Kaggle metric does; but most classes are absent from most images, so a network that knows
    nothing yet is best off answering nothing. 0 leaves absent classes to the pixel terms (BCE, focal) until it does."""
    class_weights: tuple[float, ...] | None = None
    """One weight a class for the segmentation terms; equal when None."""

    def __post_init__(self) -> None:
        of_classes = (("class_weights", weight) for weight in self.class_weights or ())
        for name, weight in (*self.weights.items(), ("absent", self.absent), *of_classes):
            message = f"loss.{name.replace('_', '-')}: {weight} is not 0 or a number above it"
            _require(0 <= weight < math.inf, message)
        of_all = self.class_weights
        _require(of_all is None or any(of_all), f"loss.class-weights: {of_all} has none above 0")
        _require(
            0 <= self.focal_gamma < math.inf, f"loss.focal-gamma: {self.focal_gamma} is not 0 or a number above it"
        )
        _require(0 <= self.tversky_alpha <= 1, f"loss.tversky-alpha: {self.tversky_alpha} is not in [0, 1]")
        _require(0 < self.tversky_power <= 8, f"loss.tversky-power: {self.tversky_power} is not above 0 and at most 8")
        _require(1 <= self.boundary_width <= 1024, f"loss.boundary-width: {self.boundary_width} is not in 1 to 1024")
        settings = sorted(self.weights.keys() & {setting.name for setting in fields(self)})
        _require(not settings, f"loss: {', '.join(settings)} is a setting, and no name for a term")
        object.__setattr__(self, "weights", {name: float(weight) for name, weight in self.weights.items() if weight})


@dataclass(frozen=True)
class SamplingConfig:
    """Which samples a phase draws and where it crops them."""

    order: Literal["natural", "balanced"] = "natural"
    """`natural`: every sample once an epoch. `balanced`: equal quotas of clean images and of each class."""
    window_shards: int = 0
    """Above 0, shuffle inside windows of so many shards: for data that does not fit on the local disk."""
    defective_only: bool = False
    """Draw defective images only."""
    defect_crop: float = 0.5
    """Probability that a crop of a defective image is moved so that it holds some defect."""
    paste: float = 0.0
    """Probability that a defect of some training image is pasted into a crop. A class is chosen in inverse proportion
    to the images that have it, so that a rare one is seen often, and on the steel of all images."""
    hard: float = 0.0
    """Share of the positions that go to what the last validation before the phase missed, as 0.3: to each class by 1
    less its positive Dice, to clean images by the share of them with a false alarm; tuned thresholds leave few of them,
    so that clean images are seen less. What has no validation image counts as the mean of the classes. The order has
    the rest of the positions; an epoch is no longer for it. Not in the first phase. Off by default: no gain is
    shown."""
    zoom: tuple[float, float] = (1.0, 1.0)
    """Each crop shows its part of the image at a scale between these two, drawn anew: 0.5 1 at half of its size up to
    its own. Equal ones train at one resolution: 0.5 0.5 with half of the crop sees as much of an image for a quarter of
    the computation. Off by default: no figure says that it pays."""
    max_black: float = 0.8
    """A crop with a larger share of black pixels (off the strip) is drawn again, a few times."""

    def __post_init__(self) -> None:
        _require(self.window_shards >= 0, f"sampling.window-shards: {self.window_shards} is negative")
        _require(0 <= self.defect_crop <= 1, f"sampling.defect-crop: {self.defect_crop} is not in [0, 1]")
        _require(0 <= self.paste <= 1, f"sampling.paste: {self.paste} is not in [0, 1]")
        _require(0 <= self.hard <= 1, f"sampling.hard: {self.hard} is not in [0, 1]")
        _require(
            0.1 <= self.zoom[0] <= self.zoom[1] <= 10,
            f"sampling.zoom: {self.zoom[0]:g} {self.zoom[1]:g} are not two scales from 0.1 to 10, the smaller first",
        )
        _require(0 < self.max_black <= 1, f"sampling.max-black: {self.max_black} is not in (0, 1]")


@dataclass(frozen=True)
class TransformConfig:
    """How often and how strongly an augmentation is applied."""

    p: float = 0.5
    """Probability; 0 is off."""
    strength: float = 1.0
    """Scales the transform's standard range; 1 is the standard."""

    def __post_init__(self) -> None:
        _require(0 <= self.p <= 1, f"augment.p: {self.p} is not in [0, 1]")
        _require(
            0 < self.strength <= _MOST_STRENGTH,
            f"augment.strength: {self.strength} is not above 0 and at most {_MOST_STRENGTH:g}",
        )


@dataclass(frozen=True)
class PhaseConfig:
    """A stretch of training with one crop size, batch and loss. A phase is a whole number of steps."""

    name: str
    epochs: float
    """In passes over the phase's training samples; rounded up to whole steps."""
    crop: tuple[int, int]
    """Height and width in pixels; (0, 0) takes the largest training image, smaller ones padded, up to the budget of
    `tiling`."""
    batch_size: int
    """Global batch: samples per step over all ranks."""
    micro_batch: int
    """Samples a forward pass. Part of the recipe: it sets what BatchNorm sees and never follows the world size."""
    lr: float
    """Peak learning rate of the decoder and heads."""
    warmup: float = 0.05
    """Share of the phase's steps over which the rate rises to `lr`; how it then goes on is the schedule's."""
    schedule: str = "cosine"
    """A name of `steel.model.lr_schedule.SCHEDULES`."""
    lr_floor: float = 0.01
    """Where the schedule ends, as a share of `lr`."""
    lr_power: float = 0.9
    """Of the polynomial schedule; 1 is a straight line."""
    loss: LossConfig = LossConfig()
    sampling: SamplingConfig = SamplingConfig()

    def __post_init__(self) -> None:
        where = f"phase {self.name}"
        _require(
            0 < self.epochs <= MOST_EPOCHS,
            f"{where}: epochs {self.epochs:g} is not above 0 and at most {MOST_EPOCHS}",
        )
        _require(self.micro_batch > 0, f"{where}: micro-batch must be above 0")
        _require(
            self.batch_size > 0 and self.batch_size % self.micro_batch == 0,
            f"{where}: batch-size {self.batch_size} is no multiple of micro-batch {self.micro_batch} above 0",
        )
        _require(self.batch_size <= MOST_SAMPLES, f"{where}: batch-size {self.batch_size} is more than {MOST_SAMPLES}")
        _require(0 < self.lr < math.inf, f"{where}: lr {self.lr:g} is not a number above 0")
        _require(0 <= self.warmup < 1, f"{where}: warmup {self.warmup} is not in [0, 1)")
        _require(0 <= self.lr_floor < math.inf, f"{where}: lr-floor {self.lr_floor:g} is not a number from 0 on")
        _require(0 < self.lr_power < math.inf, f"{where}: lr-power {self.lr_power:g} is not a number above 0")
        _require(
            self.crop == (0, 0) or min(self.crop) > 0,
            f"{where}: crop {self.crop} is neither (0, 0) nor two sizes",
        )
        height, width = self.crop
        _require(
            height * width <= MOST_PIXELS,
            f"{where}: crop {height}x{width} has more than the {MOST_PIXELS} pixels of the largest image",
        )

    @property
    def micro_batches(self) -> int:
        """Micro-batches per step, over all ranks."""
        return self.batch_size // self.micro_batch


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and what surrounds it."""

    weight_decay: float = 0.01
    encoder_lr_scale: float = 1.0
    """The encoder's rate as a share of the phase's."""
    layer_decay: float = 1.0
    """Below 1, each stage of the encoder has so many times the rate of the one after it, and the last one the
    encoder's: what published weights know of edges and textures is changed less than what they know of objects. A stage
    ends where the decoder is given a feature. 1, all at one rate, by default: no figure says that another pays."""
    freeze_encoder_epochs: float = 0.0
    """Keep the encoder as it is for the first epochs of the first phase."""
    clip_norm: float = 1.0
    """Gradients are scaled down to at most this norm."""
    ema_decay: float = 0.0
    """Decay a step of the moving average of the weights; 0 turns it off. 1 fits any length: what is averaged is
    a tenth of the steps so far old, in the mean (polynomial averaging)."""
    swa: bool = False
    """Average the weights after each step of the last phase, all alike (stochastic weight averaging). That average is
    validated in the last phase, and one more candidate to ship. Off by default: no figure says that it pays."""
    average_top_k: int = 0
    """Average the weights of the k best epochs, 2 or more, as one more candidate to ship; 0 turns it off."""
    nonfinite_limit: int = 20
    """Stop after so many steps in a row with a non-finite loss or gradient."""

    def __post_init__(self) -> None:
        for name in ("weight_decay", "encoder_lr_scale", "freeze_encoder_epochs", "average_top_k"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"optim.{name.replace('_', '-')}: {value} is not 0 or a number above it")
        _require(self.average_top_k != 1, "optim.average-top-k: 1 epoch has no average; give 2 or more, or 0 for none")
        _require(self.nonfinite_limit > 0, f"optim.nonfinite-limit: {self.nonfinite_limit} is not above 0")
        _require(0 < self.layer_decay <= 1, f"optim.layer-decay: {self.layer_decay} is not in (0, 1]")
        _require(0 <= self.ema_decay <= 1, f"optim.ema-decay: {self.ema_decay} is not in [0, 1]")
        _require(
            not (self.swa and self.ema_decay > 0),
            f"optim.swa: a run has one average of its weights, and optim.ema-decay {self.ema_decay:g} asks for "
            "another; set that to 0 or leave swa out",
        )
        _require(self.clip_norm > 0, "optim.clip-norm must be above 0")


@dataclass(frozen=True)
class DistillConfig:
    """Learning from the answers of a model that there is already, such as an ensemble, besides the labels."""

    teacher: str = ""
    """Path or URL of a checkpoint for the same classes, of one network or of several; none when empty."""
    share: float = 0.5
    """Of the loss that is told from the teacher's probabilities, at every pixel, those without a truth included; the
    rest is told from the labels, and so is all of the coarser stages (`model.deep_supervision`)."""
    identity: str = ""
    """What tells the teacher's file from others."""

    def __post_init__(self) -> None:
        _require(0 < self.share <= 1, f"distill.share: {self.share} is not above 0 and at most 1")


@dataclass(frozen=True)
class TilingConfig:
    """How images of many pixels are evaluated and predicted: in overlapping tiles, which are blended. It is part of
    what a checkpoint's thresholds were tuned with, and travels in it."""

    budget: int = 1 << 21
    """Pixels, padded to whole strides, up to which an image goes through the network whole; also the most pixels of
    a full-size training crop, (0, 0)."""
    tile: int = 1024
    """Height and width of a tile in pixels; of an image that is narrower, tiles are as much longer. Rounded up to whole
    strides of the network, of which a tile has at least one more than the overlap."""
    overlap: int = 256
    """Pixels that neighbouring tiles share; a quarter of it is what the network may reach beyond a pixel to give the
    same as for the whole image."""

    def __post_init__(self) -> None:
        _require(self.budget > 0, f"tiling.budget: {self.budget} must be above 0")
        _require(self.overlap > 0, f"tiling.overlap: {self.overlap} must be above 0")
        _require(self.tile >= 2 * self.overlap, f"tiling.tile: {self.tile} is not at least twice the overlap")


@dataclass(frozen=True)
class ValidationConfig:
    """How weights are validated during training, and how the shipped decision is found."""

    every_epochs: float = 1.0
    patience: int = 0
    """Stop a phase after so many validations without a better score; 0 never stops early."""
    tta: tuple[Literal["hflip", "vflip", "hvflip"], ...] = ("hflip", "vflip", "hvflip")
    """Flips averaged with the plain view when the decision is tuned (not in each epoch's validation)."""

    def __post_init__(self) -> None:
        _require(
            0 < self.every_epochs <= MOST_EPOCHS,
            f"validation.every-epochs: {self.every_epochs:g} is not above 0 and at most {MOST_EPOCHS}",
        )
        _require(self.patience >= 0, f"validation.patience: {self.patience} is not 0 or a number above it")
        twice = next((view for view in self.tta if self.tta.count(view) > 1), "")
        _require(not twice, f"validation.tta: {twice} is given twice; give each view once")


@dataclass(frozen=True)
class RuntimeConfig:
    """How the run is carried out on this machine."""

    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """`auto` takes what `accelerate launch --mixed_precision` says; else bf16 on a device that is fast at it."""
    workers: int | Literal["auto"] = "auto"
    """Data-loader processes per rank; 0 loads in the training process. `auto` takes the cores that are the rank's own
    by the process's binding and its control group, less one for the rank itself, 16 at most; validation on a CPU
    reads local shards in the rank's own process."""
    decoded_cache: Literal["auto", "on", "off"] = "auto"
    """Hold decoded samples on this node's disk, shared by all its ranks and workers: batches are the same, and cost a
    copy in place of decoding. `auto` does where a short measurement of the disk says that it saves time."""
    decoded_bytes: int | None = None
    """What decoded samples of all data sets may take on that disk; half of the room that there is when None."""
    pixels_per_pass: int | None = None
    """Pixels in a forward pass of validation, in images of one padded size, at least one of them; what
    is fast on the device when None. Fewer need less memory. Another number may move the last bits of probabilities."""
    channels_last: bool = True
    """Images and weights of training in the order that tensor cores like better. On two CPU cores little depends on it,
    being 1.02 times as fast as NCHW (0.92 to 1.04, `bench/train_step.md`) in float32 and 1.01 times in bfloat16. On by
    default by that reasoning about tensor cores alone: it has not been measured on a GPU."""
    cudnn_benchmark: bool = False
    """Let cuDNN time its kernels for each new shape of a training batch and keep the fastest. A phase has one shape, so
    that it searches once a phase; validation, of many sizes, never does. Off by default: two searches may end
    otherwise, and a resumed run then has other last bits. That is reasoning alone: what it gains on a GPU has not been
    measured. On a CPU it does nothing."""
    tf32: bool = True
    """On GPUs that have it, train with TensorFloat-32 where numbers are float32: the weights' convolutions and matrix
    products with `precision no`, next to nothing else. On by default by reasoning alone, for bf16 keeps fewer bits
    still: what it gains on a GPU has not been measured. On a CPU it does nothing."""
    compile: Literal["auto", "on", "off"] = "off"
    """Compile forward pass, losses and backward pass of a training micro-batch with `torch.compile`, for each phase
    anew; validation never is. `auto` does so on a GPU where the phase is long enough and a short measurement says
    that it saves time; a resumed run takes the same choice. Compiled, losses agree with the others to a relative
    2e-3, and those of a resumed run with an undisturbed one's to 1e-5 (as tested in float32 on a CPU, six steps of a
    small network). Off by default: no figure from a GPU says yet that it pays."""
    save_minutes: float = 10.0
    """Minutes between two resumable states, by rank 0's clock; 0 saves none by time. One is put off while the one
    before it is still being written. Before each validation and on a stop signal one is saved, too. A save stalls
    training by at most one step (on two CPU cores; what it costs on a GPU has not been measured), but for one before a
    validation or on a stop signal, which cannot be put off and waits until the one before it is written."""
    save_every: int = 0
    """Steps between two resumable states, beside those by time; 0 saves none by steps. One is put off while the one
    before it is still being written."""
    keep_states: int = 2
    on_bad_sample: Literal["fail", "skip"] = "fail"
    """What to do with a sample whose bytes do not match their checksum."""
    max_bad_samples: int = 10
    """With `skip`: fail all the same beyond so many."""
    cache_dir: str | None = None
    """Where remote shards and decoded samples are kept on this node's disk; the user's cache folder when None."""
    cache_bytes: int | None = None
    """Keep at most so many bytes of them; all when None. A smaller cache wants `sampling.window-shards`."""

    def __post_init__(self) -> None:
        _require(self.workers == "auto" or self.workers >= 0, "runtime.workers cannot be negative")
        _require(self.decoded_bytes is None or self.decoded_bytes > 0, "runtime.decoded-bytes must be above 0")
        _require(self.pixels_per_pass is None or self.pixels_per_pass > 0, "runtime.pixels-per-pass must be above 0")
        _require(
            min(self.save_minutes, self.save_every) >= 0, "runtime: save-minutes and save-every cannot be negative"
        )
        _require(self.keep_states > 0, "runtime.keep-states must be above 0")
        _require(self.max_bad_samples >= 0, "runtime.max-bad-samples cannot be negative")
        _require(self.cache_bytes is None or self.cache_bytes > 0, "runtime.cache-bytes must be above 0")


@dataclass(frozen=True)
class TrackingConfig:
    """Where the run can be watched."""

    tracker: str = "wandb"
    """A name of `steel.tracking.trackers.TRACKERS`."""
    project: str = "steel-defects"
    group: str | None = None
    """Attempts of one job share a group; the run folder's name when None."""
    log_every: int = 10
    """Steps between two training records."""
    num_images: int = 4
    """Validation images shown with true and predicted masks."""

    def __post_init__(self) -> None:
        _require(self.log_every > 0, f"tracking.log-every: {self.log_every} is not above 0")
        _require(self.num_images >= 0, f"tracking.num-images: {self.num_images} is not 0 or a number above it")


@dataclass(frozen=True)
class Config:
    """Everything that says what a run computes, and how."""

    preset: str
    phases: tuple[PhaseConfig, ...]
    seed: int = 0
    folds: FoldsConfig = FoldsConfig()
    model: ModelConfig = ModelConfig()
    augment: Mapping[str, TransformConfig] = field(default_factory=dict)
    """By the names of `steel.loading.augment.TRANSFORMS`, which has their order too; what is off is left out."""
    optim: OptimConfig = OptimConfig()
    distill: DistillConfig = DistillConfig()
    validation: ValidationConfig = ValidationConfig()
    tiling: TilingConfig = TilingConfig()
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    extensions: Mapping[str, str] = field(default_factory=dict)
    """Names and digests of the modules that `STEEL_EXTENSIONS` brought in; see `steel.extensions`. No option."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why `--preset auto` chose what it did, a sentence by option. No option itself."""

    def __post_init__(self) -> None:
        _require(len(self.phases) > 0, "phases: a run needs at least one phase")
        _require(
            self.phases[0].sampling.hard == 0,
            f"phases.0.sampling.hard: {self.phases[0].sampling.hard:g}, but no validation comes before the first phase "
            "that could say what is hard; leave it at 0 there and set it for a later phase",
        )
        _require(0 <= self.seed < 2**63, f"seed: {self.seed} is not in [0, 2**63)")
        object.__setattr__(self, "augment", {name: given for name, given in self.augment.items() if given.p > 0})

    def told(self) -> dict[str, Any]:
        """All of it as plain JSON values, to be stored and shown: see `told_url` of where weights and teacher are."""
        model = replace(self.model, weights=told_url(self.model.weights))
        return to_dict(
            replace(self, model=model, distill=replace(self.distill, teacher=told_url(self.distill.teacher)))
        )

    def recipe(self) -> dict[str, Any]:
        """The part that must not change under a run: all but `runtime` and `tracking`, as `told` has it."""
        return recipe_of(self.told())


def recipe_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe in a configuration that is given as plain JSON values; see `Config.recipe`."""
    return {name: value for name, value in config.items() if name not in ("runtime", "tracking")}
