"""The shard contract: codecs, keys, tar members, manifest and index."""

import io
import json
from dataclasses import replace

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from webdataset.tariterators import base_plus_ext

from steel.errors import InputError
from steel.images.bitmask import mask_areas, pack_masks, unpack_masks
from steel.images.decode import decode_labels
from steel.shards.format import FoldLevels, Manifest, ShardInfo, index_schema, sample_key, write_index
from steel.shards.mask_codec import decode_stored_mask, encode_mask

BITMASKS = st.sampled_from([np.uint8, np.uint16]).flatmap(
    lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9))
)


def manifest(**changes: object) -> Manifest:
    values = Manifest(
        class_names=("spot", "scratch"),
        num_samples=3,
        num_positive=(1, 2),
        num_clean=1,
        channels=1,
        mean=(0.25,),
        std=(0.125,),
        ignore_bit=None,
        folds=2,
        num_groups=3,
        seed=0,
        shards=(ShardInfo("shard-000000.tar", 3, 4096, "ab" * 32),),
        index_size=100,
        index_sha256="cd" * 32,
    )
    return replace(values, **changes)


# --- masks -----------------------------------------------------------------------------------------------------------


@given(BITMASKS)
def test_masks_come_back_and_any_decoder_reads_them(bitmask: np.ndarray) -> None:
    data = encode_mask(bitmask)
    assert decode_labels(data).dtype == bitmask.dtype
    assert np.array_equal(decode_labels(data), bitmask)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), bitmask)
    assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), bitmask)


def test_masks_of_other_writers_are_read() -> None:
    bitmask = np.arange(60, dtype=np.uint8).reshape(6, 10)
    for level in (0, 1, 9):
        data = cv2.imencode(".png", bitmask, [cv2.IMWRITE_PNG_COMPRESSION, level])[1].tobytes()
        assert np.array_equal(decode_labels(data), bitmask)
    palette = Image.fromarray(bitmask, "P")
    palette.putpalette([7, 3, 200] * 256)
    buffer = io.BytesIO()
    palette.save(buffer, "PNG")
    assert np.array_equal(decode_labels(buffer.getvalue()), bitmask)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_every_damaged_byte_of_a_mask_is_noticed_or_harmless(kind: type) -> None:
    bitmask = np.random.default_rng(0).integers(0, 4, (9, 11)).astype(kind)
    data = encode_mask(bitmask)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        try:
            assert np.array_equal(decode_labels(bytes(damaged)), bitmask), position
        except ValueError:
            continue


def test_a_mask_cut_anywhere_is_refused() -> None:
    data = encode_mask(np.eye(9, 11, dtype=np.uint8))
    for length in range(len(data)):
        with pytest.raises(ValueError):
            decode_labels(data[:length])


def test_masks_in_colour_are_refused() -> None:
    data = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    for coding in ("bitmask", "labels", "binary"):
        with pytest.raises(ValueError, match="more than one channel"):
            decode_stored_mask(manifest(mask_coding=coding), data, 4, 4)


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=12)))
def test_packing_keeps_every_mask(masks: np.ndarray) -> None:
    bitmask = pack_masks(masks)
    assert bitmask.dtype == (np.uint8 if len(masks) <= 8 else np.uint16)
    assert np.array_equal(unpack_masks(bitmask, len(masks)), masks)
    assert mask_areas(bitmask, len(masks)) == masks.sum((1, 2)).tolist()


def test_packing_by_hand() -> None:
    masks = np.array([[[1, 0, 1]], [[0, 0, 1]], [[0, 0, 1]]], bool)
    assert pack_masks(masks).tolist() == [[1, 0, 7]]


def test_areas_leave_out_ignored_pixels() -> None:
    assert mask_areas(np.array([[0x80, 0x81, 2, 0]], np.uint8), 2) == [1, 1]
    assert mask_areas(np.array([[0x80, 0x80]], np.uint8), 2) == [0, 0]


# --- masks as others store them --------------------------------------------------------------------------------------


def stored(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_label_maps_become_bitmasks() -> None:
    labels = manifest(mask_coding="labels", ignore_value=255, ignore_bit=7)
    data = stored(np.array([[0, 1, 2, 255]], np.uint8))
    assert decode_stored_mask(labels, data, 1, 4).tolist() == [[0, 1, 2, 128]]
    with pytest.raises(ValueError, match="value 3, beyond 2 classes"):
        decode_stored_mask(labels, stored(np.array([[3]], np.uint8)), 1, 1)


def test_label_maps_of_many_classes_need_16_bits() -> None:
    labels = manifest(mask_coding="labels", class_names=tuple("abcdefghi"), ignore_value=255, ignore_bit=15)
    bitmask = decode_stored_mask(labels, stored(np.array([[9, 255]], np.uint8)), 1, 2)
    assert bitmask.dtype == np.uint16
    assert bitmask.tolist() == [[1 << 8, 1 << 15]]


def test_planes_become_bitmasks() -> None:
    planes = np.zeros((1, 3, 3), np.uint8)
    planes[0, :, 0], planes[0, 1, 2] = (255, 255, 0), 9
    three = manifest(mask_coding="planes", class_names=("a", "b", "c"))
    assert decode_stored_mask(three, stored(planes), 1, 3).tolist() == [[1, 5, 0]]
    with pytest.raises(ValueError, match="3 channels for 2 classes"):
        decode_stored_mask(manifest(mask_coding="planes"), stored(planes), 1, 3)


def test_binary_masks_and_missing_ones() -> None:
    binary = manifest(mask_coding="binary", class_names=("defect",))
    assert decode_stored_mask(binary, stored(np.array([[0, 255, 3]], np.uint8)), 1, 3).tolist() == [[0, 1, 1]]
    assert decode_stored_mask(binary, b"", 2, 3).tolist() == [[0] * 3] * 2


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="the mask is 2x3, the image 3x2"):
        decode_stored_mask(manifest(), encode_mask(np.zeros((2, 3), np.uint8)), 3, 2)


# --- keys and tars ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image_id", "key"),
    [
        ("0002cc93b.jpg", "0002cc93b"),
        ("coil.7/a.b.JPG", "coil%2E7/a%2Eb"),
        ("coil%2E7/a.jpg", "coil%252E7/a"),
        ("__extra__/a.jpg", "%5F_extra__/a"),
        ("Stück 1.png", "Stück 1"),
        ("folder.d/noextension", "folder%2Ed/noextension"),
    ],
)
def test_keys(image_id: str, key: str) -> None:
    assert sample_key(image_id) == key


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=["Cc", "Cs"]), min_size=1)
PATHS = st.lists(NAMES.filter(lambda name: not name.startswith(".")), min_size=1, max_size=3).map("/".join)


@given(PATHS, PATHS)
def test_different_images_have_different_keys_that_webdataset_reads_back(one: str, other: str) -> None:
    keys = sample_key(f"{one}.jpg"), sample_key(f"{other}.jpg")
    assert (keys[0] == keys[1]) == (one == other)
    for extension in ("jpg", "mask.png", "json"):
        assert base_plus_ext(f"{keys[0]}.{extension}") == (keys[0], extension)


# --- manifest and index ----------------------------------------------------------------------------------------------


def test_a_manifest_comes_back(tmp_path) -> None:
    text = manifest(options={"resize": [4, 5]}).to_json()
    (tmp_path / "manifest.json").write_text(text)
    loaded = Manifest.load(str(tmp_path))
    assert loaded == manifest(options={"resize": [4, 5]})
    assert loaded.to_json() == text
    assert loaded.digest == manifest(options={"resize": [4, 5]}).digest
    assert loaded.digest != manifest().digest


def test_gray_levels_of_folds_come_back_and_older_sets_without_keep_their_digest() -> None:
    levels = (FoldLevels(1, 0.25, 0.0), FoldLevels(2, 1 / 3, 0.1))
    text = manifest(fold_levels=levels).to_json()
    assert json.loads(text)["fold_levels"][0] == {"num_images": 1, "mean": 0.25, "std": 0.0}
    assert Manifest.from_json(text) == manifest(fold_levels=levels)
    older = manifest().to_json()
    assert "fold_levels" not in json.loads(older)
    assert Manifest.from_json(older).fold_levels is None
    assert Manifest.from_json(older).digest == "eb1818e4066f08fe0512037aaf10971ce0f1f5f5063105c43f5d2be2be89f177"


def test_the_digest_follows_the_content_of_shards_and_index() -> None:
    shard = ShardInfo("shard-000000.tar", 3, 4096, "ac" * 32)
    digests = {m.digest for m in (manifest(), manifest(shards=(shard,)), manifest(index_sha256="ce" * 32))}
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "not a manifest"),
        ("[]", "not a manifest"),
        ('{"version": 1}', "not a manifest"),
        ('{"version": 99}', "format version 99"),
    ],
)
def test_foreign_manifests_are_refused(tmp_path, text: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=message):
        Manifest.load(str(tmp_path))


def test_a_folder_without_manifest_is_unfinished(tmp_path) -> None:
    with pytest.raises(InputError, match="an unfinished job has none yet"):
        Manifest.load(str(tmp_path))


def test_the_index_is_one_batch_of_plain_columns(tmp_path) -> None:
    schema = index_schema(2)
    row = {f.name: 0 if pa.types.is_integer(f.type) else [1, 2] if f.name == "areas" else "a" for f in schema}
    table = pa.concat_tables([pa.Table.from_pylist([row], schema)] * 3)
    with open(tmp_path / "index.arrow", "wb") as file:
        write_index(table, file)
        assert not file.closed
    with pa.memory_map(str(tmp_path / "index.arrow")) as source, pa.ipc.open_file(source) as reader:
        assert reader.num_record_batches == 1
        columns = reader.read_all()
    assert columns["fold"].chunk(0).to_numpy(zero_copy_only=True).tolist() == [0, 0, 0]
    assert json.dumps(columns["areas"].to_pylist()) == "[[1, 2], [1, 2], [1, 2]]"
