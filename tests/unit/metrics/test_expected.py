"""What a checkpoint remembers of its validation images, worked by hand."""

import json

import numpy as np
import pytest

from steel.checkpoint_header import make_metadata, parse_metadata
from steel.decision import ClassDecision, Decision
from steel.errors import InputError
from steel.metrics.expected import expected_figures
from steel.metrics.statistics import EvaluationStatistics
from tests.serving import save_tiny_model

DECISION = Decision((ClassDecision(pixel_threshold=100), ClassDecision(pixel_threshold=100, min_area=3)))


def statistics() -> EvaluationStatistics:
    """Four images of ten pixels: class 1 in the first; class 2 in the second with 2 pixels, too few, in the third 3."""
    histograms = np.zeros((4, 2, 2, 256), np.uint32)
    histograms[:, :, 0, 10] = 10
    for image, class_place, pixels in ((0, 0, 1), (1, 1, 2), (2, 1, 3)):
        histograms[image, class_place, 0, [10, 200]] = 10 - pixels, pixels
    label_probs = np.array([[255, 255, 0], [0, 0, 51], [255, 0, 51], [0, 0, 0]], np.uint8)
    return EvaluationStatistics(np.arange(4), histograms, label_probs)


def test_the_figures() -> None:
    assert expected_figures(statistics(), DECISION) == {
        "images": 4,
        "defective_share": 0.5,
        "mean_probabilities": [0.5, 0.25, 0.1],
    }
    assert expected_figures(EvaluationStatistics.from_images([], 2), DECISION) is None


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"images": 4, "defective_share": 0.5, "mean_probabilities": [0.5]}, "1 mean probabilities for 2 classes"),
        ({"images": 4, "defective_share": "x", "mean_probabilities": [0.5, 0, 0]}, "defective_share"),
        ([], "provenance.validation"),
    ],
)
def test_a_checkpoint_with_other_figures_is_refused(tmp_path, figures: object, said: str) -> None:
    from steel.checkpoint import read_header

    save_tiny_model(tmp_path / "model.safetensors")
    content = read_header(tmp_path / "model.safetensors")
    content = {name: value for name, value in content.items() if name not in ("version", "tensors")}
    good = {"images": 4, "defective_share": 0.5, "mean_probabilities": [0.5, 0.25, 0.1]}
    for validation in (None, good):
        metadata = make_metadata(json.loads(json.dumps(content | {"provenance": {"validation": validation}})))
        assert parse_metadata("a", metadata)[1]["provenance"] == {"validation": validation}
    with pytest.raises(InputError, match=said):
        parse_metadata("a", make_metadata(content | {"provenance": {"validation": figures}}))
