"""Tars that somebody else wrote, indexed and read as if they were ours."""

import io
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import webdataset as wds

from data_prep.index import main
from data_prep.verify import main as verify
from steel.images.bitmask import unpack_masks
from steel.shards.reader import ShardReader
from tests.image_folder import HEIGHT, WIDTH, texture, tree_digest
from tests.shard_folder import write_tar

NUM_IMAGES = 10


def labels_of(number: int) -> np.ndarray:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[: number % 4], labels[8 : 8 + number % 3, 10:20] = 1, 2
    return labels


def write_tars(folder: Path, mask_of=labels_of, extension: str = "png") -> None:
    """Two tars in folders of their own, written by webdataset with its standard encoders."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in range(2):
        with wds.TarWriter(str(folder / f"part{part}.tar")) as tar:
            for number in range(part * 5, part * 5 + 5):
                sample = {"__key__": f"coil/{number:03d}", "jpg": np.stack([texture(number)] * 3, -1)}
                sample["json"] = {"number": number}
                mask = mask_of(number)
                if mask is not None:
                    sample[extension] = mask
                tar.write(sample)


def options(folder: Path, *more: str) -> list[str]:
    return [str(folder), "--class-names", "spot,scratch", "--folds", "2", "--workers", "1", *more]


def test_jpg_png_json_tars_are_read_where_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tars(tmp_path)
    before = tree_digest(tmp_path)
    assert main(options(tmp_path)) == 0
    assert "10 images in 2 shards" in capsys.readouterr().out
    assert {name: tree_digest(tmp_path)[name] for name in before} == before
    assert verify([str(tmp_path), "--workers", "1"]) == 0
    reader = ShardReader(tmp_path)
    assert reader.manifest.channels == 1
    assert reader.manifest.num_clean == sum(not labels_of(n).any() for n in range(NUM_IMAGES))
    for row in range(NUM_IMAGES):
        assert reader.index.image_id(row) == f"coil/{row:03d}.jpg"
        sample = reader.read(row)
        labels = labels_of(row)
        assert np.array_equal(unpack_masks(sample.bitmask, 2), np.stack([labels == 1, labels == 2]))
        assert reader.index.areas[row].tolist() == [(labels == 1).sum(), (labels == 2).sum()]
        assert abs(sample.image.astype(int) - texture(row)).mean() < 1
        assert reader.read_bytes(row).meta == b'{"number": %d}' % row
    levels = [reader.read(row).image.mean() / 255 for row in range(NUM_IMAGES)]
    assert reader.manifest.fold_levels is not None
    for number, fold in enumerate(reader.manifest.fold_levels):
        assert fold.mean == pytest.approx(np.mean([levels[row] for row in reader.index.rows([number])]))


@pytest.mark.parametrize("asked", [[], ["--image-extension", "JPG"], ["--image-extension", ".jpg"]])
def test_images_are_called_as_the_tar_spells_them(tmp_path: Path, asked: list[str]) -> None:
    members = {}
    for number in range(4):
        members[f"c{number}.JPG"] = cv2.imencode(".jpg", texture(number))[1].tobytes()
        members[f"c{number}.Mask.PNG"] = cv2.imencode(".png", labels_of(number))[1].tobytes()
    write_tar(tmp_path / "set.tar", members)
    coils = tmp_path / "coils.csv"
    coils.write_text("image,group\n" + "".join(f"c{number}.JPG,coil {number % 2}\n" for number in range(4)))
    given = [*asked, "--mask-extension", ".MASK.png"] if asked else []
    assert main(options(tmp_path, "--groups", str(coils), *given)) == 0
    index = ShardReader(tmp_path).index
    assert [index.image_id(row) for row in range(4)] == [f"c{number}.JPG" for number in range(4)]
    assert index.group.tolist() == [0, 1, 0, 1]
    assert verify([str(tmp_path), "--workers", "1"]) == 0


def test_masks_with_a_channel_a_class(tmp_path: Path) -> None:
    def planes(number: int) -> np.ndarray:
        labels = labels_of(number)
        return np.stack([labels == 1, labels == 2, labels == 2], -1).astype(np.uint8) * 255

    write_tars(tmp_path, planes, "seg.png")
    line = [str(tmp_path), "--class-names", "a,b,c", "--mask-coding", "planes", "--folds", "2", "--workers", "1"]
    assert main(line) == 0
    assert unpack_masks(ShardReader(tmp_path).read(2).bitmask, 3)[2].sum() == (labels_of(2) == 2).sum()


@pytest.mark.parametrize("suffix", ["bmp", "tif", "webp"])
def test_png_is_the_mask_beside_any_other_image(tmp_path: Path, suffix: str) -> None:
    members = {}
    for number in range(4):
        members[f"c{number}.{suffix}"] = cv2.imencode(f".{suffix}", texture(number))[1].tobytes()
        members[f"c{number}.png"] = cv2.imencode(".png", labels_of(number))[1].tobytes()
    write_tar(tmp_path / "set.tar", members)
    assert main(options(tmp_path)) == 0
    index = ShardReader(tmp_path).index
    assert [index.image_id(row) for row in range(4)] == [f"c{number}.{suffix}" for number in range(4)]
    assert index.areas[:, 0].tolist() == [int((labels_of(number) == 1).sum()) for number in range(4)]


@pytest.mark.parametrize("suffix", ["bmp", "tif"])
def test_a_mask_that_is_named_is_no_image(tmp_path: Path, suffix: str) -> None:
    members = {}
    for number in range(4):
        members[f"c{number}.png"] = cv2.imencode(".png", texture(number))[1].tobytes()
        members[f"c{number}.{suffix}"] = cv2.imencode(f".{suffix}", labels_of(number))[1].tobytes()
    write_tar(tmp_path / "set.tar", members)
    assert main(options(tmp_path, "--mask-extension", suffix.upper(), "--missing-mask", "clean")) == 0
    index = ShardReader(tmp_path).index
    assert [index.image_id(row) for row in range(4)] == [f"c{number}.png" for number in range(4)]
    assert index.areas[:, 0].tolist() == [int((labels_of(number) == 1).sum()) for number in range(4)]


def test_bits_beyond_the_classes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tars(tmp_path, lambda number: np.where(labels_of(number) == 2, np.uint8(4), labels_of(number)))
    assert main(options(tmp_path, "--mask-coding", "bitmask")) == 2
    assert "coil/002 (the mask has bit 2, beyond 2 classes)" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "manifest.json").exists()


def test_ignored_values(tmp_path: Path) -> None:
    write_tars(tmp_path, lambda number: np.where(labels_of(number) == 2, np.uint8(255), labels_of(number)))
    assert main(options(tmp_path, "--ignore-value", "255")) == 0
    reader = ShardReader(tmp_path)
    assert reader.manifest.ignore_bit == 7
    assert reader.index.ignored[2] == (labels_of(2) == 2).sum()
    assert reader.index.areas[:, 1].tolist() == [0] * NUM_IMAGES


def test_samples_without_a_mask_are_refused_or_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tars(tmp_path, lambda number: labels_of(number) if number != 7 else None)
    assert main(options(tmp_path)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "part1.tar: coil/007 (no mask among jpg, json; --missing-mask clean" in error
    assert main(options(tmp_path, "--missing-mask", "clean")) == 0
    assert not ShardReader(tmp_path).read(7).bitmask.any()


def test_everything_unusable_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def wrong(number: int) -> np.ndarray:
        return {3: labels_of(3)[:5], 8: np.full((HEIGHT, WIDTH), 9, np.uint8)}.get(number, labels_of(number))

    write_tars(tmp_path, wrong)
    assert main(options(tmp_path)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "part0.tar: coil/003 (the mask is 5x48, the image 32x48)" in error
    assert "part1.tar: coil/008 (the mask holds the value 9, beyond 2 classes)" in error
    assert not (tmp_path / "manifest.json").exists()


def test_files_that_are_not_whole_and_values_that_are_no_labels_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jpeg = cv2.imencode(".jpg", texture(0))[1].tobytes()
    soft = cv2.imencode(".tif", np.full((HEIGHT, WIDTH), 0.5, np.float32), [cv2.IMWRITE_TIFF_COMPRESSION, 1])[
        1
    ].tobytes()
    half = len(jpeg) // 2
    members = {"0.jpg": jpeg[:half] + bytes(len(jpeg) - half), "1.jpg": jpeg, "1.seg.tif": soft}
    write_tar(tmp_path / "set.tar", members)
    assert main(options(tmp_path, "--missing-mask", "clean", "--mask-extension", "seg.tif")) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "set.tar: 0 (damaged JPEG (" in error
    assert f"set.tar: 1 ({HEIGHT * WIDTH:,} values that are not whole numbers from 0 to 65535, such as 0.5)" in error


def test_a_corrupt_header_in_the_middle_is_no_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tars(tmp_path)
    tar = bytearray((tmp_path / "part0.tar").read_bytes())
    middle = tar.index(b"coil/002")
    tar[middle + 150] ^= 1
    (tmp_path / "part0.tar").write_bytes(tar)
    assert main(options(tmp_path)) == 2
    assert "unusable tars: part0.tar" in capsys.readouterr().err


def test_what_looks_like_the_end_but_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = {f"{n}.png": cv2.imencode(".png", texture(n))[1].tobytes() for n in range(3)}
    second = write_tar(tmp_path / "set.tar", members)["1.png"] - 512
    whole = (tmp_path / "set.tar").read_bytes()
    damaged = bytearray(whole)
    damaged[second + 150] ^= 1  # the header's own checksum: Python's tarfile stops here and says nothing
    (tmp_path / "set.tar").write_bytes(damaged)
    assert main(options(tmp_path, "--missing-mask", "clean")) == 2
    assert f"set.tar (damaged after {second} bytes)" in capsys.readouterr().err
    (tmp_path / "set.tar").write_bytes(whole)
    assert main(options(tmp_path, "--missing-mask", "clean")) == 0


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.GNUTYPE_SPARSE])
def test_links_and_files_with_holes_are_no_missing_masks(
    tmp_path: Path, kind: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """A deduplicator makes one file with several names of equal masks, and tar a link of each but the first."""
    with tarfile.open(tmp_path / "set.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for name in ("0.png", "0.seg.png", "1.png"):
            data = cv2.imencode(".png", texture(0) if name != "0.seg.png" else labels_of(1))[1].tobytes()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("1.seg.png")
        link.type, link.linkname = kind, "0.seg.png"
        tar.addfile(link)
    assert main(options(tmp_path, "--missing-mask", "clean")) == 2
    what = "a file with holes" if kind == tarfile.GNUTYPE_SPARSE else "a link"
    assert f"unusable tars: set.tar (1.seg.png is {what}; make the tar anew, " in capsys.readouterr().err


def test_a_tar_that_is_cut_short_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tars(tmp_path)
    tar = (tmp_path / "part0.tar").read_bytes()
    for length in (tar.index(b"coil/003") + 1000, tar.index(b"coil/003") + 100, 0):
        (tmp_path / "part0.tar").write_bytes(tar[:length])
        assert main(options(tmp_path)) == 2
        assert "unusable tars: part0.tar" in capsys.readouterr().err


def test_members_whose_names_are_no_text_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    png = cv2.imencode(".png", texture(0))[1].tobytes()
    write_tar(tmp_path / "a.tar", {"b.png": png, "\udcff.png": png, "c\nd.png": png})
    assert main(options(tmp_path, "--missing-mask", "clean")) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert r"unusable samples: a.tar: \xff (a name with control characters or bytes that are not UTF-8)" in line
    assert r"a.tar: c\nd (a name" in line


def test_what_cannot_be_indexed_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none").mkdir()
    write_tar(tmp_path / "none" / "a.tar", {"readme": b"x"})
    (tmp_path / "empty").mkdir()
    write_tars(tmp_path / "tars")
    cv2.imwrite(str(tmp_path / "empty" / "a.png"), texture(0))
    for line, message in (
        (options(tmp_path / "empty"), "no .tar files there"),
        ([str(tmp_path / "tars")], "--class-names"),
        (options(tmp_path / "tars", "--mask-coding", "binary", "--ignore-value", "9"), "--ignore-value is for"),
        (options(tmp_path / "tars", "--image-extension", "tif"), "no image among jpg"),
        (options(tmp_path / "tars", "--mask-coding", "binary"), "--mask-coding binary tells one class, not 2"),
        (options(tmp_path / "tars", "--ignore-value", "-1"), "--ignore-value -1: 0 to 2 are the background and"),
        (options(tmp_path / "tars", "--ignore-value", "2"), "--ignore-value 2: 0 to 2 are the background and"),
        (options(tmp_path / "tars", "--class-names", "spot,spot"), "the name spot stands there twice"),
        (options(tmp_path / "tars", "--class-names", "3=spot,9=trace"), "number the classes from 1"),
        (options(tmp_path / "none"), "its tars hold no sample"),
    ):
        assert main(line) == 2
        assert message in capsys.readouterr().err
    assert main(options(tmp_path / "tars")) == 0
    assert main(options(tmp_path / "tars")) == 2
    assert "has a manifest.json already" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["2024-05-01T10:30.tar", "coil\\1.tar", "line:1/part.tar"])
def test_names_that_no_shard_can_have_are_told_before_the_tars_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"nobody looks into it")
    assert main(options(tmp_path)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: names that no shard can have: {name} (in {tmp_path}; rename what has ':' or")


def test_keys_that_occur_twice_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tars(tmp_path)
    (tmp_path / "copy.tar").write_bytes((tmp_path / "part0.tar").read_bytes())
    assert main(options(tmp_path)) == 2
    assert "keys that stand in the tars more than once: coil/000" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--split-file", "--groups"])
def test_tables_are_looked_at_before_the_tars_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    write_tars(tmp_path / "tars")
    monkeypatch.setattr("data_prep.index.index_tar", lambda task: pytest.fail("has read a tar"))
    table = tmp_path / "table.csv"
    line = [*options(tmp_path / "tars"), "--executor", "thread", option, str(table)]
    for text in (None, "a,b\n1,2\n"):
        if text is not None:
            table.write_text(text)
        assert main(line) == 2
        assert str(table) in capsys.readouterr().err
