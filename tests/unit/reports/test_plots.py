"""Overlays, contact sheets and curves, looked at pixel by pixel."""

import functools
import io
import itertools
from typing import Any

import numpy as np
import pytest
from PIL import Image

from steel.images.class_colours import class_colour, line_colour
from steel.images.pictures import draw_comparison, draw_overlay, encode_picture
from steel.images.tags import Tag
from steel.reports.plots import draw_history, encode_figure, plot_history


def _masks(height: int = 60, width: int = 100) -> np.ndarray:
    masks = np.zeros((2, height, width), bool)
    masks[1, 20:40, 30:70] = True
    return masks


def test_overlay_outlines_each_class_in_its_colour_and_tints_the_answer() -> None:
    image = np.full((60, 100), 100, np.uint8)
    overlay = draw_overlay(image, _masks())
    assert overlay.shape == (60, 100, 3)
    assert tuple(overlay[20, 50]) == class_colour(2)  # on the outline
    assert tuple(overlay[30, 50]) not in {(100, 100, 100), class_colour(2)}  # tinted inside
    assert (overlay[:15] == 100).all()  # as it was outside
    assert (image == 100).all()


def test_the_truth_stands_above_the_prediction_and_untinted() -> None:
    image = np.full((60, 320, 3), 100, np.uint8)
    picture = draw_comparison(image, np.zeros((2, 60, 320), bool), _masks(width=320))
    assert picture.shape[0] == 18 + 60 + 2 + 18 + 60
    assert tuple(picture[18 + 20, 50]) == class_colour(2)
    assert tuple(picture[18 + 30, 50]) == (100, 100, 100)
    assert (picture[-60:] == 100).all()  # nothing was predicted, and no word stands in it
    ink = [picture[top : top + 18].max() for top in (0, 80)]
    assert min(ink) > 200 and (picture[78:80] == (24, 26, 30)).all()  # "true" and "predicted" above the two


def test_a_narrow_image_is_enlarged_with_its_masks_and_names() -> None:
    image = np.full((60, 100), 100, np.uint8)
    tags = [Tag(30, 20, "dent 0.93", 2)]
    picture = draw_comparison(image, _masks(), np.zeros((2, 60, 100), bool), tags=tags)
    assert picture.shape == (26 + 240 + 3 + 26 + 240, 400, 3)
    assert (picture[26 : 26 + 240] == 100).all()  # nothing is true
    top = 26 + 243 + 26
    assert tuple(picture[top + 4 * 20, 4 * 50]) == class_colour(2)
    above = (picture[top + 64 : top + 79, 120:180] == class_colour(2)).all(axis=2)
    assert above.mean() > 0.4  # the ground of the name, some of which is letters


def test_outlines_of_a_long_strip_are_seen_and_those_of_a_square_are_no_bars() -> None:
    for height, width in ((128, 800), (256, 1600), (1000, 1000)):
        masks = np.zeros((1, height, width), bool)
        masks[0, 30:90, 100:700] = True
        column = draw_overlay(np.zeros((height, width), np.uint8), masks)[:60, 400]
        assert 2 <= (column == class_colour(1)).all(axis=1).sum() <= 5


@pytest.mark.parametrize(("height", "width"), [(64, 20_000), (20_000, 64), (37, 11_456), (11_456, 37)])
def test_pictures_of_very_long_images_are_no_bars_and_letters(height: int, width: int) -> None:
    masks = np.zeros((1, height, width), bool)
    masks[0, height // 4 : height // 2, width // 4 : width // 2] = True
    tags = [Tag(width // 4, height // 4, "dent 0.93", 1)]
    overlay = draw_overlay(np.zeros((height, width), np.uint8), masks, tags)
    assert (overlay == class_colour(1)).all(axis=2).mean() < 0.25  # a sixteenth is the mask
    assert (overlay[: height // 4] == 0).mean() > 0.9

    picture = draw_comparison(np.zeros((height, width), np.uint8), masks, masks, tags=tags)
    assert max(picture.shape) <= max(2 * 16_000 + 500, 2 * height + height // 64 + 40, width)
    assert (picture == 255).all(axis=2).mean() < 0.05  # the words "true" and "predicted"


@pytest.mark.parametrize("shape", [(70_000, 4), (2, 140_000, 3)])
def test_a_picture_longer_than_jpeg_has_it_is_made_smaller(shape: tuple[int, ...]) -> None:
    picture = Image.open(io.BytesIO(encode_picture(np.full(shape, 90, np.uint8), ".jpg")))
    assert max(picture.size) == 65_500
    assert min(picture.size) == (4 if shape[0] == 70_000 else 1)


@pytest.mark.parametrize("name", ["Riß", "Überwalzung", "rayure détectée", "škrábanec", "царапина"])
def test_every_letter_of_a_name_is_drawn(name: str) -> None:
    def drawn(text: str) -> bytes:
        nothing = np.zeros((60, 400), np.uint8)
        return draw_overlay(nothing, nothing[None] > 0, [Tag(5, 40, text, 1)]).tobytes()

    letters = {letter for letter in name if not letter.isascii()}
    boxed = {drawn(name.replace(letter, "\uffff")) for letter in letters}  # what no font has
    assert drawn(name) not in boxed and len(boxed) == len(letters)


def test_overlay_draws_holes() -> None:
    masks = np.zeros((1, 60, 100), bool)
    masks[0, 10:50, 10:90] = True
    masks[0, 20:40, 30:70] = False
    overlay = draw_overlay(np.zeros((60, 100), np.uint8), masks)
    assert tuple(overlay[19, 50]) == class_colour(1)  # a hole's outline runs on the mask's last pixels
    assert (overlay[22:38, 32:68] == 0).all()


@pytest.mark.parametrize(
    "records",
    [
        [],
        [{"kind": "train", "phase": 0, "step": 1, "global_step": 1, "loss": None, "lr": 0.1, "images_per_second": 3.0}],
        [
            {"kind": "train", "phase": 0, "step": 1, "global_step": 1, "loss": 1.0, "loss_segmentation": float("nan")},
            {
                "kind": "validation",
                "phase": 0,
                "step": 2,
                "global_step": 2,
                "mean_dice": 0.5,
                "mean_dice_positive": None,
            },
            {"kind": "train", "phase": 1, "step": 1, "global_step": 3, "loss": 0.5},
            {
                "kind": "validation",
                "phase": 1,
                "step": 1,
                "global_step": 3,
                "dice_positive_per_class": {"1": 0.2, "2": None},
            },
        ],
    ],
    ids=["empty", "no loss yet", "two phases with gaps"],
)
def test_curves_are_drawn_from_whatever_there_is(tmp_path, records) -> None:
    path = tmp_path / "curves.png"
    plot_history(records, path)
    assert Image.open(path).width == 1320


def history() -> list[dict[str, Any]]:
    """Two phases: 2 epochs in 4 steps, then half an epoch in 2."""
    places = [(0, 1, 0.5), (0, 2, 1.0), (0, 3, 1.5), (0, 4, 2.0), (1, 1, 0.25), (1, 2, 0.5)]
    records: list[dict[str, Any]] = []
    for global_step, (phase, step, epoch) in enumerate(places, start=1):
        place = {"phase": phase, "step": step, "global_step": global_step, "epoch": epoch}
        loss = 10 * phase + step
        records.append({"kind": "train", **place, "loss": loss, "lr": 0.1, "images_per_second": 5.0, "data_wait": 0.25})
        if step % 2 == 0:
            scores = {"mean_dice": 0.5 + global_step / 100, "dice_positive_per_class": {"a": 0.5, "b": None}}
            records.append({"kind": "validation", **place, "loss": loss + 1, **scores})
    return records


def panel_of(records: list[dict[str, Any]], title: str) -> Any:
    (panel,) = [axes for axes in draw_history(records).axes if axes.get_title() == title]
    return panel


def test_epochs_are_on_the_axis_and_no_line_joins_the_losses_of_two_phases() -> None:
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in panel_of(history(), "Loss").lines]
    assert lines[:4] == [
        ([0.5, 1.0, 1.5, 2.0], [1, 2, 3, 4]),
        ([2.25, 2.5], [11, 12]),
        ([1.0, 2.0], [3, 5]),  # of the validation
        ([2.5], [13]),
    ]
    labels = panel_of(history(), "Loss").get_legend_handles_labels()[1]
    assert labels == ["all", "all, validation"]


def test_what_only_training_adds_is_a_line_of_its_own_and_no_part_of_all() -> None:
    records = [
        {**record, "loss": record["loss"] + 0.5, "loss_segmentation": record["loss"], "loss_deep_supervision": 0.5}
        if record["kind"] == "train"
        else {**record, "loss_segmentation": record["loss"]}
        for record in history()
    ]
    panel = panel_of(records, "Loss")
    of = {line.get_label(): list(line.get_ydata()) for line in panel.lines if not line.get_label().startswith("_")}
    assert of["all"] == of["segmentation"] == [1, 2, 3, 4]
    assert of["all, validation"] == [3, 5]
    assert of["deep supervision"] == [0.5] * 4


def test_scores_go_on_from_phase_to_phase() -> None:
    (line,) = panel_of(history(), "Validation scores").lines[:1]
    assert list(line.get_xdata()) == [1.0, 2.0, 2.5]
    assert list(line.get_ydata()) == [0.52, 0.54, 0.56]


def run_of(*epochs: float, every: float = 1.0) -> list[dict[str, Any]]:
    """Phases of so many epochs: scores each epoch, losses at every so many, the rate at a phase's end alone."""
    records: list[dict[str, Any]] = []
    for phase, length in enumerate(epochs):
        for step, epoch in enumerate(np.arange(every, length + 1e-9, every), start=1):
            place = {"phase": phase, "step": step, "global_step": len(records), "epoch": float(epoch)}
            records.append({"kind": "validation", **place, "loss": 0.5, "mean_dice": 0.5, "f1": {"any": 1.0}})
        records.append({"kind": "train", **place, "loss": 1.0, "lr": 1e-3, "images_per_second": 9.0, "data_wait": 0.1})
    return records


RUNS = {
    "one epoch each": run_of(1, 1),
    "the rate known late": run_of(3, 1),
    "long, then a short one": run_of(34, 1),
    "many phases": run_of(*[1] * 30),
    "less than an epoch": run_of(0.5, 0.25, every=0.25),
    "by steps": history(),
}


@functools.cache
def figure_of(run: str) -> Any:
    figure = draw_history(RUNS[run])
    figure.draw_without_rendering()
    return figure


@pytest.mark.parametrize("run", RUNS)
def test_all_panels_share_the_epochs_from_the_first_to_the_last(run: str) -> None:
    records = RUNS[run]
    lengths = [max(r["epoch"] for r in records if r["phase"] == phase) for phase in {r["phase"] for r in records}]
    axes = figure_of(run).axes
    assert len({panel.get_xlim() for panel in axes}) == 1
    low, high = axes[0].get_xlim()
    assert low == 0 and sum(lengths) <= high <= 1.05 * sum(lengths)


@pytest.mark.parametrize("run", RUNS)
def test_each_phase_is_named_above_its_own_middle_and_no_names_touch(run: str) -> None:
    records = RUNS[run]
    phases = sorted({record["phase"] for record in records})
    ends = np.cumsum([max(r["epoch"] for r in records if r["phase"] == phase) for phase in phases])
    middles = (ends + np.array([0, *ends[:-1]])) / 2
    named = [panel for panel in figure_of(run).axes if panel.get_title()]
    for panel in named:
        names = [text for text in panel.texts if text.get_visible()]
        assert [text.get_position()[0] for text in panel.texts] == pytest.approx(middles)
        numbers = [int(text.get_text().removeprefix("phase ")) - 1 for text in names]
        assert numbers == sorted(numbers) and numbers[0] == 0
        assert all(text.get_position()[0] == pytest.approx(middles[n]) for text, n in zip(names, numbers, strict=True))
        boxes = [text.get_window_extent() for text in names]
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
        inside = panel.get_window_extent()
        assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 for box in boxes)
        starts = [
            line.get_xdata()[0]
            for line in panel.lines
            if line.get_linestyle() == ":" and len(set(line.get_xdata())) == 1
        ]
        assert set(ends[:-1]) <= {float(start) for start in starts}


def test_a_phase_narrower_than_its_name_shows_its_number() -> None:
    names = {run: [text.get_text() for text in figure_of(run).axes[0].texts] for run in RUNS}
    assert names["long, then a short one"] == ["phase 1", "2"]
    assert names["one epoch each"] == ["phase 1", "phase 2"]


def test_the_legend_hides_no_curve() -> None:
    legends = [(panel, panel.get_legend()) for panel in figure_of("by steps").axes if panel.get_legend()]
    assert len(legends) == 4
    for panel, legend in legends:
        assert legend.get_window_extent().y1 < panel.xaxis.label.get_window_extent().y0 + 1


@pytest.mark.filterwarnings("error")
def test_whatever_the_classes_are_named_the_panels_keep_their_size() -> None:
    names = ["longer than a panel is wide " * 6, "_hidden", "5 $ & 3 $ ^^ _{", "划痕", *map(str, range(8))]
    records = history()
    for record in records:
        if record["kind"] == "validation":
            record["dice_positive_per_class"] = dict.fromkeys(names, 0.5)
    figure = draw_history(records)
    encode_figure(figure)
    (panel,) = [axes for axes in figure.axes if axes.get_title() == "Positive Dice by class"]
    assert panel.get_window_extent().width > 0.4 * figure.bbox.width
    legend = panel.get_legend()
    assert len(legend.get_texts()) == len(names)
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0


def test_names_too_long_for_a_legend_are_told_apart_and_have_no_boxes() -> None:
    names = [f"surface scratch along the rolling direction, {where}" for where in ("top side", "bottom side")]
    records = history()
    for record in records:
        if record["kind"] == "validation":
            record["dice_positive_per_class"] = dict.fromkeys(names, 0.5)
    labels = panel_of(records, "Positive Dice by class").get_legend_handles_labels()[1]
    assert labels == ["surface scra…n, top side", "surface scra…bottom side"]


def test_no_panel_is_empty() -> None:
    titles = [axes.get_title() for axes in draw_history(history()).axes]
    assert [title for title in titles if title] == [
        *("Loss", "Validation scores", "Positive Dice by class", "Learning rate", "Speed")
    ]
    (only,) = draw_history([{"kind": "train", "phase": 0, "epoch": 1.0, "lr": 0.1}]).axes
    assert only.get_title() == "Learning rate"
    assert draw_history([]).axes == []


def test_classes_lines_are_seen_on_white_and_both_axes_of_speed_are_named() -> None:
    records = history()
    for record in records:
        record["f1"] = {"any": 1.0, **{f"class {k}": 0.5 for k in range(1, 5)}}
    colours = [line.get_color() for line in panel_of(records, "F1 of the classification head").lines]
    assert colours[1:5] == [line_colour(class_id) for class_id in range(1, 5)]
    names = [axes.get_ylabel() for axes in figure_of("one epoch each").axes]
    assert {"images/s", "time waiting for data"} <= set(names)
