"""Sharding as a job: workers, parts and doing it again do not change a byte."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_prep.__main__ import main
from data_prep.options import Options
from data_prep.plan import Plan, make_plan
from tests.image_folder import (
    HEIGHT,
    NUM_IMAGES,
    WIDTH,
    arguments,
    image_name,
    last_line,
    texture,
    tree_digest,
    write_images,
)
from tests.web_folder import serve_folder


def test_a_finished_folder_is_left_as_it_is(folder: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = {path: path.stat().st_mtime_ns for path in shards.iterdir()}
    assert main(arguments(folder, shards)) == 0
    assert capsys.readouterr().out == f"{shards}: already finished, nothing to do\n"
    assert {path: path.stat().st_mtime_ns for path in shards.iterdir()} == times
    assert main(arguments(folder, shards, seed=1)) == 2
    assert "made with other options: seed 0, not 1; choose another --out" in last_line(capsys)


@pytest.mark.parametrize("changed", ["mask", "images", "groups"])
def test_a_finished_folder_is_not_taken_for_one_of_what_has_changed_since(
    own_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: str
) -> None:
    """By as many bytes, too; the shards stay, and who has seen the line may put it all back."""
    groups = tmp_path / "groups.csv"
    groups.write_text("image,group\n" + "".join(f"{image_name(n)},{n // 2}\n" for n in range(NUM_IMAGES)))
    line = arguments(own_folder, tmp_path / "out", groups=groups)
    assert main(line) == 0
    before = tree_digest(tmp_path / "out")
    path, new = {
        "mask": (own_folder / "train.csv", lambda old: old.replace(b"002.jpg,3,", b"002.jpg,4,")),
        "images": (own_folder / "images" / image_name(0), lambda old: old + b"\0"),
        "groups": (groups, lambda old: old.replace(b",0\n", b",1\n", 1)),
    }[changed]
    old = path.read_bytes()
    path.write_bytes(new(old))
    assert path.read_bytes() != old
    for more in ([], ["--part", "1/2"], ["--join", "2"]):
        assert main([*line, *more]) == 2
        told = "already holds shards of other images, labels, --labels-format, groups or split: they have changed since"
        assert told in last_line(capsys)
    path.write_bytes(old)
    assert main(line) == 0
    assert tree_digest(tmp_path / "out") == before


def test_a_finished_folder_does_without_its_input(
    own_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(arguments(own_folder, out)) == 0
    shutil.rmtree(own_folder / "images")
    capsys.readouterr()
    assert main(arguments(own_folder, out)) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{out}: already finished, nothing to do",
        f"not compared with what it was made of: this is not there now: {own_folder / 'images'}",
    ]
    (own_folder / "images").mkdir()  # of a disk that is not mounted, say
    assert main(arguments(own_folder, out)) == 2
    told = f"error: {out}: is finished, but cannot be compared with what it was made of: {own_folder / 'images'}"
    assert last_line(capsys).startswith(told)


def test_shards_of_another_version_are_not_taken_for_those_of_other_input(
    own_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(arguments(own_folder, out)) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    for made_of in ("0" * 64, None):  # as it was before it had a number; as nothing
        manifest["options"]["input_sha256"] = made_of
        if made_of is None:
            del manifest["options"]["input_sha256"]
        (out / "manifest.json").write_text(json.dumps(manifest))
        capsys.readouterr()
        assert main(arguments(own_folder, out)) == 0
        told = "not compared with what it was made of: another version of this program made it"
        assert capsys.readouterr().out.splitlines()[1] == told


def test_an_unfinished_job_of_another_version_is_told_as_that(
    own_folder: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(arguments(own_folder, out, part="1/2")) == 0
    claim = json.loads((out / ".unfinished" / "plan.json").read_text())
    claim["fingerprint"] = f"2-{claim['fingerprint'].partition('-')[2]}"
    (out / ".unfinished" / "plan.json").write_text(json.dumps(claim))
    for more in ({"part": "2/2"}, {"join": 2}):
        assert main(arguments(own_folder, out, **more)) == 2
        assert "holds an unfinished job of another version of this program; remove the folder" in last_line(capsys)
    assert main(arguments(own_folder, out)) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "an earlier, unfinished run was of another version of this program: started over"
    assert tree_digest(out) == tree_digest(shards)


def test_another_format_of_the_same_labels_is_not_what_the_shards_were_made_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("crack", "pit"):
        for number in range(3):
            for folder, pixels in (("images", texture(number)), ("masks", np.eye(HEIGHT, WIDTH, dtype=np.uint8))):
                (tmp_path / folder / kind).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(tmp_path / folder / kind / f"{number}.png"), pixels)
    out = tmp_path / "out"
    line = [*arguments(tmp_path, out, labels=tmp_path / "masks"), "--class-names", "crack,pit"]
    as_folders = [*line, "--labels-format", "class-folders"]
    assert main(line) == 0
    assert "6 crack, 0 pit" in capsys.readouterr().out
    assert main([*line, "--labels-format", "masks"]) == 0  # as it was found
    assert "already finished, nothing to do" in capsys.readouterr().out
    assert main(as_folders) == 2
    assert "already holds shards of other images, labels, --labels-format, groups or split" in last_line(capsys)
    shutil.rmtree(out)
    assert main([*line, "--part", "1/2"]) == 0
    assert main([*as_folders, "--part", "2/2"]) == 2
    assert "unfinished job with other images, labels, --labels-format, groups or split" in last_line(capsys)
    assert main(as_folders) == 0
    said = capsys.readouterr().out
    assert "3 crack, 3 pit" in said and "the input had changed since an earlier, unfinished run: started over" in said


@pytest.mark.parametrize("labels", ["one", "one/data.yaml"])
def test_what_is_no_label_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], labels: str) -> None:
    """Beside YOLO's texts and its table: the shards, while they are made too, a run, what a desktop leaves."""
    one = tmp_path / "one"
    write_images(one, NUM_IMAGES)
    (one / "train.csv").unlink()
    for image in sorted((one / "images").rglob("*.jpg")):
        image.with_suffix(".txt").write_text("0 0.1 0.1 0.6 0.1 0.6 0.6\n")
    (one / "data.yaml").write_text("names: [pit]\n")
    line = arguments(one, one / "shards", labels=tmp_path / labels)
    for more in (["--part", "1/2"], ["--part", "2/2"], ["--join", "2"]):
        assert main([*line, *more]) == 0
    (one / "run").mkdir()
    for name in ("run/model.safetensors", "Thumbs.db", "notes.md"):
        (one / name).write_text("other")
    capsys.readouterr()
    assert main(line) == 0
    assert capsys.readouterr().out == f"{one / 'shards'}: already finished, nothing to do\n"
    (one / "images" / image_name(0)).with_suffix(".txt").write_text("0 0.1 0.1 0.7 0.1 0.6 0.6\n")
    assert main(line) == 2


def test_what_is_no_mask_changes_nothing(tmp_path: Path) -> None:
    one = tmp_path / "one"
    write_images(one, 6)
    masks = one / "masks"
    for number in range(6):
        mask = masks / Path(image_name(number)).with_suffix(".png")
        mask.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(mask), np.full((HEIGHT, WIDTH), number % 2, np.uint8))
    line = [*arguments(one, masks / "shards", labels=masks), "--class-names", "pit"]
    assert main(line) == 0
    (masks / "Thumbs.db").write_text("other")
    assert main(line) == 0
    cv2.imwrite(str((masks / image_name(0)).with_suffix(".png")), np.ones((HEIGHT, WIDTH), np.uint8))
    assert main(line) == 2


@pytest.mark.parametrize("untold", [(), ("Last-Modified",)])
def test_labels_that_are_corrected_on_a_web_server_are_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], untold: tuple[str, ...]
) -> None:
    """By as many bytes, too, and whether or not the server tells when a file was written."""
    pytest.importorskip("aiohttp")
    write_images(tmp_path, 6)
    (tmp_path / "masks").mkdir()
    for number in range(6):
        mask = tmp_path / "masks" / Path(image_name(number)).with_suffix(".bmp")
        mask.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(mask), np.full((HEIGHT, WIDTH), number % 2, np.uint8))
    size = mask.stat().st_size
    with serve_folder(tmp_path / "masks", *untold) as url:
        line = arguments(tmp_path, tmp_path / "out", labels=url, shard_size=2)
        assert main([*line, "--part", "1/2"]) == 0
        cv2.imwrite(str(mask), np.zeros((HEIGHT, WIDTH), np.uint8))
        os.utime(mask, (1, 1))
        assert mask.stat().st_size == size
        assert main([*line, "--part", "2/2"]) == 2
        assert "unfinished job with other images, labels" in last_line(capsys)
        assert main(line) == 0
        assert "the input had changed since an earlier, unfinished run: started over" in capsys.readouterr().out
        assert main(line) == 0
        cv2.imwrite(str(mask), np.ones((HEIGHT, WIDTH), np.uint8))
        assert main(line) == 2
        assert "already holds shards of other images, labels" in last_line(capsys)


@pytest.mark.parametrize("options", [{"workers": 3, "executor": "thread"}, {"workers": 2, "executor": "process"}])
def test_workers_do_not_change_a_byte(folder: Path, shards: Path, tmp_path: Path, options: dict[str, object]) -> None:
    assert main(arguments(folder, tmp_path / "out", **options)) == 0
    assert tree_digest(tmp_path / "out") == tree_digest(shards)


def test_any_executor_can_be_handed_in(folder: Path, shards: Path, tmp_path: Path) -> None:
    class Counting(ThreadPoolExecutor):
        tasks = 0

        def submit(self, *task, **options):  # type: ignore[no-untyped-def]
            self.tasks += 1
            return super().submit(*task, **options)

    with Counting(2) as executor:
        assert main(arguments(folder, tmp_path / "out"), executor) == 0
    assert executor.tasks == 4
    assert tree_digest(tmp_path / "out") == tree_digest(shards)


def test_parts_are_joined_to_the_same_bytes(
    folder: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for part in ("3/3", "1/3"):
        assert main(arguments(folder, out, part=part)) == 0
    assert not (out / "manifest.json").exists()
    assert main(arguments(folder, out, join=3)) == 2
    assert "run --part 2/3 again, then --join 3" in last_line(capsys)
    assert main(arguments(folder, out, part="2/3")) == 0
    assert main(arguments(folder, out, join=3)) == 0
    assert tree_digest(out) == tree_digest(shards)
    assert main(arguments(folder, out, join=3)) == 0
    assert "already finished" in capsys.readouterr().out


def test_a_join_that_another_has_overtaken_finds_the_set_finished(
    folder: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert main(arguments(folder, out, part="1/1")) == 0

    def plan_slowly(options: Options) -> Plan:
        plan = make_plan(options)
        monkeypatch.undo()
        assert main(arguments(folder, out, join=1)) == 0
        return plan

    monkeypatch.setattr("data_prep.job.make_plan", plan_slowly)
    assert main(arguments(folder, out, join=1)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{out}: already finished, nothing to do"
    assert tree_digest(out) == tree_digest(shards)
    assert not (out / ".unfinished").exists()
