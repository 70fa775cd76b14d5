"""What stands in a folder besides images: links, pipes, names that are no text; and folders that cannot be made."""

import errno
import os
import re
import socket
from pathlib import Path

import numpy as np
import pytest

from data_prep.__main__ import main as shard
from steel.errors import InputError, ResourceError
from steel.images.decode import decode_image
from steel.images.listing import ImageRecord, list_images, why_unreadable
from steel.labels.load import load_labels
from steel.reports.explore import explore
from steel.reports.explore_data import data_of_shards
from steel.shards.reader import ShardReader
from steel.storage import list_files, make_folder, write_text
from steel.validation_errors import ValidationErrors
from tests.image_folder import arguments, write_images

NOT_UTF_8 = b"\xff\xfe.jpg"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_images(tmp_path, 4)
    return tmp_path / "images"


def make_loop(folder: Path) -> None:
    (folder / "coil1" / "again").symlink_to(folder, target_is_directory=True)


def make_own_loop(folder: Path) -> None:
    (folder / "x.jpg").symlink_to(folder / "x.jpg")


def make_dangling_link(folder: Path) -> None:
    (folder / "x.jpg").symlink_to(folder / "gone.jpg")


def make_dangling_folder(folder: Path) -> None:
    (folder / "coil9").symlink_to("/nowhere/coil9")


def make_pipe(folder: Path) -> None:
    os.mkfifo(folder / "x.jpg")


def make_socket(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.getcwd()
        os.chdir(folder)  # the path of a socket may have 107 bytes only
        try:
            bound.bind("x.jpg")
        finally:
            os.chdir(here)


def make_odd_name(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/" + NOT_UTF_8)).write_bytes(b"")


def make_odd_folder(folder: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/\xe9"))
    odd.mkdir()
    (odd / "a.jpg").touch()


def make_name_of_two_lines(folder: Path) -> None:
    (folder / "a\nb.jpg").touch()


OBSTACLES = {
    make_loop: r"links that lead back to a folder above them: coil1/again \(in",
    make_own_loop: r"links that lead nowhere: x.jpg \(Too many levels of symbolic links\)",
    make_dangling_link: r"links that lead nowhere: x.jpg \(No such file or directory\)",
    make_dangling_folder: r"links that lead nowhere: coil9 \(No such file or directory\)",
    make_pipe: r"things that are neither files nor folders: x.jpg \(in",
    make_socket: r"things that are neither files nor folders: x.jpg \(in",
    make_odd_name: r"names with control characters or bytes that are not UTF-8: \\xff\\xfe.jpg \(in",
    make_odd_folder: r"names with control characters or bytes that are not UTF-8: \\xe9/a.jpg \(in",
    make_name_of_two_lines: r"names with control characters or bytes that are not UTF-8: a\\nb.jpg \(in",
}


@pytest.mark.parametrize("make", OBSTACLES)
def test_what_cannot_be_an_image_is_named_before_any_work(images: Path, make) -> None:  # type: ignore[no-untyped-def]
    make(images)
    with pytest.raises(ValidationErrors, match=OBSTACLES[make]) as caught:
        list_images(str(images))
    assert "\n" not in str(caught.value)
    assert str(images) in str(caught.value)


@pytest.mark.parametrize("make", OBSTACLES)
def test_sharding_says_so_in_one_line(
    images: Path,
    make,
    capsys: pytest.CaptureFixture[str],  # type: ignore[no-untyped-def]
) -> None:
    make(images)
    out = images.parent / "shards"
    assert shard(arguments(images.parent, out)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"error: {OBSTACLES[make]}", line)
    assert not out.exists()


@pytest.mark.parametrize("make", [make_loop, make_dangling_link, make_pipe, make_odd_name])
def test_masks_are_listed_as_images_are(images: Path, make) -> None:  # type: ignore[no-untyped-def]
    masks = images.parent / "masks"
    (masks / "coil1").mkdir(parents=True)
    make(masks)
    for link in masks.glob("*.jpg"):  # masks have other extensions
        link.rename(link.with_suffix(".png"))
    with pytest.raises(ValidationErrors, match=f"in {masks}; mend, rename or remove them"):
        load_labels(images, masks)


def test_all_obstacles_are_told_at_once(images: Path) -> None:
    make_loop(images)
    make_pipe(images)
    make_odd_name(images)
    make_dangling_folder(images)
    with pytest.raises(ValidationErrors) as caught:
        list_images(str(images))
    assert len({issue.kind for issue in caught.value.issues}) == 4


def test_links_to_files_and_folders_are_followed(images: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "b.jpg").write_bytes(b"12345")
    (images / "linked").symlink_to(elsewhere, target_is_directory=True)
    (images / "twice").symlink_to(elsewhere, target_is_directory=True)  # the same folder again is no circle
    (images / "a.jpg").symlink_to(elsewhere / "b.jpg")
    found = {file.path: file.size for file in list_files(images)}
    assert {"linked/b.jpg": 5, "twice/b.jpg": 5, "a.jpg": 5}.items() <= found.items()


def test_other_files_are_nobodys_business(images: Path) -> None:
    before = list_images(str(images))
    os.mkfifo(images / "control")
    Path(os.fsdecode(os.fsencode(images) + b"/\xff.txt")).touch()
    (images / ".hidden.jpg").symlink_to("/nowhere")
    (images / "Stück 1.txt").touch()
    assert list_images(str(images)) == before
    assert shard(arguments(images.parent, images.parent / "shards")) == 0


def test_names_in_any_script_are_fine(images: Path) -> None:
    for name in ("прокат/Stück 1.jpg", "鋼/é.jpg"):
        (images / name).parent.mkdir(exist_ok=True)
        (images / name).touch()
    assert {"прокат/Stück 1.jpg", "鋼/é.jpg"} <= {record.image_id for record in list_images(str(images))}


def test_images_that_are_not_read_are_named(images: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = list_images(str(images))
    for name in ("a.json", "a.txt", "README.md", "LICENSE", "labels.csv", ".hidden.gif"):
        (images / name).touch()
    assert list_images(str(images)) == before
    assert not caplog.messages
    for name in ("coil1/line.JP2", "new.gif", "masks/a.gif"):
        (images / name).parent.mkdir(exist_ok=True)
        (images / name).touch()
    assert list_images(str(images)) == before
    (told,) = caplog.messages
    left_out = "left out 3 files of image formats that are not read: coil1/line.JP2, masks/a.gif, new.gif"
    assert told == f"warning: {images}: {left_out}; save them as PNG"
    with pytest.raises(InputError, match=r"no images there \(looked for .*; a\.gif cannot be read\)"):
        list_images(str(images / "masks"))


def test_jfif_is_an_ordinary_jpeg(images: Path) -> None:
    first = list_images(str(images))[0]
    renamed = Path(first.url).with_suffix(".jfif")
    Path(first.url).rename(renamed)
    table = images.parent / "train.csv"
    table.write_text(table.read_text().replace(first.image_id, first.image_id.replace(".jpg", ".jfif")))
    assert shard(arguments(images.parent, images.parent / "shards")) == 0
    reader = ShardReader(images.parent / "shards")
    (row,) = [row for row in range(len(reader)) if reader.index.image_id(row).endswith(".jfif")]
    assert np.array_equal(reader.read(row).image, decode_image(renamed.read_bytes(), 1))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_named(images: Path) -> None:
    (images / "coil1").chmod(0)
    try:
        with pytest.raises(ValidationErrors, match=r"folders that cannot be read: coil1/ \(Permission denied\)"):
            list_images(str(images))
    finally:
        (images / "coil1").chmod(0o755)


def test_a_folder_that_vanishes_or_refuses_is_named(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def refuse(folder: str):  # type: ignore[no-untyped-def]
        if folder.endswith("coil1"):
            raise PermissionError(13, "Permission denied", folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValidationErrors, match=r"folders that cannot be read: coil1/ \(Permission denied\)"):
        list_images(str(images))


def test_a_file_in_place_of_a_folder_is_told(images: Path) -> None:
    with pytest.raises(InputError, match="a file, not a folder"):
        list_images(str(next((images / "coil1").iterdir())))
    with pytest.raises(InputError, match="no such folder"):
        list_images(str(images / "nowhere"))


# --- folders to write to ---


@pytest.mark.parametrize("below", ["", "a", "a/b"])
def test_a_folder_below_a_file_cannot_be_made(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=rf"cannot be made, for {tmp_path}/file is no folder"):
        make_folder(tmp_path / "file" / below)
    assert (tmp_path / "file").is_file()


def test_a_link_that_leads_nowhere_is_in_the_way_too(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match=rf"cannot be made, for {tmp_path}/link is no folder"):
        make_folder(tmp_path / "link")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc, where nobody can make a folder")
def test_a_place_where_there_are_no_folders_is_told() -> None:
    with pytest.raises(InputError, match="/proc/steel: cannot be made; give another place"):
        make_folder("/proc/steel")


def test_exploring_to_a_place_below_a_file_is_refused_before_any_image_is_read(
    tiny_shards: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is no folder"):
        explore(
            data_of_shards(str(tiny_shards)),
            str(tmp_path / "file" / "report"),
            on_image=lambda done, total: pytest.fail("read"),
        )


def test_text_is_written_as_utf_8_whatever_it_holds(tmp_path: Path) -> None:
    write_text(tmp_path / "report.txt", "Riß in \udcff\n")
    assert (tmp_path / "report.txt").read_bytes() == "Riß in \\udcff\n".encode()


def test_what_is_an_images_own_fault_is_told_from_what_is_its_disks() -> None:
    here, there = ImageRecord("a.png", "/data/a.png"), ImageRecord("a.png", "s3://user:5ecret@bucket/a.png")
    assert why_unreadable(here, ValueError("damaged PNG")) == "damaged PNG"
    assert why_unreadable(there, FileNotFoundError(there.url)) == "No such file or directory"
    assert why_unreadable(there, IsADirectoryError(there.url)) == "Is a directory"
    refused = OSError(errno.EACCES, "Permission denied", here.url)
    assert why_unreadable(here, refused) == "Permission denied"
    with pytest.raises(ResourceError) as told:
        why_unreadable(there, refused)
    assert str(told.value).startswith("s3://bucket/a.png: cannot be read now (Permission denied); see to that")
    with pytest.raises(OSError, match="Cannot allocate"):
        why_unreadable(here, OSError(errno.ENOMEM, "Cannot allocate memory"))


@pytest.mark.parametrize("is_mounted_above", [False, True])
def test_a_file_that_is_gone_with_all_others_is_its_disks_fault(tmp_path: Path, is_mounted_above: bool) -> None:
    """A disk that is unmounted leaves an empty folder, and none where it was mounted above."""
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "b.png").touch()
    gone = ImageRecord("a.png", str(disk / "a.png"))
    error = FileNotFoundError(errno.ENOENT, "No such file or directory", gone.url)
    assert why_unreadable(gone, error) == "No such file or directory"
    (disk / "b.png").unlink()
    if is_mounted_above:
        disk.rmdir()
    with pytest.raises(ResourceError, match=r"a\.png: cannot be read now \(its folder is gone, or empty\); see to"):
        why_unreadable(gone, error)
