"""Random crops and augmentation of one sample, on uint8 pixels and bit-packed targets, seeded by a single number.

The crop comes first, so that all else touches few pixels; an affine distortion is part of the cut (one resampling,
real surroundings at the edges). The other transforms follow in the order of the table `TRANSFORMS`. All of them draw
from one stream of random numbers: albumentations' own `set_random_seed` would give each transform the same stream, and
with it the same verdict on whether to apply.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from random import Random
from statistics import NormalDist
from typing import Any

import cv2
import numpy as np

from steel.config import SamplingConfig, TransformConfig
from steel.errors import InputError
from steel.loading.crop import cut, cut_distorted, draw_distortion, draw_size, place_window, scale_to, to_target
from steel.loading.paste import Donor, paste_defect

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks the network for a newer version

import albumentations as A

_NORMAL = np.array([NormalDist().inv_cdf((byte + 0.5) / 256) for byte in range(256)])
"""The standard normal deviate that each value of a random byte stands for."""


class Augmenter:
    """Turns a whole sample into a training crop: a pure function of the sample, the seed and the target class.

    Raises:
        InputError: a transform that the table does not have.

    Args:
        transforms: how often and how strongly, by the names of `TRANSFORMS`; `affine` acts in the crop, the rest in the
            table's order after it. Those with a probability of 0 are left out and draw no random numbers.
        crop: height and width of the result in pixels. Smaller images are mirrored, and marked invalid there.
        sampling: `max_black` and `zoom` of the crops.
        num_classes: C.
        ignore_bit: the bitmasks' bit for ignored pixels, None when the set has none.
    """

    def __init__(
        self,
        transforms: Mapping[str, TransformConfig],
        crop: tuple[int, int],
        sampling: SamplingConfig,
        num_classes: int,
        ignore_bit: int | None,
    ) -> None:
        self.crop, self.num_classes, self.ignore_bit = crop, num_classes, ignore_bit
        self.max_black, self.zoom = sampling.max_black, sampling.zoom
        self.invalid = 1 << num_classes
        check_transforms(transforms)
        self._active = {name: transforms[name] for name in TRANSFORMS if name in transforms and transforms[name].p > 0}
        self._affine = self._active.pop(AFFINE, None)
        self._compose = self._build()

    def _build(self) -> A.Compose:
        built = [TRANSFORMS[name].build(given, self.crop, self.num_classes) for name, given in self._active.items()]
        return A.Compose(built, is_check_shapes=False)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_compose"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._compose = self._build()

    def __call__(
        self,
        image: np.ndarray,
        bitmask: np.ndarray,
        *,
        seed: int,
        target_class: int = 0,
        donor: Donor | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Crop and augment one sample.

        Args:
            image: (H, W) or (H, W, 3) uint8.
            bitmask: (H, W) uint8 or uint16, bit k = class k + 1.
            seed: 64 bits; see `steel.loading.sampler.sample_seeds`.
            target_class: 1-based; the crop holds pixels of it if the image does (but for a blackout, and for what is
                thinner than a pixel at its scale). 0 = any crop.
            donor: of a defect that is pasted into the crop; see `paste_defect`.

        Returns:
            The crop (h, w[, 3]) uint8 and its target (h, w): bits 0..C-1 = classes, bit C = invalid; uint8 for up to
            7 classes, else int32.
        """
        rng = Random(seed)
        target = to_target(bitmask, self.num_classes, self.ignore_bit)
        size = draw_size(rng, self.crop, self.zoom)
        window = place_window(rng, image, target, size, target_class=target_class, max_black=self.max_black)
        if self._affine is None or rng.random() >= self._affine.p:
            image, target = cut(image, target, window, size, self.invalid)
        else:
            distortion = draw_distortion(rng, self._affine.strength, window, size)
            image, target = cut_distorted(image, target, window, distortion, size, self.invalid)
        if donor is not None:
            image, target = paste_defect(rng, image, target, donor)
        image, target = scale_to(image, target, self.crop)
        self._compose.set_random_state(np.random.default_rng(seed), rng)
        result = self._compose(image=image, mask=target)
        return result["image"], result["mask"]


class QuarterTurns(A.DualTransform):
    """Turn image and mask by some multiple of 90 degrees, each of `quarters` as likely."""

    def __init__(self, quarters: tuple[int, ...], p: float = 0.5) -> None:
        super().__init__(p=p)
        self.quarters = quarters

    def get_params(self) -> dict[str, Any]:
        """How many quarters, drawn evenly."""
        return {"quarters": self.py_random.choice(self.quarters)}

    def apply(self, img: np.ndarray, quarters: int, **params: Any) -> np.ndarray:
        """The image (H, W[, 3]) uint8, turned."""
        codes = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}
        return cv2.rotate(img, codes[quarters])

    def apply_to_mask(self, mask: np.ndarray, quarters: int, **params: Any) -> np.ndarray:
        """The bitmask (H, W), turned alike."""
        return self.apply(mask, quarters)


class SensorNoise(A.ImageOnlyTransform):
    """Normal noise, each pixel and channel its own, from one random byte each: a tenth of the usual cost."""

    def __init__(self, sigma: tuple[float, float], p: float = 0.5) -> None:
        super().__init__(p=p)
        self.sigma = sigma

    def get_params(self) -> dict[str, Any]:
        """The standard deviation in gray levels, drawn evenly."""
        return {"sigma": self.py_random.uniform(*self.sigma)}

    def apply(self, img: np.ndarray, sigma: float, **params: Any) -> np.ndarray:
        """The image uint8 with noise, cut off at black and white."""
        table = np.rint(_NORMAL * sigma).clip(-128, 127).astype(np.int8)
        picks = np.frombuffer(self.random_generator.bytes(img.size), np.uint8).reshape(img.shape)
        return cv2.add(img, cv2.LUT(picks, table), dtype=cv2.CV_8U)


class DefectBlackout(A.DualTransform):
    """Make a defective crop a clean one: every defect, with a margin around it, is hidden and no class bit is left.

    Half of the time the pixels turn black, else they take steel from elsewhere in the crop.
    """

    def __init__(self, num_classes: int, margin: int, p: float = 0.5) -> None:
        super().__init__(p=p)
        self.num_classes, self.margin = num_classes, margin

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Which pixels are hidden, what fills them, and the bits of the mask that stay."""
        image, mask = data["image"], data["mask"]
        class_bits = mask.dtype.type((1 << self.num_classes) - 1)
        defect = ((mask & class_bits) != 0).astype(np.uint8)
        side = 2 * self.margin + 1
        hidden = cv2.dilate(defect, np.ones((side, side), np.uint8)).astype(bool)
        black, shift = self.py_random.random() < 0.5, self.py_random.randrange(1, max(2, image.shape[1]))
        filling = np.zeros_like(image) if black or hidden.all() else _steel_from_elsewhere(image, hidden, shift)
        return {"hidden": hidden, "filling": filling, "kept_bits": ~class_bits}

    def apply(self, img: np.ndarray, hidden: np.ndarray, filling: np.ndarray, **params: Any) -> np.ndarray:
        """The image uint8 without its defects."""
        return np.where(hidden if img.ndim == 2 else hidden[:, :, None], filling, img)

    def apply_to_mask(self, mask: np.ndarray, kept_bits: np.integer, **params: Any) -> np.ndarray:
        """The bitmask without class bits."""
        return mask & kept_bits


def _steel_from_elsewhere(image: np.ndarray, hidden: np.ndarray, shift: int) -> np.ndarray:
    """The image moved sideways, around its edge; what would show a hidden pixel there shows the mean of the others."""
    moved = np.roll(image, shift, axis=1)
    moved[np.roll(hidden, shift, axis=1)] = np.rint(image[~hidden].mean(axis=0)).astype(np.uint8)
    return moved


class SideBars(A.DualTransform):
    """A black bar at one side, as at the edge of the strip; nothing is marked as a defect there.

    A bar that would hide all that is visible of some class is left out.
    """

    def __init__(self, num_classes: int, max_share: float, p: float = 0.5) -> None:
        super().__init__(p=p)
        self.num_classes, self.max_share = num_classes, max_share

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """The columns of the bar, and the bits of the mask that stay there."""
        mask, whole = data["mask"], data["mask"].shape[1]
        width = round(whole * self.py_random.uniform(0, self.max_share))
        bar, rest = (slice(0, width), slice(width, whole))
        if self.py_random.random() < 0.5:
            bar, rest = (slice(whole - width, whole), slice(0, whole - width))
        class_bits = mask.dtype.type((1 << self.num_classes) - 1)
        hidden = np.bitwise_or.reduce(mask[:, bar], axis=None) & class_bits
        visible = np.bitwise_or.reduce(mask[:, rest], axis=None)
        return {"bar": slice(0, 0) if hidden & ~visible else bar, "kept_bits": ~class_bits}

    def apply(self, img: np.ndarray, bar: slice, **params: Any) -> np.ndarray:
        """The image uint8, black in the bar."""
        img = img.copy()
        img[:, bar] = 0
        return img

    def apply_to_mask(self, mask: np.ndarray, bar: slice, kept_bits: np.integer, **params: Any) -> np.ndarray:
        """The bitmask without class bits in the bar."""
        mask = mask.copy()
        mask[:, bar] &= kept_bits
        return mask


@dataclass(frozen=True)
class Transform:
    """An augmentation of crops."""

    meaning: str
    """In a few words, for `--help`."""
    build: Callable[[TransformConfig, tuple[int, int], int], A.BasicTransform]
    """From how often and how strongly, the crop's height and width, and the number of class bits in the mask, to an
    albumentations transform of `image` and `mask`. It draws from `py_random` and `random_generator` alone, keeps the
    mask's bits in step with the image, and sets the bit above the classes where pixels have no truth."""
    has_strength: bool = True
    """Whether that changes anything: a flip is a flip."""


def _part_of_the_crop(*_: object) -> A.BasicTransform:
    raise AssertionError("the crop is cut so, see `Augmenter.__call__`")


def _brightness_contrast(given: TransformConfig, *_: object) -> A.BasicTransform:
    limit = min(0.2 * given.strength, 0.9)
    return A.RandomBrightnessContrast(brightness_limit=limit, contrast_limit=limit, p=given.p)


def _quarter_turns(given: TransformConfig, crop: tuple[int, int], _: int) -> A.BasicTransform:
    return QuarterTurns(quarters=(1, 2, 3) if crop[0] == crop[1] else (2,), p=given.p)


def _gamma(given: TransformConfig, *_: object) -> A.BasicTransform:
    factor = 1 + 0.25 * given.strength
    return A.RandomGamma(gamma_limit=(100 / factor, 100 * factor), p=given.p)


def _blackout(given: TransformConfig, _: tuple[int, int], num_classes: int) -> A.BasicTransform:
    return DefectBlackout(num_classes=num_classes, margin=round(8 * given.strength), p=given.p)


def _side_bars(given: TransformConfig, _: tuple[int, int], num_classes: int) -> A.BasicTransform:
    return SideBars(num_classes=num_classes, max_share=min(0.25 * given.strength, 0.9), p=given.p)


AFFINE = "affine"
TRANSFORMS: dict[str, Transform] = {
    "hflip": Transform("flip left-right", lambda given, *_: A.HorizontalFlip(p=given.p), has_strength=False),
    "vflip": Transform("flip top-bottom", lambda given, *_: A.VerticalFlip(p=given.p), has_strength=False),
    "brightness_contrast": Transform("brightness and contrast", _brightness_contrast),
    "rotate90": Transform(
        "quarter turns; of crops that are not square, half a turn", _quarter_turns, has_strength=False
    ),
    AFFINE: Transform("rotation, shear, shift and scale, as part of the crop", _part_of_the_crop),
    "gamma": Transform("gamma", _gamma),
    "noise": Transform(
        "sensor noise, each pixel its own",
        lambda given, *_: SensorNoise(sigma=(2.0 * given.strength, 8.0 * given.strength), p=given.p),
    ),
    "blur": Transform(
        "blur", lambda given, *_: A.GaussianBlur(blur_limit=0, sigma_limit=(0.3, 1.2 * given.strength), p=given.p)
    ),
    "blackout": Transform("every defect is hidden, and no class is left", _blackout),
    "side_bars": Transform("a black bar at one side, as at the edge of the strip", _side_bars),
}
"""Every transform by name, in the order in which they are applied; each has options, `--augment.NAME.p` and
`--augment.NAME.strength`."""


def check_transforms(names: Iterable[str]) -> None:
    """Raises InputError for the name of a transform that the table does not have."""
    unknown = sorted(set(names) - TRANSFORMS.keys())
    if unknown:
        raise InputError(f"augment.{unknown[0]}: unknown; there are {', '.join(TRANSFORMS)}")
