"""The synthetic data set: its layout, its statistics, and that it is a function of its options alone."""

import csv
import errno
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from steel.cli import main
from steel.errors import InputError, ResourceError
from steel.labels.rle import decode_rle, encode_rle
from steel.synthetic import dataset as synthetic
from steel.synthetic.dataset import synthesize
from steel.synthetic.masks import AREA_LAWS, draw_area, draw_mask
from steel.synthetic.plan import plan_classes
from steel.synthetic.scene import draw_masks, render

SMALL = {"height": 64, "width": 160}


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def test_layout_is_kaggles_and_every_run_length_fits_its_image(tmp_path) -> None:
    out = tmp_path / "new" / "data"
    assert synthesize(out, 20, 6, seed=1, class_share=(0.25, 0.25, 0.25, 0.25), **SMALL)
    train, truth, sample = (_rows(out / name) for name in ("train.csv", "test_truth.csv", "sample_submission.csv"))
    assert list(train[0]) == list(truth[0]) == ["ImageId", "ClassId", "EncodedPixels"]
    assert list(sample[0]) == ["ImageId_ClassId", "EncodedPixels"]
    train_ids = {path.name for path in (out / "train_images").iterdir()}
    test_ids = {path.name for path in (out / "test_images").iterdir()}
    assert (len(train_ids), len(test_ids)) == (20, 6)
    assert not train_ids & test_ids
    assert {row["ImageId"] for row in train} <= train_ids
    assert [row["ImageId_ClassId"] for row in sample] == [f"{i}_{k}" for i in sorted(test_ids) for k in range(1, 5)]
    for row in train + truth:
        mask = decode_rle(row["EncodedPixels"], SMALL["height"], SMALL["width"])
        assert mask.any()
        assert encode_rle(mask) == row["EncodedPixels"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["data"]  # no staging left


def test_images_are_gray_jpegs_in_colour_form(tmp_path) -> None:
    synthesize(tmp_path / "d", 2, **SMALL)
    for path in (tmp_path / "d" / "train_images").iterdir():
        pixels = np.asarray(Image.open(path))
        assert pixels.shape == (64, 160, 3)
        assert (pixels == pixels[..., :1]).all()
        assert pixels.std() > 2


def test_the_number_of_workers_changes_no_byte(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(synthetic, "_POOL_FROM", 0)
    for workers in (1, 2):
        synthesize(tmp_path / str(workers), 6, 3, seed=5, workers=workers, **SMALL)
    assert _digest(tmp_path / "1") == _digest(tmp_path / "2")


def test_images_whose_digits_are_taken_have_more_of_them() -> None:
    number = 228_209  # the first of this seed whose last image has the digits of another
    names = synthetic._image_ids(1, 0, number)
    assert len(set(names)) == number
    assert {len(name) for name in names[:-1]} == {9 + len(".jpg")}
    assert len(names[-1]) == 10 + len(".jpg")
    assert any(name[:9] == names[-1][:9] for name in names[:-1])


def test_another_seed_gives_other_images(tmp_path) -> None:
    for seed in (0, 1):
        synthesize(tmp_path / str(seed), 2, seed=seed, **SMALL)
    pictures = [sorted((tmp_path / str(seed) / "train_images").iterdir())[0].read_bytes() for seed in (0, 1)]
    assert pictures[0] != pictures[1]


def test_the_same_call_does_nothing_and_other_content_is_refused(tmp_path, capsys) -> None:
    out = tmp_path / "d"
    out.mkdir()
    assert synthesize(out, 2, **SMALL)  # an empty folder is taken
    before = _digest(out)
    assert not synthesize(out, 2, **SMALL)
    assert _digest(out) == before
    with pytest.raises(InputError, match="other options"):
        synthesize(out, 3, **SMALL)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("x")
    assert main(["synth", str(foreign), "--num-train", "2"]) == 2
    assert "is no synthetic data set" in capsys.readouterr().err
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]


def test_an_interrupted_job_leaves_nothing(tmp_path) -> None:
    def interrupt(done: int, total: int) -> None:
        assert total == 4
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path / "d", 4, on_image=interrupt, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_is_killed_is_one_line_and_leaves_nothing(tmp_path, monkeypatch) -> None:
    def kill_one(done: int, total: int) -> None:
        assert done < total
        multiprocessing.active_children()[0].kill()

    monkeypatch.setattr(synthetic, "_POOL_FROM", 0)
    with pytest.raises(ResourceError, match="a worker process was killed"):
        synthesize(tmp_path / "d", 400, workers=2, on_image=kill_one, **SMALL)
    assert list(tmp_path.iterdir()) == []


HEARING = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what tests run in may ignore it, and its children with it
from steel.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("seconds", [0, 0.4])
def test_an_interruption_while_workers_start_is_one_line(tmp_path, seconds: float) -> None:
    command = [sys.executable, "-c", HEARING, "synth", str(tmp_path / "d"), "--num-train", "400", "--workers", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as program:
        children = Path(f"/proc/{program.pid}/task/{program.pid}/children")
        while len(workers := children.read_text().split()) < 2:  # the first is what keeps track of their semaphores
            time.sleep(0.01)
        time.sleep(seconds)
        os.killpg(program.pid, signal.SIGINT)
        _, told = program.communicate(timeout=120)
    assert len(workers) >= 2
    assert told.splitlines()[-1:] == ["interrupted"] and "Traceback" not in told
    assert program.returncode == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_train": 0}, "at least 1"),
        ({"num_train": None}, "--num-train"),
        ({"num_train": 4, "height": 8}, "8x160"),
        ({"num_train": 4, "seed": -1}, "negative"),
        ({"num_train": 4, "workers": 0}, "0 workers"),
        ({"num_train": 4, "defect_share": 1.5}, "not in"),
        ({"num_train": 4, "class_share": (0.5, 0.5)}, "4 numbers"),
        ({"num_train": 4, "class_share": (0.5, 0.1, 0.1, 0.1), "defect_share": 0.3}, "from 0.5 to 0.8"),
    ],
)
def test_impossible_requests_are_refused(tmp_path, options, message) -> None:
    with pytest.raises(InputError, match=message):
        synthesize(tmp_path / "d", **{"height": 64, "width": 160, **options})
    assert list(tmp_path.iterdir()) == []


def test_plan_has_the_real_frequencies() -> None:
    images = plan_classes(np.random.default_rng(0), 12568, None, None)
    counts = [sum(k in classes for classes in images) for k in (1, 2, 3, 4)]
    assert counts == [897, 247, 5150, 801]
    assert sum(not classes for classes in images) == 5902
    assert sum(len(classes) == 2 for classes in images) in range(400, 430)  # 425 in the real data


@given(
    num_images=st.integers(1, 200),
    class_share=st.tuples(*[st.floats(0, 1)] * 4),
    defect=st.none() | st.floats(0, 1),
    seed=st.integers(0, 100),
)
@settings(max_examples=60, deadline=None)
def test_plan_meets_every_share_that_is_possible(num_images, class_share, defect, seed) -> None:
    if defect is not None:  # somewhere between the least and the most that go with the class shares
        low, high = max(class_share), min(1.0, sum(class_share))
        defect = low + defect * (high - low)
    images = plan_classes(np.random.default_rng(seed), num_images, class_share, defect)
    assert len(images) == num_images
    for class_id, share in enumerate(class_share, start=1):
        assert abs(sum(class_id in classes for classes in images) - share * num_images) < 1 + 1e-6
    if defect is not None:
        assert abs(sum(bool(classes) for classes in images) - defect * num_images) <= 2


@pytest.mark.parametrize(
    ("class_id", "quartiles", "mean", "std"),
    [
        (1, (163, 1713, 3243, 5773, 31303), 4350, 3734),
        (2, (316, 2026, 3086, 4612, 14023), 3513, 2130),
        (3, (150, 5045, 12151, 29399, 356308), 25593, 37296),
        (4, (491, 13248, 25352, 45025, 192780), 34795, 30578),
    ],
)
def test_areas_follow_the_real_distribution(class_id, quartiles, mean, std) -> None:
    law = AREA_LAWS[class_id - 1]
    assert [law.quantile(share) for share in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx(quartiles)
    values = np.array([law.quantile(share) for share in np.linspace(0, 1, 2001)])
    assert (np.diff(values) > 0).all()
    assert values.mean() == pytest.approx(mean, rel=0.02)
    assert values.std() == pytest.approx(std, rel=0.25)


@pytest.mark.parametrize("class_id", [1, 2, 3, 4])
def test_drawn_masks_have_the_wanted_area(class_id) -> None:
    rng = np.random.default_rng(class_id)
    errors = []
    for _ in range(40):
        wanted = draw_area(rng, class_id) * 256 * 1600
        mask = draw_mask(rng, class_id, wanted, np.zeros((256, 1600), np.uint8), (0, 1600))
        errors.append(mask.sum() / wanted - 1)
    assert np.median(np.abs(errors)) < 0.06
    assert abs(np.mean(errors)) < 0.08


@pytest.mark.parametrize(("height", "width"), [(256, 1600), (64, 160), (32, 64), (300, 300)])
def test_defects_lie_on_steel(height, width) -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        masks, extent = draw_masks(rng, frozenset({1 + seed % 4, 3}), height, width)
        covered = np.any([mask.any(axis=0) for mask in masks.values()], axis=0)
        assert extent[0] <= np.flatnonzero(covered)[0]
        assert np.flatnonzero(covered)[-1] < extent[1]
        image = render(rng, masks, extent, height, width)
        assert image.shape == (height, width)
        for beside in (image[:, : max(0, extent[0] - 8)], image[:, extent[1] + 8 :]):
            assert beside.max(initial=0) < 12


def _annotate(path: Path, rows: list[tuple[str, int, str]]) -> Path:
    path.write_text("ImageId,ClassId,EncodedPixels\n" + "".join(f"{i},{k},{rle}\n" for i, k, rle in rows))
    return path


@pytest.fixture
def annotations(tmp_path) -> Path:
    mask = np.zeros((64, 160), np.uint8)
    cv2.rectangle(mask, (30, 0), (60, 63), 1, -1)
    return _annotate(
        tmp_path / "given.csv", [("b.jpg", 3, encode_rle(mask)), ("a.jpg", 1, "1 3 5 2"), ("a.jpg", 6, "9 9")]
    )


def test_given_masks_are_rendered_and_copied_character_for_character(tmp_path, annotations) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("b.jpg\nclean.jpg\na.jpg\n")
    assert synthesize(tmp_path / "d", num_test=1, annotations=annotations, image_ids=ids, **SMALL)
    given_rows = sorted(annotations.read_text().splitlines()[1:])
    assert (tmp_path / "d" / "train.csv").read_text().splitlines()[1:] == given_rows
    assert {path.name for path in (tmp_path / "d" / "train_images").iterdir()} == {"a.jpg", "b.jpg", "clean.jpg"}
    assert len(list((tmp_path / "d" / "test_images").iterdir())) == 1


@pytest.mark.parametrize("class_id", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (1, 160), (64, 1)])
def test_specks_and_hairlines_of_real_masks_are_rendered(class_id, shape) -> None:
    mask = np.zeros((64, 160), np.uint8)
    mask[: shape[0], -shape[1] :] = 1  # in the corner
    for seed in range(5):
        image = render(np.random.default_rng(seed), {class_id: mask}, (0, 160), 64, 160)
        assert image.shape == (64, 160)
        assert image.std() > 1


def test_an_annotated_image_looks_the_same_in_every_part(tmp_path, annotations) -> None:
    synthesize(tmp_path / "all", annotations=annotations, **SMALL)
    synthesize(tmp_path / "one", 1, annotations=annotations, **SMALL)
    [path] = (tmp_path / "one" / "train_images").iterdir()
    assert path.read_bytes() == (tmp_path / "all" / "train_images" / path.name).read_bytes()
    assert {row["ImageId"] for row in _rows(tmp_path / "one" / "train.csv")} == {path.name}


def test_faulty_annotations_are_told_all_at_once(tmp_path) -> None:
    rows = [
        ("a.jpg", 1, "1 3"),
        ("a.jpg", 1, "5 3"),
        ("b.jpg", 0, "1 1"),
        ("c.jpg", 2, "10240 2"),
        ("../d.jpg", 1, "1 1"),
    ]
    with pytest.raises(InputError) as caught:
        synthesize(tmp_path / "d", annotations=_annotate(tmp_path / "bad.csv", rows), **SMALL)
    for part in ("duplicate rows", "b.jpg class 0", "c.jpg class 2", "../d.jpg", "bad.csv"):
        assert part in str(caught.value)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("number", ["0", "-1"])
def test_fewer_images_than_one_are_refused(tmp_path, annotations, capsys, number) -> None:
    line = ["synth", str(tmp_path / "d"), "--annotations", str(annotations), "--num-train", number]
    assert main([*line, "--height", "64", "--width", "160"]) == 2
    assert f"{number} training images asked for; give at least 1" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_more_images_than_are_annotated_is_refused(tmp_path, annotations) -> None:
    with pytest.raises(InputError, match="have 2"):
        synthesize(tmp_path / "d", 3, annotations=annotations, **SMALL)
    with pytest.raises(InputError, match="leave them out"):
        synthesize(tmp_path / "d", annotations=annotations, defect_share=0.5, **SMALL)
    with pytest.raises(InputError, match="no such file"):
        synthesize(tmp_path / "d", annotations=tmp_path / "missing.csv", **SMALL)


def test_a_full_disk_is_one_line_with_the_folder_and_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["synth", str(tmp_path / "s"), "--num-train", "2", "--workers", "1"]) == 1
    helps = "make room there or choose another place"
    assert capsys.readouterr().err == f"error: No space left on device: {tmp_path}/s; {helps}\n"
    assert os.listdir(tmp_path) == []


def test_a_disk_that_is_read_only_is_told_by_the_name_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_only(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr("steel.storage.writing.make_folder", lambda _: None)  # that above is there
    monkeypatch.setattr(Path, "mkdir", read_only)
    assert main(["synth", str(tmp_path / "s"), "--num-train", "2", "--workers", "1"]) == 1
    assert capsys.readouterr().err == f"error: Read-only file system: {tmp_path}/s; choose another place\n"
