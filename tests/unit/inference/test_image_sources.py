"""What a predictor takes for images: files, folders, arrays, and anything that yields them."""

from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest
from PIL import Image

from steel.errors import InputError
from steel.inference.predictor import Predictor
from steel.inference.sources import NamedImage
from tests.noise_predictions import assert_same, images, make_checkpoint, make_predictor


@pytest.fixture(scope="module")
def predictor():
    return make_predictor(make_checkpoint(0))


def test_images_can_be_given_by_path(predictor, tmp_path):
    pictures = images((32, 40), (30, 38, 3))
    names = [tmp_path / "gray.png", tmp_path / "colour.png"]
    cv2.imwrite(str(names[0]), pictures[0])
    cv2.imwrite(str(names[1]), pictures[1][..., ::-1])
    by_path = predictor.predict([names[0], str(names[1]), pictures[0]])
    assert_same(by_path[0], predictor.predict(pictures)[0])
    assert_same(by_path[2], by_path[0])
    of_colour = Predictor.from_checkpoint(make_checkpoint(1, in_channels=3), device="cpu")
    assert_same(of_colour.predict(names)[1], of_colour.predict(pictures)[1])
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(InputError, match=r"absent\.jpg: no such file"):
        predictor.predict([tmp_path / "absent.jpg"])
    with pytest.raises(InputError, match=r"text\.jpg: "):
        predictor.predict([tmp_path / "text.jpg"])


def test_an_image_is_not_called_by_the_secrets_of_its_url(predictor):
    url = "memory://user:5ecret@host/a.png?sig=5ecret"
    fsspec.filesystem("memory").pipe(url, cv2.imencode(".png", images((32, 40))[0])[1].tobytes())
    assert [prediction.image_id for prediction in predictor.predict(url)] == ["memory://host/a.png"]


class Dataset:
    """As torch has it: without `__iter__`."""

    def __init__(self, pictures):
        self.pictures = pictures

    def __getitem__(self, number):
        return self.pictures[number]


def test_sources_of_every_kind(predictor, tmp_path, monkeypatch):
    gray, colour = images((32, 40), (32, 40, 3))
    monkeypatch.chdir(tmp_path)
    for name, picture in (("shots/b.png", gray), ("shots/line/a.png", colour[..., ::-1]), ("shots/notes.txt", None)):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"" if picture is None else cv2.imencode(".png", picture)[1].tobytes())
    (of_gray,), (of_colour,) = predictor.predict([gray]), predictor.predict([colour])
    both = [of_gray, of_colour]
    for source, ids, expected in (
        (gray, ["0"], [of_gray]),
        (gray[..., None], ["0"], [of_gray]),
        (colour, ["0"], [of_colour]),
        (np.stack([gray, gray]), ["0", "1"], [of_gray, of_gray]),
        (colour[None], ["0"], [of_colour]),
        ("shots/b.png", ["shots/b.png"], [of_gray]),
        (Path("shots"), ["b.png", "line/a.png"], both),
        (
            (Path("shots/line/a.png"), gray, "shots"),
            ["shots/line/a.png", "0", "b.png", "line/a.png"],
            both[::-1] + both,
        ),
        ((picture for picture in (gray, colour)), ["0", "1"], both),
        (Dataset([gray, colour]), ["0", "1"], both),
        ([], [], []),
    ):
        found = predictor.predict(source)
        assert [prediction.image_id for prediction in found] == ids
        for prediction, same in zip(found, expected, strict=True):
            assert_same(prediction, same)


@pytest.mark.parametrize("shape", [(32, 40), (32, 40, 1), (32, 40, 3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_camera_may_write_every_frame_into_one_buffer(shape, channels):
    predictor = make_predictor(make_checkpoint(channels, channels))
    frames = images(*[shape] * 5)

    def camera():
        buffer = np.empty(shape, np.uint8)
        for frame in frames:
            buffer[:] = frame
            yield buffer
        buffer[:] = 0

    for found, expected in zip(predictor.predict(camera()), predictor.predict(frames), strict=True):
        assert_same(found, expected)
        np.testing.assert_array_equal(found.image, expected.image)


def test_images_are_copied_only_where_their_array_may_be_used_again(predictor):
    (gray,) = images((32, 40))
    for source, is_copied in ((gray, False), (gray[None], False), ([gray], True), ([NamedImage("a", gray)], False)):
        (prediction,) = predictor.predict(source)
        assert np.shares_memory(prediction.image, gray) != is_copied


def test_what_is_no_image_is_refused(predictor, tmp_path):
    (gray,) = images((32, 40))
    for source, said in (
        ([gray.tolist()], "not list"),
        ([None], "not NoneType"),
        (cv2.imread(str(tmp_path / "absent.png")), "^an image must be .* or the path of a file, not NoneType$"),
        (Image.fromarray(gray), "not Image$"),
        (7, "not int$"),
        ("a.jpg", "a.jpg: no such file"),
        ("", "path is empty; give . for the current folder"),
        ([gray, ""], "path is empty; give . for the current folder"),
        (tmp_path, "no images there"),
        (gray.astype(float), "float64 pixels; convert them to 8"),
        (np.zeros((32, 40, 4), np.uint8), r"an image must be .* not \(32, 40, 4\)"),
        ([np.zeros((2, 32, 40), np.uint8)], r"an image must be .* not \(2, 32, 40\)"),
    ):
        with pytest.raises(InputError, match=said):
            predictor.predict(source)
