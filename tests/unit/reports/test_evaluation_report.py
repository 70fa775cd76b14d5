"""The files of an evaluation, on a model whose faults are known."""

import csv
import html
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from steel.decision import default_decision
from steel.metrics.statistics import EvaluationStatistics, ImageStatistics, image_statistics
from steel.reports.evaluation_report import write_evaluation
from steel.reports.gallery import KINDS, PER_KIND, RANDOM, TYPICAL, GalleryKeeper, Kept, choose, ranking_of
from steel.reports.html.figures import Figures, pointer
from steel.reports.per_image import ImageRow
from steel.reports.sections.gallery import gallery_section
from steel.reports.sections.scores import confusion_section
from steel.reports.shots import Shot
from steel.shards.reader import ShardReader
from tests.known_faults import (
    DECISION,
    NUM_IMAGES,
    SMALLEST_SEEN,
    KnownFaults,
    evaluate_known_faults,
    predicted_probabilities,
    true_defects,
)
from tests.page_numbers import check_numbers
from tests.shard_folder import make_shards, steel_image


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> KnownFaults:
    return evaluate_known_faults(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def page(faults: KnownFaults) -> str:
    return (faults.out / "report.html").read_text()


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_dash_says_what_it_means(page: str) -> None:
    section = re.search(r'<section id="thresholds".*?</section>', page, re.DOTALL)
    assert section is not None
    assert re.findall(r'class="none" title="([^"]*)"', section[0]) == [
        *("no limit",) * 3, "the first: others are held against it"
    ]  # fmt: skip


def test_the_verdict_names_the_class_that_collapsed(faults: KnownFaults) -> None:
    verdict, standing = faults.metrics["verdict"], faults.metrics["standing_per_class"]
    assert verdict["never_answered"] == ["class 2"]
    assert verdict["better_than_nothing"]
    assert {name: one["state"] for name, one in standing.items()} == {
        "class 1": "works",
        "class 2": "never answered",
        "class 3": "works",
    }
    assert standing["class 2"]["images"] == sum(true_defects(n)[1].any() for n in range(NUM_IMAGES))


def test_the_sizes_say_that_small_defects_are_missed(faults: KnownFaults) -> None:
    bins = faults.metrics["sizes"]["class 1"]
    small = [one for one in bins if one["end_area"] <= SMALLEST_SEEN]
    assert [one["min_area"] for one in small] == [8, 16, 32]
    assert all(one["found"] == 0 and one["found_share"] == 0 and one["dice"] == 0 for one in small)
    just_seen = next(one for one in bins if one["min_area"] == SMALLEST_SEEN)
    assert just_seen["found_share"] == 1 and just_seen["dice"] == 1
    sizes = [int(true_defects(n)[0].sum()) for n in range(NUM_IMAGES)]
    assert sum(one["defects"] for one in small) == sum(0 < size < SMALLEST_SEEN for size in sizes)


def test_the_label_list_begins_with_the_wrong_labels(faults: KnownFaults) -> None:
    lines = read_csv(faults.out / "label_doubts.csv")
    ranked = list(dict.fromkeys(line["image_id"] for line in lines))
    assert frozenset(ranked[:10]) == faults.swapped
    assert len(ranked) == 10
    first = lines[0]
    mask = np.flatnonzero(true_defects(int(first["image_id"][7:11])).any(axis=(0, 1)))
    assert (int(first["left"]), int(first["width"])) == (mask[0], len(mask))
    assert {line["claim"] for line in lines} == {"not labelled", "not seen"}


def test_strips_found_and_stopped_are_counted(faults: KnownFaults) -> None:
    """By hand: a strip is found where something of it is at least 64 pixels large and not of class 2."""
    truths = [true_defects(n) for n in range(NUM_IMAGES)]
    found = sum(bool(predicted_probabilities(t)[0].max() > 128) for t in truths)
    defective = sum(bool(t.any()) for t in truths)
    strips = faults.metrics["strips"]["any"]
    assert (strips["defective"], strips["found"], strips["missed"]) == (defective, found, defective - found)
    assert (strips["clean"], strips["stopped"], strips["passed"]) == (NUM_IMAGES - defective, 0, NUM_IMAGES - defective)
    curve = faults.metrics["operating_curves"]["any"]
    assert curve["head"]["found"][245] == found
    assert (curve["head"]["found"][0], curve["head"]["stopped"][0]) == (defective, NUM_IMAGES - defective)
    assert (curve["head_and_mask"]["found"][0], curve["head_and_mask"]["stopped"][0]) == (found, 0)
    assert (curve["head"]["found"][246], curve["head"]["stopped"][12], curve["head"]["stopped"][13]) == (0, 50, 0)


def test_every_image_has_a_row_and_the_worst_is_first(faults: KnownFaults) -> None:
    rows = read_csv(faults.out / "per_image.csv")
    assert len(rows) == NUM_IMAGES == len({row["image_id"] for row in rows})
    scores = [float(row["dice"]) for row in rows]
    assert scores == sorted(scores)
    assert np.mean(scores) == pytest.approx(faults.metrics["mean_dice"], abs=1e-6)
    for k in (1, 2, 3):
        assert sum(int(row[f"true pixels class {k}"]) for row in rows) == int(
            faults.statistics.true_areas[:, k - 1].sum()
        )
    results = [row["result"] for row in rows]
    strips = faults.metrics["strips"]["any"]
    assert (results.count("found"), results.count("miss")) == (strips["found"], strips["missed"])
    assert (results.count("false alarm"), results.count("clean")) == (strips["stopped"], strips["passed"])
    overlays = [row["overlay"] for row in rows if row["overlay"]]
    assert overlays
    assert all((faults.out / path).read_bytes().startswith(b"\xff\xd8") for path in overlays)
    assert len(list((faults.out / "overlays").iterdir())) == len(overlays)


def test_regions_of_the_gallery_have_their_names_and_probabilities(faults: KnownFaults, page: str) -> None:
    """The model says 242 of 255 in what it sees, and 5 elsewhere."""
    rows = {row["image_id"]: row for row in read_csv(faults.out / "per_image.csv")}
    assert {row["regions"] for row in rows.values() if not row["overlay"]} == {""}
    for row in (row for row in rows.values() if row["overlay"]):
        assert row["regions"] == "; ".join(f"{name} 0.95" for name in row["predicted"].split(" + ") if name)
    shot = page[page.index(f"<b>{sorted(faults.swapped)[0]}</b>") - 2500 :]
    kinds = re.findall(r'class="name (predicted|true)" style="[^"]*">([^<]*)<', shot.split("</figure>")[0])
    number = int(sorted(faults.swapped)[0][7:11])
    says = [f"class {k + 1}" for k in (0, 2) if true_defects(number)[k].any()]
    labelled = [f"class {3 - k}" for k in (0, 2) if true_defects(number)[k].any()]
    assert kinds == [("predicted", f"{says[0]} 0.95"), ("true", labelled[0])]


def test_every_number_of_the_page_is_one_of_the_files(faults: KnownFaults, page: str) -> None:
    metrics = json.loads((faults.out / "metrics.json").read_text())
    rows = {row["image_id"]: row for row in read_csv(faults.out / "per_image.csv")}
    lines = read_csv(faults.out / "label_doubts.csv")
    keys = {"1", "2", "3", "4", "5", "6"}
    assert check_numbers(page, metrics, rows=rows, lines=lines, known={"up to 3 regions", *keys}) > 500


def test_the_page_says_first_what_was_evaluated_on_what(page: str) -> None:
    header = html.unescape(re.sub("<[^>]*>", "", page.split("<header>")[1].split("<nav")[0]))
    assert "runs/first/model.safetensors on shards: 150 images, folds 0, 1 (held out)" in header


def test_thresholds_are_probabilities_and_the_gate_is_told_in_words(page: str) -> None:
    """128 of 255, to three digits; that the slider and the landscape are of."""
    thresholds = page.split('<section id="thresholds">')[1].split("</section>")[0]
    assert re.findall(r"_threshold\" data-of=\"255\">([^<]*)<", thresholds) == ["0.502"] * 7
    assert "none</data>: the segmentation alone decides</dd>" in thresholds
    assert "Thresholds that the gate does not ask for are of the classification head by itself" in thresholds


def test_the_colours_of_a_landscape_have_a_scale(faults: KnownFaults, page: str) -> None:
    for name, ground in faults.metrics["landscape"].items():
        dice = np.array(ground["dice"])
        scales = [text for text in re.findall(r'<p class="scale">(.*?)</p>', page) if f"/landscape/{name}/" in text]
        shown = [float(value) for value in re.findall(r">(\d\.\d{4})<", scales[0])]
        assert len(scales) == 1
        if dice.min() == dice.max():
            assert shown == [pytest.approx(dice.min(), abs=5e-5)] and "everywhere" in scales[0]
        else:
            assert shown[:2] == pytest.approx([dice.min(), dice.max()], abs=5e-5)
            place = ground["min_areas"].index(0), ground["pixel_thresholds"].index(128)  # of DECISION
            assert shown[2] == pytest.approx(dice[place], abs=5e-5)


def test_the_page_asks_nobody_for_anything(page: str) -> None:
    addresses = re.findall(r"""(?:src|href)=["']([^"']*)""", page)
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|https?://", page)


def test_metrics_json_has_a_line_for_a_list(faults: KnownFaults) -> None:
    text = (faults.out / "metrics.json").read_text()
    assert json.loads(text) == faults.metrics
    assert len(text.splitlines()) < 800


def test_text_of_users_is_escaped(page: str) -> None:
    assert "a &lt;fast&gt; one" in page
    assert "<fast>" not in page


def test_kept_images_do_not_depend_on_order_or_ranks_or_threads(faults: KnownFaults) -> None:
    def offered(row: int) -> tuple[ImageStatistics, np.ndarray, Callable[[], np.ndarray]]:
        bitmask = faults.reader.read(row, original_mask=True).bitmask
        probs, labels = predicted_probabilities(true_defects(int(faults.reader.index.image_id(row)[7:11])))
        return image_statistics(row, probs, labels, bitmask), bitmask, lambda: probs

    images = [offered(row) for row in range(NUM_IMAGES)]

    def keepers(parts: list[list[int]], threads: int) -> list[GalleryKeeper]:
        made = []
        for part in parts:
            keeper = GalleryKeeper(DECISION, wanted={5})
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(lambda row, keeper=keeper: keeper.offer(*images[row]), part))
            made.append(keeper)
        return made

    one = keepers([list(range(NUM_IMAGES))], threads=1)
    three = keepers([list(range(r, NUM_IMAGES, 3))[::-1] for r in (2, 0, 1)], threads=8)
    chosen = choose([keeper.ranking() for keeper in one])
    assert chosen == choose([keeper.ranking() for keeper in three])
    assert sorted(one[0].regions) == sorted(region for keeper in three for region in keeper.regions)
    rows = {row for some in chosen.values() for row in some}
    assert set(one[0].layers(rows)) == rows == {row for keeper in three for row in keeper.layers(rows)}
    # Nothing is held that no kind holds, but what was wanted.
    assert set(one[0].layers(range(NUM_IMAGES))) == rows | {5}
    worst = read_csv(faults.out / "per_image.csv")[: PER_KIND["worst"]]
    assert [faults.reader.index.image_id(row) for row in chosen["worst"]] == [row["image_id"] for row in worst]
    missed = [int(faults.statistics.true_areas[row].sum()) for row in chosen["misses"]]
    assert missed == sorted(missed, reverse=True)
    assert len(missed) == PER_KIND["misses"]


def test_statistics_tell_what_a_keeper_would_choose(faults: KnownFaults) -> None:
    keeper = GalleryKeeper(DECISION)
    for row in range(NUM_IMAGES):
        bitmask = faults.reader.read(row, original_mask=True).bitmask
        probs, labels = predicted_probabilities(true_defects(int(faults.reader.index.image_id(row)[7:11])))
        keeper.offer(image_statistics(row, probs, labels, bitmask), bitmask, lambda probs=probs: probs)
    told, seen = ranking_of(faults.statistics, DECISION), keeper.ranking()
    seen.pop("labels in doubt")
    assert told.pop("labels in doubt") == []
    assert told == seen


def test_a_keeper_looks_at_few_pixels(faults: KnownFaults) -> None:
    """At those of images that enter a kind, are wanted, or may be labelled wrongly; the same are kept in the end."""
    asked: list[int] = []
    keeper, eager = GalleryKeeper(DECISION, wanted={5}), GalleryKeeper(DECISION, wanted=range(1000))
    order = np.random.default_rng(0).permutation(NUM_IMAGES).tolist() * 12  # of 12 times as many
    for number, row in enumerate(order):
        bitmask = faults.reader.read(row, original_mask=True).bitmask
        probs, labels = predicted_probabilities(true_defects(int(faults.reader.index.image_id(row)[7:11])))
        image = image_statistics(row, probs, labels, bitmask)._replace(row=number)
        keeper.offer(image, bitmask, lambda number=number, probs=probs: asked.append(number) or probs)
        eager.offer(image, bitmask, lambda probs=probs: probs)
    assert keeper.ranking() == eager.ranking()
    assert sorted(keeper.regions) == sorted(eager.regions)
    assert {region.row for region in keeper.regions} | {5} <= set(asked) < set(range(len(order)))
    first, last = (sum(number // NUM_IMAGES == part for number in asked) for part in (0, 11))
    assert last < first


def test_nothing_at_all_is_said_in_words(tmp_path: Path) -> None:
    """Clean images, answered with nothing: no curve, no size, no gallery, no doubt; and no blank."""
    root = make_shards(tmp_path / "shards", [steel_image(n) for n in range(3)], [np.zeros((32, 64), np.uint8)] * 3)
    decision = default_decision(3)
    images = [
        image_statistics(
            row, np.zeros((3, 32, 64), np.uint8), np.zeros(4, np.uint8), np.zeros((32, 64), np.uint8), decision=decision
        )
        for row in range(3)
    ]
    statistics = EvaluationStatistics.from_images(images, 3, decision)
    nothing = Kept({kind: [] for kind in KINDS}, {}, [])
    metrics = write_evaluation(
        *(tmp_path, statistics, decision, ShardReader(root), nothing),
        folds=[0],
        role="train",
        tta=("hflip",),
        recipe={"phases.0.lr": "2e-3: the encoder's"},
    )
    page = (tmp_path / "report.html").read_text()
    assert metrics["standing_per_class"]["class 1"]["state"] == "absent"
    assert metrics["strips"]["any"]["found_interval"] is None
    for words in (
        "no image here has a defect",
        "Nothing to draw",
        "No image was kept for the gallery",
        "No label is in doubt",
        "No image has a defect",
        "TRAINED ON",
        "it was never tuned",
        "Why this recipe",
        "2e-3: the encoder's",
    ):
        assert words in html.unescape(page), words
    assert (tmp_path / "label_doubts.csv").read_text().startswith("rank,image_id,")


def test_a_class_called_clean_is_not_the_row_of_clean_images() -> None:
    figures = {"dice_per_class": {"clean": 0.5}, "confusion": {"images": [[3, 1], [0, 2]], "pixels": None}}
    rows = re.findall(r"<th[^>]*>(.*?)</th>", confusion_section(Figures(figures)))
    named = [html.unescape(re.sub("<[^>]*>", "", row)).strip() for row in rows]
    assert sorted(filter(None, named)) == ["clean", "clean", "clean (no class)", "clean (no class)"]
    values = {"image_id": "a", "dice": 0.0, "p any": 0.5, "wrong_pixels": 9, "true": "clean", "predicted": ""}
    shot = Shot(0, (20, 40), *[b""] * 5, tags=(), true_tags=())
    line = ImageRow(0, "miss", (0,), (), values)
    gallery = gallery_section(["clean"], {0: line}, [shot], {}, (), by_fold=False)
    assert "true: clean; predicted: clean (no class)" in str(gallery)


def test_figures_escape_keys() -> None:
    assert pointer("a/b", "c~d", 0) == "/a~1b/c~0d/0"
    figures = Figures({"dice_per_class": {}, "a/b": {"x": 0.5}, "none": None})
    assert figures.show("a/b", "x", form=".1%") == '<data value="0.5" data-from="/a~1b/x">50.0 %</data>'
    assert ">–<" in figures.show("none")
    assert TYPICAL in KINDS and RANDOM in KINDS
