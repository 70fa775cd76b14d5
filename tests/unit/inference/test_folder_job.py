"""Jobs of predicting a folder: stopped, killed, gone on with, changed meanwhile, and refused."""

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from steel import storage
from steel.checkpoint import load_checkpoint, read_header, save_checkpoint
from steel.decision import ClassDecision
from steel.errors import InputError, OutOfMemoryError, ResourceError, exit_code
from steel.images.listing import ImageRecord
from steel.inference.folder_job import FolderJob, check_job, find_images, versions_of
from steel.inference.load import digest_source
from steel.inference.predict_folder import describe_predictor, predict_folder
from steel.inference.prediction import Prediction
from steel.inference.predictor import Predictor
from steel.labels.submission import read_submission
from tests.at_once import AtOnce
from tests.image_folder import tree_digest
from tests.paths import ROOT
from tests.predicted_folder import ALL
from tests.web_folder import serve_folder


@pytest.mark.parametrize("stops", [(1,), (2, 3), (5,)])
def test_what_was_stopped_goes_on_and_ends_with_the_same_bytes(
    folder: Path, predictor: Predictor, undisturbed: Path, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    job = FolderJob(str(folder / "images"), str(tmp_path / "out"), ALL)
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            predict_folder(predictor, job, {}, lambda done, total, stop=stop: interrupt(done == stop))
        assert not [path for path in (tmp_path / "out").iterdir() if path.is_file()]
    done: list[int] = []
    summary = predict_folder(predictor, job, {}, lambda now, total: done.append(now))
    assert (summary.images, summary.new) == (5, 5 - stops[-1])
    assert done == list(range(stops[-1] + 1, 6))  # nothing is predicted twice
    assert tree_digest(tmp_path / "out") == tree_digest(undisturbed)


def interrupt(now: bool) -> None:
    if now:
        raise KeyboardInterrupt


def test_a_stop_while_the_network_runs_loses_nothing_that_it_has_said(
    folder: Path, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of few images, too: fewer than may be ahead of their use."""
    job, stream, done = FolderJob(str(folder / "images"), str(tmp_path / "out")), predictor.predict_stream, list[int]()

    def stopped(*images: Any, **how: Any) -> Iterator[Prediction]:
        yield from islice(stream(*images, **how), 3)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("steel.inference.predict_folder.ThreadPoolExecutor", lambda threads: AtOnce())
        patched.setattr(predictor, "predict_stream", stopped)
        with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
            predict_folder(predictor, job, {}, lambda now, total: done.append(now))
    assert done == [1, 2, 3]
    summary = predict_folder(predictor, job, {})
    assert (summary.images, summary.new) == (5, 2)


KILLED = """
import os, signal, sys
import steel.inference.journal as journal
from steel.inference.folder_job import FolderJob
from steel.inference.predict_folder import predict_folder
from steel.inference.predictor import Predictor
from steel.inference.writers import WRITERS

journal._LINES_PER_PART, journal._SECONDS_PER_PART = 2, 1e9  # however slow the machine
model, images, out = sys.argv[1:]
predictor = Predictor.from_checkpoint(model, device="cpu", pixels_per_pass=4000)
on_image = lambda done, total: done == 3 and os.kill(os.getpid(), signal.SIGKILL)
predict_folder(predictor, FolderJob(images, out, tuple(WRITERS)), {}, on_image)
"""


def test_a_killed_process_loses_little(folder: Path, predictor: Predictor, undisturbed: Path, tmp_path: Path) -> None:
    job = FolderJob(str(folder / "images"), str(tmp_path / "out"), ALL)
    line = [sys.executable, "-c", KILLED, str(folder / "model.safetensors"), job.source, job.out]
    assert subprocess.run(line, cwd=ROOT, timeout=300).returncode == -signal.SIGKILL
    done: list[int] = []
    predict_folder(predictor, job, {}, lambda now, total: done.append(now))
    assert done == [3, 4, 5]
    assert tree_digest(tmp_path / "out") == tree_digest(undisturbed)


def test_whatever_is_unfinished_lies_in_the_folder_that_goes_with_the_job(
    folder: Path, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a process that is killed leaves nothing that the next one would not remove, also of files of all images."""
    replace, finished = os.replace, dict[str, str]()

    def watch(source: str, target: Path) -> None:
        finished[target.name] = os.path.dirname(source)
        replace(source, target)

    monkeypatch.setattr(os, "replace", watch)
    predict_folder(predictor, FolderJob(str(folder / "images"), str(tmp_path / "out"), ALL), {})
    assert {"submission.csv", "coco.json", "predictions.jsonl", "table.csv", "b.png.jpg"} < finished.keys()
    assert set(finished.values()) == {str(tmp_path / "out/.unfinished")}


def test_images_that_come_meanwhile_are_predicted_too(folder: Path, predictor: Predictor, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(3):
        cv2.imwrite(str(images / f"{number}.png"), np.full((20, 30), 40 * number, np.uint8))
    job = FolderJob(str(images), str(tmp_path / "out"))
    with pytest.raises(KeyboardInterrupt):
        predict_folder(predictor, job, {}, lambda done, total: interrupt(done == 2))
    cv2.imwrite(str(images / "0a.png"), np.full((20, 30), 99, np.uint8))
    predict_folder(predictor, job, {})
    assert read_submission(tmp_path / "out/submission.csv").image_ids == ("0.png", "0a.png", "1.png", "2.png")


@pytest.mark.parametrize("place", ["images", "memory://replaced-images"])
def test_an_image_that_is_replaced_meanwhile_is_predicted_anew(
    predictor: Predictor, tmp_path: Path, place: str
) -> None:
    """By one of the same name and size, in a folder and in a store."""
    images = place if storage.is_remote(place) else str(tmp_path / place)
    storage.make_folder(images)

    def write(number: int, seed: int) -> None:
        noise = cv2.GaussianBlur(np.random.default_rng(seed).integers(0, 256, (20, 30), np.uint8), (5, 5), 1.5)
        storage.write_bytes(f"{images}/{number}.bmp", cv2.imencode(".bmp", noise)[1].tobytes())

    for number in range(3):
        write(number, number)
    job = FolderJob(images, str(tmp_path / "out"), ALL)
    with pytest.raises(KeyboardInterrupt):
        predict_folder(predictor, job, {}, lambda done, total: interrupt(done == 2))
    write(0, 9)
    done: list[int] = []
    predict_folder(predictor, job, {}, lambda now, total: done.append(now))
    assert done == [2, 3]
    predict_folder(predictor, dataclasses.replace(job, out=str(tmp_path / "undisturbed")), {})
    assert tree_digest(tmp_path / "out") == tree_digest(tmp_path / "undisturbed")


@pytest.mark.parametrize("place", ["out", "memory://stale-predictions"])
def test_pictures_of_images_that_are_gone_or_unreadable_meanwhile_do_not_stay(
    folder: Path, predictor: Predictor, tmp_path: Path, place: str
) -> None:
    """Of those, too, that were written just before the stop and not yet taken down; what another image has stays."""
    images = tmp_path / "images"
    shutil.copytree(folder / "images", images)
    for name in ("0.jpg", "z.png"):
        (images / name).write_bytes((images / "a.jpg").read_bytes())
    out = place if storage.is_remote(place) else str(tmp_path / place)
    job = FolderJob(str(images), out, ALL)
    with pytest.raises(KeyboardInterrupt):
        predict_folder(predictor, job, {}, lambda done, total: interrupt(done == 5))
    (images / "0.jpg").rename(images / "0.png")  # the same label map
    (images / "a.jpg").write_bytes(b"no image")
    (images / "b.png").unlink()
    for name in ("Öl, 1.png", "z.png"):
        for file in (f"overlays/{name}.jpg", f"labelmaps/{name}", f"masks/spot/{name}"):
            storage.make_folder(f"{out}/{file}".rpartition("/")[0])
            storage.write_bytes(f"{out}/{file}", b"of the image as it was")
    (images / "Öl, 1.png").write_bytes(b"no image")
    (images / "z.png").unlink()
    for stop in (1, 0):
        with contextlib.suppress(KeyboardInterrupt):
            predict_folder(predictor, job, {}, lambda done, total, stop=stop: interrupt(done == 4 + stop))
    predict_folder(predictor, dataclasses.replace(job, out=str(tmp_path / "undisturbed")), {})
    written = {file.path: storage.read_bytes(f"{out}/{file.path}") for file in storage.list_files(out)}
    fresh = tmp_path / "undisturbed"
    assert written == {file.path: (fresh / file.path).read_bytes() for file in storage.list_files(str(fresh))}
    assert {"overlays/0.png.jpg", "labelmaps/0.png"} < written.keys()


def test_the_unfinished_job_of_another_command_is_refused(folder: Path, predictor: Predictor, tmp_path: Path) -> None:
    job = FolderJob(str(folder / "images"), str(tmp_path / "out"))
    how = describe_predictor(predictor)
    with pytest.raises(KeyboardInterrupt):
        predict_folder(predictor, job, how, lambda done, total: interrupt(done == 1))
    other = Predictor.from_checkpoint(folder / "model.safetensors", device="cpu", tta=())
    other_how = describe_predictor(other)
    for other_job, said in ((job, r"pixels-per-pass, tta"), (dataclasses.replace(job, formats=("coco",)), "format, ")):
        with pytest.raises(InputError, match=rf"differs in {said}.*remove .*/\.unfinished"):
            predict_folder(other, other_job, other_how)
    predict_folder(predictor, job, how)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["submission.csv"]
    predict_folder(other, job, other_how)  # a finished one is nobody's


def test_from_python_another_model_or_decision_does_not_go_on_with_what_was_stopped(
    folder: Path, predictor: Predictor, undisturbed: Path, tmp_path: Path
) -> None:
    """The call says nothing of the predictor, which is asked itself; one that was loaded anew is the same."""
    job = FolderJob(str(folder / "images"), str(tmp_path / "out"), ALL)
    with pytest.raises(KeyboardInterrupt):
        predict_folder(predictor, job, {}, lambda done, total: interrupt(done == 3))
    plain = load_checkpoint(folder / "model.safetensors")
    strict = dataclasses.replace(predictor.decision, binary_threshold=201)
    mean = dataclasses.replace(plain, mean=(plain.mean[0] / 2,))
    first = min(name for name in plain.tensors if name.endswith(".weight"))  # a norm's count of batches says nothing
    weights = dataclasses.replace(plain, tensors=plain.tensors | {first: plain.tensors[first] + 1})
    for checkpoint, decision, said in (
        (weights, None, "checkpoint"),
        (mean, None, "checkpoint"),
        (plain, strict, "decision"),
    ):
        other = Predictor.from_checkpoint(checkpoint, device="cpu", pixels_per_pass=4000)
        other.decision = decision or other.decision
        with pytest.raises(InputError, match=rf"it differs in {said}\)"):
            predict_folder(other, job, {})
    same = Predictor.from_checkpoint(folder / "model.safetensors", device="cpu", pixels_per_pass=4000)
    assert predict_folder(same, job, {}).new == 2
    assert tree_digest(tmp_path / "out") == tree_digest(undisturbed)


def test_a_job_knows_its_checkpoint_by_the_file_that_was_loaded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever differs: weights, or the decision. By its header, and however often the file is replaced meanwhile."""
    plain = load_checkpoint(folder / "model.safetensors")
    first, live = next(iter(plain.tensors)), tmp_path / "live.safetensors"
    predictors, said = [], []
    for checkpoint in (
        plain,
        dataclasses.replace(plain, tensors=plain.tensors | {first: plain.tensors[first] + 1}),
        dataclasses.replace(plain, decision=None),
        plain,
    ):
        save_checkpoint(live, checkpoint)
        predictors.append(Predictor.from_checkpoint(live, device="cpu"))
        said.append(digest_source(live))
    monkeypatch.setattr(Predictor, "model_digest", None)  # of all weights, which loading has read already
    own, weights, decision, same = (describe_predictor(predictor)["checkpoint"] for predictor in predictors)
    assert own == same
    assert len({own, weights, decision}) == 3
    assert [own, weights, decision, same] == said
    assert predictors[0].header == read_header(live)


def test_a_journal_that_goes_meanwhile_is_told(
    folder: Path, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two commands for one folder: the first to be done removes it."""
    job = FolderJob(str(folder / "images"), str(tmp_path / "out"))
    monkeypatch.setattr("steel.inference.journal._LINES_PER_PART", 1)
    for last in (2, 5):
        with pytest.raises(InputError, match=r"out/\.unfinished: gone meanwhile; another command for .*out has"):
            predict_folder(predictor, job, {}, lambda done, _, last=last: done == last and shutil.rmtree(job.out))


def test_a_journal_is_removed_while_another_command_writes_into_it(
    folder: Path, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command twice at once: what the second takes down after all was looked at that is to be removed."""
    rmdir, unfinished = os.rmdir, tmp_path / "out/.unfinished"

    def write_and_remove(path: str, *, dir_fd: int | None = None) -> None:
        if unfinished.exists():
            (unfinished / "part.jsonl").touch()
        rmdir(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", write_and_remove)
    assert predict_folder(predictor, FolderJob(str(folder / "images"), str(tmp_path / "out")), {}).images == 5
    assert os.listdir(tmp_path / "out") == ["submission.csv"]


def test_what_is_left_of_a_removed_journal_goes_with_the_next_job_but_nothing_younger(
    folder: Path, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = FolderJob(str(folder / "images"), str(tmp_path / "out"))

    def die(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            predict_folder(predictor, job, {})
    (left,) = (path for path in (tmp_path / "out").iterdir() if path.name != "submission.csv")
    assert left.name.startswith(".unfinished-")
    predict_folder(predictor, job, {})
    assert left.exists()
    os.utime(left, (0, 0))
    predict_folder(predictor, job, {})
    assert os.listdir(tmp_path / "out") == ["submission.csv"]


def test_parts_that_a_command_writes_into_the_folder_of_the_next_do_not_count(
    folder: Path, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody removes the folder of a command that still runs, as the refusal of another one says, and begins that."""
    monkeypatch.setattr("steel.inference.journal._LINES_PER_PART", 1)
    job = FolderJob(str(folder / "images"), str(tmp_path / "out"), ("kaggle", "jsonl"))
    other = Predictor.from_checkpoint(folder / "model.safetensors", device="cpu", pixels_per_pass=4000)
    other.decision = dataclasses.replace(
        other.decision, classes=tuple(ClassDecision(pixel_threshold=t) for t in (90, 99))
    )
    unfinished, parts = tmp_path / "out/.unfinished", dict[str, bytes]()

    def begin_another(done: int, total: int) -> None:
        if done == 3:
            parts.update({path.name: path.read_bytes() for path in unfinished.glob("*.jsonl")})
            shutil.rmtree(unfinished)
            with pytest.raises(KeyboardInterrupt):
                predict_folder(other, job, {}, lambda done, total: interrupt(done == 1))

    with pytest.raises(InputError, match=r"out/\.unfinished: gone meanwhile; another command .* somebody removed it"):
        predict_folder(predictor, job, {}, begin_another)
    assert len(parts) == 3
    for name, data in parts.items():  # which it may have written in the very moment
        (unfinished / name).write_bytes(data)
    assert predict_folder(other, job, {}).new == 4
    predict_folder(other, dataclasses.replace(job, out=str(tmp_path / "undisturbed")), {})
    assert tree_digest(tmp_path / "out") == tree_digest(tmp_path / "undisturbed")


def test_files_are_not_made_of_fewer_images_than_there_are(
    folder: Path, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steel.inference.journal._LINES_PER_PART", 1)
    job = FolderJob(str(folder / "images"), str(tmp_path / "out"))

    def lose(done: int, total: int) -> None:
        if done == 3:
            for path in (tmp_path / "out/.unfinished").glob("*.jsonl"):
                path.unlink()

    with pytest.raises(InputError, match=r"what was predicted of 3 images is gone meanwhile; give the same command"):
        predict_folder(predictor, job, {}, lose)
    assert predict_folder(predictor, job, {}).new == 3


def test_unreadable_images_are_told_and_tried_again(folder: Path, predictor: Predictor, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    whole = (folder / "images/b.png").read_bytes()
    for name, data in (("cut.png", whole[:300]), ("fine.png", whole), ("text.jpg", b"no image"), ("z.png", whole)):
        (images / name).write_bytes(data)
    (tmp_path / "sample.csv").write_text("ImageId,EncodedPixels,ClassId\ntext.jpg,1 1,1\nz.png,1 1,1\n")
    job = FolderJob(
        str(images), str(tmp_path / "out"), ("kaggle", "jsonl", "coco"), template=str(tmp_path / "sample.csv")
    )
    with pytest.raises(KeyboardInterrupt):
        predict_folder(predictor, job, {}, lambda done, total: interrupt(done == total))
    (images / "cut.png").write_bytes(whole)
    summary = predict_folder(predictor, job, {})
    assert (summary.images, summary.new, summary.not_in_sample, list(summary.unreadable)) == (3, 1, 2, ["text.jpg"])
    rows = read_submission(tmp_path / "out/submission.csv").rows
    assert [(row.image_id, row.rle) for row in rows if row.image_id == "text.jpg"] == [("text.jpg", "")]
    lines = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines] == ["cut.png", "fine.png", "text.jpg", "z.png"]
    assert lines[2] == {"image": "text.jpg", "error": "not a readable image (JPEG, PNG, TIFF, BMP or WebP)"}
    assert lines[0]["regions"] == lines[1]["regions"]
    coco = json.loads((tmp_path / "out/coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["cut.png", "fine.png", "z.png"]


def test_images_that_viewers_turn_are_told_whichever_attempt_predicted_them(
    folder: Path, predictor: Predictor, tmp_path: Path
) -> None:
    images = shutil.copytree(folder / "images", tmp_path / "images")
    exif = Image.Exif()
    exif[0x0112] = 6
    names = sorted(path.name for path in images.iterdir())
    for name in (names[0], names[-1]):
        with Image.open(images / name) as image:
            image.save(images / name, exif=exif)
    job = FolderJob(str(images), str(tmp_path / "out"))
    with pytest.raises(KeyboardInterrupt):
        predict_folder(predictor, job, {}, lambda done, total: interrupt(done == 2))
    summary = predict_folder(predictor, job, {})
    assert (summary.new, summary.turned) == (3, (names[0], names[-1]))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENETUNREACH])
def test_a_disk_that_fails_stops_the_job_and_what_was_written_before_stays(
    folder: Path, predictor: Predictor, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    job = FolderJob(str(folder / "images"), str(tmp_path / "out"), ALL)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/submission.csv").write_text("of before")
    with monkeypatch.context() as patched:
        break_reading(patched, OSError(number, os.strerror(number)))
        with pytest.raises(ResourceError, match=r"/images/.*: cannot be read now \([A-Z][a-z/ ]+\); see to") as told:
            predict_folder(predictor, job, {})
    assert exit_code(told.value) == 1
    assert (tmp_path / "out/submission.csv").read_text() == "of before"
    assert predict_folder(predictor, job, {}).images == 5
    assert tree_digest(tmp_path / "out") == tree_digest(undisturbed)


def break_reading(patched: pytest.MonkeyPatch, error: OSError) -> None:
    """From the second image on."""
    read = ImageRecord.read

    def fail(record: ImageRecord) -> bytes:
        if record.image_id != "a.jpg":
            raise error
        return read(record)

    patched.setattr(ImageRecord, "read", fail)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EISDIR])
def test_a_file_that_is_refused_or_gone_is_left_out(
    folder: Path, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    break_reading(monkeypatch, OSError(number, os.strerror(number), "a place"))
    found = predict_folder(predictor, FolderJob(str(folder / "images"), str(tmp_path / "out")), {})
    assert found.images == 1 and set(found.unreadable.values()) == {os.strerror(number)}


def test_too_little_memory_for_an_image_stops_the_job(
    folder: Path, predictor: Predictor, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be left out of outputs that look whole."""
    job = FolderJob(str(folder / "images"), str(tmp_path / "out"), ALL)
    said = "OpenCV(4.10.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes in function 'x'"

    def refuse(data: np.ndarray, how: int) -> np.ndarray:
        raise cv2.error(said)

    with monkeypatch.context() as patched:
        patched.setattr(cv2, "imdecode", refuse)
        with pytest.raises(OutOfMemoryError, match=r"^out of memory \(to decode a PNG\); fewer --threads need less$"):
            predict_folder(predictor, job, {})
    assert (tmp_path / "out/.unfinished").exists() and not (tmp_path / "out/submission.csv").exists()
    predict_folder(predictor, job, {})
    assert tree_digest(tmp_path / "out") == tree_digest(undisturbed)


def test_into_a_store_and_gone_on_with_there(folder: Path, predictor: Predictor, undisturbed: Path) -> None:
    url = "memory://predict-folder/out"
    job = FolderJob(str(folder / "images"), url, ALL)
    with pytest.raises(KeyboardInterrupt):
        predict_folder(predictor, job, {}, lambda done, total: interrupt(done == 2))
    predict_folder(predictor, job, {})
    written = {file.path: storage.read_bytes(f"{url}/{file.path}") for file in storage.list_files(url)}
    local = {file.path: (undisturbed / file.path).read_bytes() for file in storage.list_files(str(undisturbed))}
    assert written == local
    assert not storage.exists(f"{url}/.unfinished")


def test_into_a_local_folder_that_is_named_by_its_url(
    folder: Path, predictor: Predictor, undisturbed: Path, tmp_path: Path
) -> None:
    job = FolderJob((folder / "images").as_uri(), (tmp_path / "out").as_uri(), ALL)
    with pytest.raises(KeyboardInterrupt):
        predict_folder(predictor, job, {}, lambda done, total: interrupt(done == 2))
    predict_folder(predictor, job, {})
    assert tree_digest(tmp_path / "out") == tree_digest(undisturbed)


def test_two_images_that_would_share_a_picture_are_refused_before_any_is_predicted(
    folder: Path, predictor: Predictor, tmp_path: Path
) -> None:
    image = (folder / "images" / "a.jpg").read_bytes()
    for name in ("x.png", "x.png.jpg"):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / name).write_bytes(image)
    job = FolderJob(str(tmp_path / "images"), str(tmp_path / "out"), ("overlays",))
    with pytest.raises(InputError, match=r"x\.png and x\.png\.jpg would share a picture"):
        predict_folder(predictor, job, {})
    assert not (tmp_path / "out").exists()


def test_a_sample_of_other_classes_is_refused_before_any_image_is_predicted(
    folder: Path, predictor: Predictor, tmp_path: Path
) -> None:
    (tmp_path / "sample.csv").write_text(
        "ImageId_ClassId,EncodedPixels\n" + "".join(f"a.jpg_{k},\n" for k in (1, 2, 3))
    )
    job = FolderJob(str(folder / "images"), str(tmp_path / "out"), template=str(tmp_path / "sample.csv"))
    with pytest.raises(InputError, match=r"sample\.csv: it does not list classes 1 to 2 of every image once each"):
        predict_folder(predictor, job, {})
    assert not (tmp_path / "out").exists()


def test_columns_are_refused_where_nothing_has_them(folder: Path, predictor: Predictor, tmp_path: Path) -> None:
    job = FolderJob(str(folder / "images"), str(tmp_path / "out"), ("coco",), columns="ImageId,ClassId")
    with pytest.raises(InputError, match="--columns: only the format kaggle has them"):
        predict_folder(predictor, job, {})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"columns": "ImageId"}, "--columns ImageId: choose from ImageId_ClassId and ImageId,ClassId"),
        ({"tiff_pages": "all"}, "--tiff-pages all: choose from refuse and split"),
    ],
)
def test_what_no_job_can_be_is_refused_before_any_image_is_predicted(
    folder: Path, predictor: Predictor, tmp_path: Path, wrong: dict[str, str], said: str
) -> None:
    job = FolderJob(str(folder / "images"), str(tmp_path / "out"), **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=said):
        predict_folder(predictor, job, {})
    assert not (tmp_path / "out").exists()


def test_an_image_is_named_by_its_own_name(folder: Path, tmp_path: Path) -> None:
    """Of what stands behind a slash, paths say nothing, but names of images and of their pictures are made of it."""
    image = folder / "images/b.png"
    for source, said in (
        (f"{image}/", r"b\.png/: a file, not a folder; leave out what follows b\.png"),
        (f"{image}//.", r"b\.png//\.: a file, not a folder; leave out what follows b\.png"),
        (f"{image.as_uri()}/", r"b\.png/: a file, not a folder; leave out what follows b\.png"),
        ("", r"images: an empty path; give \. for the current folder"),
    ):
        with pytest.raises(InputError, match=said):
            check_job(FolderJob(source, str(tmp_path)))
    for source in (str(image), image.as_uri(), f"{folder}/images/", f"{folder}/images/."):
        check_job(FolderJob(source, str(tmp_path)))


@pytest.fixture
def web(folder: Path) -> Iterator[str]:
    """The images by HTTP, whatever the query."""
    pytest.importorskip("aiohttp")
    with serve_folder(folder / "images") as url:
        yield url


@pytest.mark.parametrize("untold", [(), ("Last-Modified",)])
def test_an_image_on_a_web_server_that_is_written_again_is_another(tmp_path: Path, untold: tuple[str, ...]) -> None:
    """Of another size, where that is all there is to tell it by."""
    pytest.importorskip("aiohttp")
    (tmp_path / "a.png").write_bytes(b"123")
    (tmp_path / "b.png").write_bytes(b"123")
    with serve_folder(tmp_path, *untold) as url:
        before = versions_of(find_images(url))
        (tmp_path / "b.png").write_bytes(b"1234")
        os.utime(tmp_path / "b.png", (1, 1))
        after = versions_of(find_images(url))
    assert [name for name in before if before[name] != after[name]] == ["b.png"]


@pytest.mark.parametrize("query", ["", "?sig=5ec/ret", "?name=other.txt&sig=5ecret#a"])
def test_an_image_by_url_is_named_without_its_query(
    folder: Path, predictor: Predictor, web: str, tmp_path: Path, query: str
) -> None:
    formats = ("kaggle", "jsonl", "labelmaps")
    for source, out in ((f"{web}/b.png{query}", "by_url"), (str(folder / "images/b.png"), "by_path")):
        assert predict_folder(predictor, FolderJob(source, str(tmp_path / out), formats), {}).images == 1
    assert (tmp_path / "by_url/labelmaps/b.png").exists()
    assert tree_digest(tmp_path / "by_url") == tree_digest(tmp_path / "by_path")


def test_a_name_of_a_store_may_hold_what_looks_like_a_query(folder: Path, predictor: Predictor, tmp_path: Path) -> None:
    storage.write_bytes("memory://odd/coil#3.png", (folder / "images/b.png").read_bytes())
    predict_folder(predictor, FolderJob("memory://odd/coil#3.png", str(tmp_path)), {})
    assert read_submission(tmp_path / "submission.csv").image_ids == ("coil#3.png",)


@pytest.mark.parametrize("typo", ["typo.jpg", "typo.jpg?sig=5ecret", "memory://nowhere/typo.jpg"])
def test_an_image_by_url_that_is_not_there_is_refused_before_anything(
    predictor: Predictor, web: str, tmp_path: Path, typo: str
) -> None:
    (tmp_path / "submission.csv").write_text("of before")
    source = typo if "://" in typo else f"{web}/{typo}"
    with pytest.raises(InputError, match=r"^(http|memory)://.*/typo\.jpg: no such file$") as told:
        predict_folder(predictor, FolderJob(source, str(tmp_path)), {})
    assert exit_code(told.value) == 2
    assert os.listdir(tmp_path) == ["submission.csv"]
    assert (tmp_path / "submission.csv").read_text() == "of before"
