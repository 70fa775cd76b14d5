"""One prediction: its regions, label map, pictures and files, by values worked out by hand."""

import json
import tracemalloc

import cv2
import numpy as np
import pytest

from steel.decision import ClassDecision, Decision
from steel.errors import InputError
from steel.images.class_colours import class_colour
from steel.images.tags import Tag, draw_tags
from steel.inference.prediction import Prediction
from steel.inference.writers import WRITERS

DECISION = Decision((ClassDecision(pixel_threshold=100), ClassDecision(pixel_threshold=100, min_area=3)), gate="class")


def make(label_probs=(200, 200, 200), image=None):
    """Class 1: an L of three pixels and, touching it at a corner alone, one more; class 2: 2 x 2 pixels over that."""
    probs = np.zeros((2, 5, 6), np.uint8)
    probs[0, 0, 0] = probs[0, 1, 0] = 102
    probs[0, 1, 1] = 153
    probs[0, 2, 2] = 255
    probs[1, 2:4, 2:4] = [[200, 204], [204, 204]]
    probs[1, 0, 5] = 99
    image = np.full((5, 6), 60, np.uint8) if image is None else image
    return Prediction("a.png", image, ("pit", "dent"), DECISION, probs, np.array(label_probs, np.uint8))


def test_regions_are_parts_that_share_edges():
    found = [region._replace(polygon=None) for region in make().regions()]
    assert [tuple(region)[:4] for region in found] == [
        (1, "pit", 3, (0, 0, 2, 2)),
        (1, "pit", 1, (2, 2, 1, 1)),
        (2, "dent", 4, (2, 2, 2, 2)),
    ]
    np.testing.assert_allclose([r.mean_prob for r in found], [(102 + 102 + 153) / 3 / 255, 1.0, 203 / 255])
    outlines = [region.polygon.tolist() for region in make().regions()]
    assert sorted(map(tuple, outlines[0])) == [(0, 0), (0, 2), (1, 0), (1, 1), (2, 1), (2, 2)]
    assert sorted(map(tuple, outlines[2])) == [(2, 2), (2, 4), (4, 2), (4, 4)]


def test_the_likelier_class_has_the_pixel_of_both():
    assert make().label_map().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 2, 0, 0],
        [0, 0, 2, 2, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]


def test_of_equally_likely_classes_the_first_has_the_pixel():
    probs = np.array([[[100, 100, 0]], [[100, 101, 100]]], np.uint8)
    decision = Decision((ClassDecision(pixel_threshold=100),) * 2)
    image, label_probs = np.zeros((1, 3), np.uint8), np.zeros(3, np.uint8)
    prediction = Prediction("a.png", image, ("pit", "dent"), decision, probs, label_probs)
    assert prediction.label_map().tolist() == [[1, 2, 2]]


@pytest.mark.parametrize(("picture", "most"), [(Prediction.label_map, 10), (Prediction.overlay, 16)])
def test_pictures_of_a_large_image_take_a_few_bytes_a_pixel(picture, most):
    """Where all of it is defective, too: four classes' masks, one class's numbered parts, and the picture itself."""
    side, names = 1024, ("pit", "dent", "rust", "scratch")
    probs = np.full((4, side, side), 200, np.uint8)
    decision = Decision((ClassDecision(),) * 4)
    image = np.full((side, side), 90, np.uint8)
    prediction = Prediction("a.png", image, names, decision, probs, np.full(5, 255, np.uint8))
    make().overlay()  # loads the font
    tracemalloc.start()
    try:
        picture(prediction)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most * side * side, peak / side**2


def test_labels_and_classes_go_by_the_decision():
    prediction = make(label_probs=(127, 128, 127))
    assert prediction.labels.tolist() == [False, True, False]
    assert prediction.class_ids == (1,)  # the gate asks the head for the class
    assert not prediction.masks[1].any()
    said = prediction.to_dict()
    assert (said["verdict"], said["classes"], len(said["regions"])) == ("defective", ["pit"], 2)
    assert said["probabilities"] == {"any": 0.498, "classes": {"pit": 0.502, "dent": 0.498}}
    clean = make(label_probs=(0, 0, 0)).to_dict()
    assert (clean["verdict"], clean["classes"], clean["regions"]) == ("clean", [], [])


def test_probabilities_of_another_size_are_brought_to_the_images():
    prediction = make(image=np.full((10, 12), 60, np.uint8))
    assert prediction.masks.shape == (2, 10, 12)
    assert prediction.overlay().shape == (10, 12, 3)


def test_an_overlay_names_the_regions_inside_the_picture():
    image = np.full((120, 200), 60, np.uint8)
    probs = np.zeros((2, 120, 200), np.uint8)
    probs[0, 0:20, 190:200] = 255  # at the upper right corner, where there is no room above
    probs[1, 80:100, 20:60] = 255
    prediction = Prediction("a", image, ("pit", "dent"), DECISION, probs, np.full(3, 255, np.uint8))
    bare = Prediction("a", image, ("", ""), DECISION, np.zeros_like(probs), np.full(3, 255, np.uint8)).overlay()
    assert (bare == 60).all()
    picture = prediction.overlay().astype(int)
    assert picture.shape == (120, 200, 3)
    changed = (picture != 60).any(axis=2)
    assert changed[68:79, 20:60].mean() > 0.9  # a tag of the class's colour above the region
    assert changed[0:12, 165:188].any()  # moved to the left, inside the picture
    assert not changed[25:60].any()


@pytest.mark.parametrize(("left", "top"), [(0, 90), (199, 90), (90, 0), (90, 199), (199, 199), (199, 0)])
def test_a_tag_at_a_border_is_whole(left, top):
    picture = np.full((200, 200, 3), 60, np.uint8)
    inside, here = (draw_tags(picture, [Tag(*place, "class 3 0.45", 3)]) for place in ((60, 90), (left, top)))
    of_class, changed = (inside == class_colour(3)).all(axis=2).sum(), (inside != 60).any(axis=2).sum()
    assert ((here == class_colour(3)).all(axis=2).sum(), (here != 60).any(axis=2).sum()) == (of_class, changed)


def test_no_tag_covers_another():
    """Seven tags at one place: patches of five colours, each as large as that of a tag alone; no room for two."""
    picture = np.full((200, 200, 3), 60, np.uint8)
    alone = [(draw_tags(picture, [Tag(50, 100, "a 0.5", k)]) == class_colour(k)).all(axis=2).sum() for k in range(1, 8)]
    together = draw_tags(picture, [Tag(50 + k, 100, "a 0.5", k) for k in range(1, 8)])
    assert [(together == class_colour(k)).all(axis=2).sum() for k in range(1, 8)] == [*alone[:5], 0, 0]
    rows = [np.flatnonzero((together == class_colour(k)).all(axis=2).any(axis=1)) for k in range(1, 6)]
    assert sorted(len(r) for r in rows) == [rows[0][-1] - rows[0][0] + 1] * 5
    assert rows[0][-1] < 100, "the first one stands above what it names"


@pytest.mark.parametrize(("height", "width", "text"), [(400, 400, "patch 0.51"), (64, 400, "inclusion 0.51")])
def test_of_many_regions_a_few_are_named_and_the_picture_stays_seen(height, width, text):
    """Tags are of the largest regions, and lie apart: each is as large as it is alone."""
    picture, draw = np.full((height, width, 3), 60, np.uint8), np.random.default_rng(0).integers
    tags = [Tag(int(draw(width)), int(draw(height)), text, 1 + number) for number in range(60)]
    drawn = draw_tags(picture, tags)
    assert (drawn != 60).any(axis=2).mean() < 1 / 8
    (alone,) = {(draw_tags(picture, [tag]) != 60).any(axis=2).sum() for tag in tags}
    few = (drawn != 60).any(axis=2).sum() / alone
    assert 2 <= few <= 8 and few == int(few)
    assert (draw_tags(picture, tags[:1]) == drawn)[(drawn == class_colour(1)).all(axis=2)].all()


def test_a_tag_that_is_large_beside_its_picture_is_drawn_all_the_same():
    picture = np.full((16, 24, 3), 60, np.uint8)
    drawn = draw_tags(picture, [Tag(0, 0, "a", 1), Tag(20, 0, "a", 2)])
    assert (drawn == class_colour(1)).all(axis=2).any() and not (drawn == class_colour(2)).all(axis=2).any()


@pytest.mark.parametrize("name", ["deep/er/a.jpg", "a.png", "a.json"])
def test_it_is_saved_by_the_ending(tmp_path, name):
    prediction = make()
    prediction.save(tmp_path / name)
    if name.endswith(".json"):
        assert json.loads((tmp_path / name).read_text()) == prediction.to_dict()
    elif name.endswith(".png"):
        np.testing.assert_array_equal(cv2.imread(str(tmp_path / name), -1), prediction.label_map())
    else:
        assert cv2.imread(str(tmp_path / name)).shape == (5, 6, 3)


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"a\.gif: give a name that ends in \.jpg, \.png, \.json"):
        make().save(tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


def test_a_class_called_clean_is_not_the_clean_image_of_the_table():
    image, names, probs = np.zeros((5, 6), np.uint8), ("clean", "dent"), np.zeros((2, 5, 6), np.uint8)
    answers = [Prediction("a", image, names, DECISION, probs, np.array(p, np.uint8)) for p in ([0] * 3, [255, 255, 0])]
    rows = [WRITERS["table"].encode(answer) for answer in answers]
    assert [row[:2] for row in rows] == [[0, "clean (no class)"], [1, "clean"]]
