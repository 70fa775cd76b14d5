"""Hidden duplicates: copies under every flip and turn are found, and what merely looks alike is not."""

import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_prep.duplicates import _TRANSFORMS, SIGNATURE_DTYPE, group_duplicates, image_signature, join_groups

pytest.importorskip("imagehash")
REAL_DATA = os.environ.get("STEEL_REAL_DATA")


def texture(seed: int, height: int = 120, width: int = 120) -> np.ndarray:
    """Steel-like: grain, patches and uneven light; (height, width) uint8."""
    rng = np.random.default_rng(seed)
    grain = rng.normal(0, 6, (height, width))
    patches = cv2.resize(rng.normal(0, 12, (height // 10, width // 10)), (width, height), interpolation=cv2.INTER_CUBIC)
    light = np.linspace(70, 150, width)
    return np.clip(grain + patches + light, 0, 255).astype(np.uint8)


def eight_ways(image: np.ndarray) -> list[np.ndarray]:
    return [turned for k in range(4) for turned in (np.rot90(image, k), np.rot90(image, k)[:, ::-1])]


def groups_of(images: list[np.ndarray]) -> list[int]:
    return group_duplicates([image_signature(image) for image in images])[0].tolist()


def test_flips_and_turns_are_one_group_and_others_are_not():
    images = [turned for seed in range(4) for turned in eight_ways(texture(seed))]
    assert groups_of(images) == [k // 8 for k in range(32)]


def test_a_signature_is_small_and_knows_the_shape():
    signature = image_signature(texture(0, 40, 90))
    assert len(signature) == SIGNATURE_DTYPE.itemsize == 1072
    record = np.frombuffer(signature, SIGNATURE_DTYPE)[0]
    assert (record["height"], record["width"]) == (40, 90)


@pytest.mark.parametrize(
    "change",
    [
        lambda x, rng: cv2.imdecode(cv2.imencode(".jpg", x, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], cv2.IMREAD_GRAYSCALE),
        lambda x, rng: np.clip(x + rng.normal(0, 4, x.shape), 0, 255).astype(np.uint8),
        lambda x, rng: (x * 0.7 + 20).astype(np.uint8),
        lambda x, rng: cv2.resize(x, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
        lambda x, rng: np.roll(x, 1, axis=1),
        lambda x, rng: np.where(np.arange(x.shape[1]) < x.shape[1] // 10, 0, x),  # a tenth is covered
    ],
    ids=["jpeg", "noise", "darker", "half size", "shifted", "partly black"],
)
def test_near_duplicates(change):
    rng = np.random.default_rng(0)
    originals = [texture(seed, 128, 512) for seed in range(12)]
    copies = [change(np.ascontiguousarray(image[::-1]), rng) for image in originals]
    assert groups_of(originals + copies) == [*range(12)] * 2


@pytest.mark.parametrize("height", [32, 48, 63])
def test_near_duplicates_of_low_strips(height):
    """Their height grows to that of the thumbnails, while their width shrinks."""
    originals = [texture(seed, height, 1600) for seed in range(8)]
    assert groups_of(originals + [np.roll(image, 3, axis=1) for image in originals]) == [*range(8)] * 2


def test_strips_match_by_their_shape():
    strip = texture(3, 64, 400)
    others = [strip[::-1], strip[:, ::-1], np.rot90(strip), np.rot90(strip)[::-1]]
    assert groups_of([strip, *others]) == [0] * 5
    squeezed = cv2.resize(strip, (160, 160), interpolation=cv2.INTER_AREA)
    assert groups_of([strip, squeezed]) == [0, 1]


def test_what_looks_alike_for_want_of_texture_is_not_grouped():
    rng = np.random.default_rng(1)
    shape = (64, 256)
    flat = [np.zeros(shape, np.uint8), np.zeros(shape, np.uint8), np.full(shape, 200, np.uint8)]
    gradient = [np.broadcast_to(np.linspace(20, 220, 256), shape).astype(np.uint8)] * 2
    almost_black = [rng.integers(0, 3, shape).astype(np.uint8) for _ in range(20)]
    images = [*flat, *gradient, *almost_black]
    groups, report = group_duplicates([image_signature(image) for image in images])
    assert groups.tolist() == [0, 1, 2, 3, 3, *range(4, len(images) - 1)]  # the gradient stands there twice
    assert report.num_flat >= 5


def test_exact_copies_are_found_however_smooth_the_steel_is():
    rng = np.random.default_rng(0)
    smooth = [np.clip(100 + k + 1.5 * rng.standard_normal((256, 1600)), 0, 255).astype(np.uint8) for k in range(12)]
    pit = smooth[0].copy()
    pit[40:46, 60:66] -= 40
    images = [*smooth, pit, *smooth[::-1], smooth[0].reshape(1600, 256)]  # the last in other rows
    groups, report = group_duplicates([image_signature(image) for image in images])
    assert groups.tolist() == [*range(13), *range(11, -1, -1), 13]
    assert report.groups == tuple((k, 24 - k) for k in range(12))
    assert report.told() == [
        "24 images lie in 12 groups of duplicates",
        f"too little texture to look for more than exact copies: {report.num_flat} images",
    ]
    assert report.num_flat >= 24


def test_a_common_edge_light_or_stripe_does_not_make_duplicates():
    images = []
    for seed in range(30):
        image = texture(seed, 64, 400)
        image[:, :150] = 0  # off the strip
        image[:, 200:204] = 230  # a stripe along the line
        images.append(image)
    assert groups_of(images) == list(range(30))


def test_a_crowd_of_copies_is_one_group():
    rng = np.random.default_rng(0)
    ways = eight_ways(texture(0))
    crowd = [np.clip(ways[k % 8] + rng.normal(0, 2, (120, 120)), 0, 255).astype(np.uint8) for k in range(150)]
    groups, report = group_duplicates([image_signature(image) for image in [*crowd, texture(1), texture(2)]])
    assert groups.tolist() == [0] * 150 + [1, 2]
    assert report.groups == (tuple(range(150)),)


def test_the_order_of_images_does_not_matter():
    images = [turned for seed in range(20) for turned in eight_ways(texture(seed))[: 1 + seed % 3]]
    signatures = [image_signature(image) for image in images]
    groups, _ = group_duplicates(signatures)
    shuffle = np.random.default_rng(0).permutation(len(images))
    shuffled, _ = group_duplicates([signatures[k] for k in shuffle])
    assert shuffled.dtype == np.int32
    for k in range(len(images)):
        assert np.array_equal(shuffled == shuffled[k], groups[shuffle] == groups[shuffle[k]])
    _, first = np.unique(shuffled, return_index=True)
    assert np.array_equal(first, np.sort(first))  # numbered by the first image of each


def test_the_report_names_groups_and_warns_of_large_ones():
    images = [texture(0), texture(1), texture(0)[::-1], texture(2), texture(1), *[texture(0)] * 4]
    images += [texture(seed) for seed in range(3, 244)]
    names = [f"{k}.jpg" for k in range(len(images))]
    _, report = group_duplicates([image_signature(image) for image in images])
    assert report.to_dict(names) == {
        "num_images": 250,
        "num_groups": 244,
        "num_flat": 0,
        "groups": [["0.jpg", "2.jpg", "5.jpg", "6.jpg", "7.jpg", "8.jpg"], ["1.jpg", "4.jpg"]],
    }
    (warning,) = report.warnings(names)  # 2 are not many
    assert warning.startswith("6 of 250 images are one group")
    assert "0.jpg, 2.jpg, 5.jpg" in warning
    assert replace(report, num_images=600).warnings(names) == []  # 6 are not more than 1 %


@pytest.mark.parametrize("number", [0, 1])
def test_few_images(number):
    groups, report = group_duplicates([image_signature(texture(0))] * number)
    assert groups.tolist() == [0] * number
    assert (report.num_images, report.num_groups, report.groups) == (number, number, ())


def test_hashes_are_transformed_without_the_image():
    image = texture(5)

    def hash_of(pixels: np.ndarray) -> np.ndarray:
        record = np.frombuffer(image_signature(np.ascontiguousarray(pixels)), SIGNATURE_DTYPE)
        return np.unpackbits(record["hash"], axis=1).reshape(-1, 16, 16).astype(bool)

    assert len(set(_TRANSFORMS)) == 8
    for transform in _TRANSFORMS:
        expected = hash_of(transform.of_images(image[None])[0])
        assert np.count_nonzero(transform.of_hashes(hash_of(image)) != expected) <= 24  # those near the median


@pytest.mark.skipif(not REAL_DATA, reason="STEEL_REAL_DATA is not set")
def test_neu_seg_is_about_900_originals():
    paths = sorted(Path(str(REAL_DATA), "neu_seg", "images").glob("*.jpg"))
    signatures = [image_signature(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)) for path in paths]
    groups, report = group_duplicates(signatures)
    assert 850 <= report.num_groups <= 900
    assert np.median(np.bincount(groups)) == 4
    assert not report.warnings([path.name for path in paths])


@pytest.mark.skipif(not REAL_DATA, reason="STEEL_REAL_DATA is not set")
def test_real_strips_are_almost_all_different():
    paths = sorted(Path(str(REAL_DATA), "severstal_sample", "train_images").glob("*.jpg"))
    _, report = group_duplicates([image_signature(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)) for path in paths])
    assert report.num_groups >= 0.95 * len(paths)


def test_groups_that_share_an_image_become_one():
    # 0 and 2 are copies; so are 3 and 4. The user knows that 2 and 3 are of one coil, and 5 and 6 of another.
    copies, coils = np.array([7, 1, 7, 3, 3, 5, 6]), np.array([0, 1, 2, 2, 3, 4, 4])
    assert join_groups(copies, coils).tolist() == [0, 1, 0, 0, 0, 2, 2]
    assert join_groups(coils, copies).tolist() == [0, 1, 0, 0, 0, 2, 2]
    assert join_groups(np.zeros(0, int), np.zeros(0, int)).tolist() == []
