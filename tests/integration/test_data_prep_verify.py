"""The check of a shard folder finds every kind of damage and names it."""

import hashlib
import json
import os
import re
import shutil
import signal
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_prep.__main__ import main as shard
from data_prep.verify import main as verify_main
from data_prep.verify import verify
from steel.shards.format import Manifest, write_index
from steel.shards.index import Index
from steel.shards.reader import BadSampleError, ShardReader
from tests.image_folder import arguments, texture, write_images
from tests.shard_folder import make_shards

LAST = "shard-000002.tar"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("input")
    write_images(folder, 12)
    assert shard(arguments(folder, folder / "shards")) == 0
    return folder / "shards"


@pytest.fixture
def shards(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "shards"))


def faults_of(shards: Path) -> list[str]:
    with ThreadPoolExecutor(1) as executor:
        return [str(fault) for fault in verify(str(shards), executor)]


def flip(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def change_manifest(shards: Path, /, **changes: object) -> None:
    path = shards / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_index(shards: Path, column: str, row: int, value: object) -> None:
    """Change one cell; the manifest is made to agree with the new file, so only the contents can tell."""
    table = pa.ipc.open_file(pa.py_buffer((shards / "index.arrow").read_bytes())).read_all()
    rows = table.to_pylist()
    rows[row][column] = value
    with open(shards / "index.arrow", "wb") as file:
        write_index(pa.Table.from_pylist(rows, table.schema), file)
    data = (shards / "index.arrow").read_bytes()
    change_manifest(shards, index_size=len(data), index_sha256=hashlib.sha256(data).hexdigest())


def test_a_sound_folder_passes(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify_main([str(sound), "--workers", "1"]) == 0
    assert capsys.readouterr().out == f"{sound}: sound\n"


@pytest.mark.parametrize("member", ["image", "mask", "json"])
def test_a_flipped_bit_names_shard_and_sample(shards: Path, member: str, capsys: pytest.CaptureFixture[str]) -> None:
    index = Index(shards / "index.arrow", 4)
    place = index.place(11)._asdict()
    flip(shards / LAST, place[f"{member}_offset"] + place[f"{member}_length"] // 2)
    assert verify_main([str(shards), "--workers", "1"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{LAST}: wrong sha256",
        f"{LAST}: sample {index.key(11)} ({index.image_id(11)}): wrong checksum of the {member}",
        f"{shards}: 2 faults",
    ]


def test_a_flipped_bit_between_samples_is_found(shards: Path) -> None:
    flip(shards / LAST, (shards / LAST).stat().st_size - 1)
    assert faults_of(shards) == [f"{LAST}: wrong sha256"]


def test_a_shard_that_is_cut_short_names_the_samples_beyond(shards: Path) -> None:
    index = Index(shards / "index.arrow", 4)
    start = index.place(11).image_offset
    with open(shards / LAST, "r+b") as file:
        file.truncate(start + 10)
    faults = faults_of(shards)
    assert len(faults) == 2
    assert faults[0].startswith(f"{LAST}: {start + 10} bytes, expected ")
    assert faults[1].startswith(f"{LAST}: sample {index.key(11)}")
    assert "lies beyond the end of the shard" in faults[1]


def test_missing_files_are_named(shards: Path) -> None:
    (shards / LAST).unlink()
    assert faults_of(shards) == [f"{LAST}: missing"]
    (shards / "index.arrow").unlink()
    assert faults_of(shards) == ["index.arrow: missing", f"{LAST}: missing"]


def test_a_folder_in_the_place_of_the_index_is_a_fault(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shards / "index.arrow").unlink()
    (shards / "index.arrow").mkdir()
    assert verify_main([str(shards), "--workers", "1"]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("index.arrow: cannot be read (") and "Is a directory" in first
    assert last == f"{shards}: 1 fault"


def test_a_folder_in_the_place_of_a_shard_is_one_fault_among_others(shards: Path) -> None:
    (shards / "shard-000000.tar").unlink()
    (shards / "shard-000000.tar").mkdir()
    (shards / LAST).unlink()
    assert faults_of(shards) == ["shard-000000.tar: cannot be read (Is a directory)", f"{LAST}: missing"]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("areas", [1, 2, 3, 4], "the mask covers"),
        ("height", 33, "the index says 33x48"),
        ("image_id", "other.jpg", "the description and the index differ in image_id"),
        ("mask_crc", 1, "wrong checksum of the mask"),
        ("key", "other", "the image does not start where the index says"),
        ("original_width", 47, "the mask is 32x48, the image 32x47"),
    ],
)
def test_an_index_that_is_wrong_about_a_sample(shards: Path, column: str, value: object, message: str) -> None:
    change_index(shards, column, 11, value)
    faults = [fault for fault in faults_of(shards) if fault.startswith(f"{LAST}: sample ")]
    assert len(faults) == 1
    assert message in faults[0]


def test_an_index_that_is_wrong_about_ignored_pixels(tmp_path: Path) -> None:
    bitmask = np.zeros((32, 48), np.uint8)
    bitmask[:2], bitmask[5] = 1 << 7, 1
    shards = make_shards(tmp_path / "shards", [texture(0)] * 2, [bitmask] * 2, folds=1, ignore_bit=7)
    assert not any("ignores" in fault for fault in faults_of(shards))
    change_index(shards, "ignored", 1, 0)
    (fault,) = [fault for fault in faults_of(shards) if "ignores" in fault]
    assert fault.endswith(": the mask ignores 96 pixels, the index says 0")


def test_a_damaged_image_is_found_even_where_every_checksum_is_right(shards: Path) -> None:
    place = Index(shards / "index.arrow", 4).place(11)
    tar = bytearray((shards / LAST).read_bytes())
    end = place.image_offset + place.image_length
    half = end - place.image_length // 2
    tar[half:end] = bytes(end - half)
    (shards / LAST).write_bytes(tar)
    infos = json.loads((shards / "manifest.json").read_text())["shards"]
    change_manifest(shards, shards=[*infos[:-1], {**infos[-1], "sha256": hashlib.sha256(tar).hexdigest()}])
    change_index(shards, "image_crc", 11, zlib.crc32(tar[place.image_offset : end]))
    (fault,) = faults_of(shards)
    assert fault.startswith(f"{LAST}: sample ")
    assert "damaged JPEG (" in fault
    with pytest.raises(BadSampleError, match="damaged JPEG"):
        ShardReader(shards).read(11)


def test_another_index_than_the_manifest_says(shards: Path) -> None:
    change_manifest(shards, index_sha256="0" * 64)
    assert faults_of(shards) == ["index.arrow: wrong sha256"]
    (shards / "index.arrow").write_bytes(b"rubbish")
    assert faults_of(shards)[1].startswith("index.arrow: cannot be read (")


@pytest.mark.parametrize("number", [-1, 0, 3])
def test_rows_in_the_wrong_shard(shards: Path, number: int) -> None:
    change_index(shards, "shard", 11, number)
    assert faults_of(shards) == ["index.arrow: its rows are not in the order of shards"]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"num_positive": [1, 1, 1, 1]}, "images of each class"),
        ({"num_clean": 0}, "clean images"),
        ({"fold_levels": [{"num_images": n, "mean": 0.5, "std": 0.1} for n in (12, 0, 0)]}, "images in each fold"),
    ],
)
def test_a_manifest_that_is_wrong_about_the_whole(shards: Path, changes: dict[str, object], what: str) -> None:
    change_manifest(shards, **changes)
    assert [fault.startswith(f"manifest.json: number of {what}: expected ") for fault in faults_of(shards)] == [True]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"num_groups": 1}, r"index\.arrow: row \d+: an impossible group"),
        ({"folds": 2, "fold_levels": None}, r"index\.arrow: row \d+: a fold outside of 0 to 1"),
    ],
)
def test_an_index_that_goes_beyond_its_manifest(shards: Path, changes: dict[str, object], fault: str) -> None:
    change_manifest(shards, **changes)
    (found,) = faults_of(shards)
    assert re.fullmatch(fault, found)


def test_a_manifest_that_contradicts_itself_is_bad_input(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_manifest(shards, num_samples=13)
    assert verify_main([str(shards), "--workers", "1"]) == 2
    assert "the shards hold another number of samples" in capsys.readouterr().err


def test_a_mask_with_unknown_bits_is_found(shards: Path) -> None:
    manifest = Manifest.load(str(shards))
    names = list(manifest.class_names)
    # the same files as a set of three classes: those with class 4 do not fit
    index = Index(shards / "index.arrow", 4)
    row = int(np.flatnonzero(index.areas[:, 3])[0])
    table = pa.ipc.open_file(pa.py_buffer((shards / "index.arrow").read_bytes())).read_all()
    areas = pa.array([row["areas"][:3] for row in table.to_pylist()], pa.list_(pa.int32(), 3))
    field = pa.field("areas", areas.type, nullable=False)
    table = table.set_column(table.schema.get_field_index("areas"), field, areas)
    with open(shards / "index.arrow", "wb") as file:
        write_index(table, file)
    change_manifest(shards, class_names=names[:3], num_positive=manifest.num_positive[:3])
    assert any(index.key(row) in fault and "bits beyond the 3 classes" in fault for fault in faults_of(shards))


def test_a_folder_without_manifest_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify_main([str(tmp_path), "--workers", "1"]) == 2
    assert "no manifest.json" in capsys.readouterr().err


def kill_worker(check: object) -> None:
    """Stands for the check of a shard in a worker process."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_no_bad_input(
    sound: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("data_prep.verify._check_shard", kill_worker)
    assert verify_main([str(sound), "--workers", "2"]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: a worker process was killed")
    assert told.endswith("run it again with fewer --workers")
