"""Named configurations. A preset is plain Python: copy one, change it, give it a name."""

from dataclasses import replace

from steel.config import (
    Config,
    FoldsConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    PhaseConfig,
    SamplingConfig,
    TrackingConfig,
    TransformConfig,
    ValidationConfig,
)
from steel.errors import InputError

AUGMENT = {"hflip": TransformConfig(0.5), "vflip": TransformConfig(0.5)}
"""All others are off; `bench/quality.md` says what each is worth."""

SEVERSTAL = Config(
    preset="severstal",
    model=ModelConfig(architecture="Unet", encoder="resnet34"),
    augment=AUGMENT,
    phases=(
        PhaseConfig(
            name="crops",
            epochs=30,
            crop=(256, 512),
            batch_size=64,
            micro_batch=8,
            lr=2e-3,
            loss=LossConfig({"bce": 0.75, "dice": 0.25, "classification": 0.02}, absent=0.0),
            sampling=SamplingConfig(defect_crop=0.5),
        ),
        PhaseConfig(
            name="full",
            epochs=8,
            crop=(0, 0),
            batch_size=64,
            micro_batch=8,
            lr=2e-4,
            loss=LossConfig({"bce": 0.5, "lovasz": 0.5, "classification": 0.02}, absent=0.0),
            sampling=SamplingConfig(defect_crop=0.0),
        ),
    ),
)
"""The recipe for the full data set of Severstal on a GPU.

Micro-batches of 8 leave a step's batch of 64 to up to eight GPUs. The rates are those that go with it, by the square
root of the batch from 1e-3 at 16: on rendered strips, in micro-batches of 8 at equal passes, batches of 64 at the rates
of 16 were 4.6 points of mean IoU worse than of 16 after 321 steps, and at these 0.95, which may be chance; after 102
steps they were 3.4 worse at these (`batches` in `bench/quality.md`, one seed, EfficientNet-Lite0). On real steel they
were 10.7 and 9.7 points worse at these after 59 and 19 steps, and after 187 0.7, which may be chance (`batches-neu`,
`batches-bsdata`, three seeds). Few steps want small batches, which is why `auto` halves them. Thousands of steps, and
ResNet-34, have not been compared: that needs a GPU.
"""

_CROPS, _FULL = SEVERSTAL.phases

DEMO = replace(
    SEVERSTAL,
    preset="demo",
    folds=FoldsConfig(test=()),  # its test images are a data set of their own
    model=ModelConfig(encoder="tu-test_resnet", decoder_channels=(48, 32, 16, 8), weights="none", dropout=0.1),
    validation=ValidationConfig(every_epochs=17),
    tracking=TrackingConfig(log_every=100),
    phases=(
        replace(
            _CROPS,
            epochs=34,
            crop=(64, 64),
            batch_size=8,
            micro_batch=4,
            lr=4e-3,
            loss=replace(_CROPS.loss, weights={"bce": 0.75, "dice": 0.75, "classification": 0.02}),
            sampling=SamplingConfig(defect_crop=1.0),
        ),
        replace(
            _FULL,
            epochs=1,
            batch_size=8,
            micro_batch=4,
            lr=3e-4,
        ),
    ),
)
"""The same phases for minutes on two CPU cores: a small network from scratch on images of 64x400."""

SMOKE = replace(
    DEMO,
    preset="smoke",
    folds=FoldsConfig(),
    model=ModelConfig(encoder="resnet18", decoder_channels=(16, 8, 8), weights="none", dropout=0.1),
    optim=OptimConfig(ema_decay=0.97),
    validation=ValidationConfig(tta=("hflip",)),
    tracking=TrackingConfig(),
    phases=(
        replace(_CROPS, epochs=2, crop=(32, 64), batch_size=8, micro_batch=2, lr=3e-3),
        replace(_FULL, epochs=1, batch_size=8, micro_batch=2, lr=3e-4),
    ),
)
"""Seconds: to see whether everything works, the moving average included, not to learn."""

_FINE_TUNING = OptimConfig(weight_decay=0.05, encoder_lr_scale=0.05)
"""As is usual for encoders of layer normalisation or attention, at 1e-4. Not measured here."""

ENCODERS = (
    replace(SEVERSTAL, preset="efficientnet-b3", model=ModelConfig(encoder="efficientnet-b3")),
    replace(
        SEVERSTAL,
        preset="convnext-tiny",
        model=ModelConfig(encoder="tu-convnext_tiny.fb_in22k_ft_in1k"),
        optim=_FINE_TUNING,
    ),
    replace(SEVERSTAL, preset="segformer-b2", model=ModelConfig("Segformer", encoder="mit_b2"), optim=_FINE_TUNING),
    replace(
        SEVERSTAL,
        preset="dinov3-vit-small",
        model=ModelConfig("DPT", encoder="tu-vit_small_patch16_dinov3.lvd1689m"),
        optim=_FINE_TUNING,
    ),
)
"""The same recipe on today's encoders; `bench/encoders.md` has their sizes and the licences of their weights. What
they score has not been measured."""

AUTO = "auto"
"""The preset that is made of the shards; see `train.auto_recipe`."""

PRESETS = {preset.preset: preset for preset in (SEVERSTAL, *ENCODERS, DEMO, SMOKE)}


def get_preset(name: str) -> Config:
    """The preset called `name`.

    Raises:
        InputError: there is none; lists those there are.
    """
    if name not in PRESETS:
        raise InputError(f"--preset {name}: unknown; there are {', '.join((AUTO, *PRESETS))}")
    return PRESETS[name]
