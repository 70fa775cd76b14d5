"""The comparison on pretrained encoders: its folds, and the whole of it at a tiny size."""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.made_by import commit
from bench.quality import auto_choice, cascade, clean, neu, pretrained, questions, rare, small
from bench.quality import cli as program
from bench.quality.bsdata import deal
from bench.quality.pretrained import RATES, SETS
from steel.checkpoint import load_checkpoint
from steel.errors import InputError
from steel.metrics.scores import Outcome
from steel.shards.reader import ShardReader
from tests.shard_folder import defect_mask, make_shards, steel_image
from tests.tiny_pretrained import make_tiny
from train.arguments import parse_fit
from train.auto_recipe import auto_recipe
from train.fitting import read_facts
from train.recipe_facts import MachineClass


def test_a_place_on_a_spindle_is_in_one_fold() -> None:
    group_of = {
        f"{group}-{n}": group
        for group, size in zip("abcdefgh", (20, 20, 20, 20, 5, 5, 5, 5), strict=True)
        for n in range(size)
    }
    fold_of = deal(group_of, seed=0)
    assert fold_of.keys() == group_of.keys()
    assert all(len({fold_of[image] for image in group_of if group_of[image] == group}) == 1 for group in "abcdefgh")
    sizes = Counter(fold_of.values())
    assert sizes[1] >= 25 and sizes[0] >= 15 and sizes[2] >= 20 and sum(sizes.values()) == 100
    assert deal(group_of, seed=0) == fold_of != deal(group_of, seed=1)


def test_every_number_of_images_is_seen_as_often_in_all() -> None:
    assert [small.passes_of(size) for size in (25, 50, 100, 200)] == [120, 60, 30, 15]


@pytest.mark.parametrize(("rate_seeds", "best"), [(1, 0.002), (2, 0.001)])
def test_a_rate_is_chosen_by_the_mean_of_the_seeds_that_choose(
    monkeypatch: pytest.MonkeyPatch, rate_seeds: int, best: float
) -> None:
    """With the larger rate the loop falls with the second seed."""
    found = {(0.001, 0): 0.27, (0.002, 0): 0.28, (0.001, 1): 0.26, (0.002, 1): 0.16, (0.001, 2): 0.9, (0.002, 2): 0.0}

    class Plain:
        def __init__(self, seed: int, lr: float) -> None:
            self.of = (lr, seed)

        def statistics(self, *_: object) -> tuple[float, int]:
            return self.of

    monkeypatch.setattr(pretrained.Sides, "plain", lambda _, seed, lr: Plain(seed, lr))
    monkeypatch.setattr(pretrained, "at_one_half", lambda statistics: statistics)
    monkeypatch.setattr(pretrained, "values", lambda outcomes, _: tuple(found[of] for of in outcomes))
    of_set = replace(SETS["pretrained-neu"], rates=(0.001, 0.002), rate_seeds=rate_seeds)
    scores = pretrained.Sides(Path(), Path(), "", 8, of_set).rate_scores((0, 1, 2))
    assert max(scores, key=scores.__getitem__) == best
    assert scores[0.002] == pytest.approx(np.mean([0.28, 0.16][:rate_seeds]))


def test_every_variant_of_auto_changes_it_in_its_own_way(tmp_path: Path) -> None:
    """On a set as NEU-Seg, of square images, none of them clean."""
    masks = [mask for n in range(20) if (mask := defect_mask(n, 64, 64)).any()][:6]
    data = make_shards(tmp_path / "shards", [steel_image(n, 64, 64) for n in range(6)], masks)
    words = ["--preset", "auto", "--data", str(data), "--out", str(tmp_path / "run"), "--budget", "8passes"]
    plain = parse_fit("fit", words).config
    given = [auto_choice.options_of(name, data) for name in auto_choice.VARIANTS]
    variants = [parse_fit("fit", [*words, *options]).config for options in given]
    assert all(config != plain for config in variants)
    assert len({str(config) for config in variants}) == len(auto_choice.VARIANTS)
    assert set(auto_choice.AVERAGES) < set(auto_choice.VARIANTS)


def test_every_variant_on_clean_images_changes_auto_in_its_own_way(tmp_path: Path) -> None:
    masks = [np.zeros((64, 400), np.uint8) for _ in range(30)]
    for number, bits in enumerate((1, 1, 2)):
        masks[number][:9, :9] = bits
    data = make_shards(tmp_path / "shards", [steel_image(n, 64, 400) for n in range(30)], masks)
    words = ["--preset", "auto", "--data", str(data), "--out", str(tmp_path / "run"), "--budget", "8passes"]
    variants = [auto_choice.options_of(name, data, clean.VARIANTS) for name in clean.VARIANTS]
    configs = [parse_fit("fit", [*words, *options]).config for options in ((), *variants)]
    assert len({str(config) for config in configs}) == 1 + len(clean.VARIANTS)


def test_recall_counts_images_that_are_answered_with_a_class_they_have() -> None:
    # Pixels in common, predicted and true of five images: found, missed, found beside it, an alarm, clean.
    counts = np.array([[[5, 9, 8]], [[0, 0, 8]], [[0, 3, 8]], [[0, 4, 0]], [[0, 0, 0]]])
    outcome = Outcome(np.arange(5), counts, np.ones((5, 2), bool))
    assert rare.recall(outcome, 0) == pytest.approx(2 / 3)  # an answer beside the defect is an answer
    assert rare.alarms(outcome, 0) == 1


def test_separation_is_the_area_under_the_roc_curve() -> None:
    has = np.array([True, True, False, False])
    assert rare.separation(np.array([200, 255, 3, 199], np.uint8), has) == 1
    assert rare.separation(np.array([5, 5, 5, 5], np.uint8), has) == 0.5
    assert rare.separation(np.array([10, 200, 100, 10], np.uint8), has) == pytest.approx(2.5 / 4)


def test_validations_that_never_answer_the_rare_class_are_counted() -> None:
    log = (
        "crops 9/9  validation: mean Dice 0.8; no better than answering nothing; never answered: class 1, class 2\n"
        "crops 18/18  validation: mean Dice 0.9; never answered: class 4\n"
        "full 1/1  validation: mean Dice 0.9\nWARNING: class 2 is never answered, though 2 images have it\n"
    )
    assert rare.silent_validations(log, "class 2") == (1, 3)
    more = "crops 9/9  validation: never answered: class 1, class 22; worse than never answered: class 2\n"
    assert rare.silent_validations(log + more, "class 2") == (1, 4)
    assert rare.silent_validations("full 1/1  validation: worse than never answered: class 2", "class 2") == (0, 1)


def test_every_variant_of_a_rare_class_changes_how_images_are_drawn(tiny_shards: Path, tmp_path: Path) -> None:
    words = ["--preset", "auto", "--data", str(tiny_shards), "--out", str(tmp_path), "--budget", "8passes"]
    variants = [parse_fit("fit", [*words, *options]).config for options in rare.VARIANTS.values()]
    drawn = [(config.phases[0].sampling.order, config.phases[0].sampling.paste) for config in variants[1:]]
    assert drawn == [("natural", 0.0), ("balanced", 0.0), ("natural", 0.5)]


def test_a_class_is_made_rare_by_leaving_out_images_that_have_it() -> None:
    names = ["a", "b", "c", "d", "e", "f"]
    assert neu._thinned(names, {"b", "c", "e"}, 2) == ["a", "b", "c", "d", "f"]
    assert neu._thinned(names, {"b", "c", "e"}, 0) == ["a", "d", "f"]


def test_a_section_says_what_the_images_are_and_what_answering_nothing_gets(tmp_path: Path) -> None:
    masks = [np.zeros((64, 96), np.uint8) for _ in range(12)]
    masks[1][:9], masks[2][:9] = 1, 1  # number 1 is of the test fold, of which three are clean; number 2 trains
    data = make_shards(tmp_path / "s", [steel_image(n, 64, 96) for n in range(12)], masks, num_classes=2, folds=3)
    of_set = SETS["pretrained-strips"]
    told = pretrained._about(data, pretrained.Sides(data, tmp_path, "w", of_set.passes, of_set), (0,))
    assert told.startswith(
        "Synthetic strips, rendered for real masks of Severstal at a quarter of their height and width, more of the "
        "rare classes than there are by nature: 4 images of 64x96 train, 4 validate, 4 test, 3 of these clean, and "
        "answering nothing gets 87.50 mean Dice; of all 12, 2, 0 have each class; U-Net"
    )
    assert "8 passes. The plain loop has crops of 64x384 in batches of 8, the batch that auto chooses;" in told
    assert "the preset severstal has crops of 64x128 in batches of 16, then whole images; auto" in told


def test_severstals_preset_takes_the_crop_of_the_strips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(pretrained, "train", lambda folder, data, preset, options, **_: asked.extend(options))
    of_set = SETS["pretrained-strips"]
    pretrained.Sides(tmp_path, tmp_path, "none", of_set.passes, of_set).severstal(0)
    config = parse_fit("fit", ["--preset", "severstal", "--data", "d", "--out", "o", *asked]).config
    assert [phase.crop for phase in config.phases] == [(64, 128), (0, 0)]
    assert [phase.epochs for phase in config.phases] == [6, 2]
    assert all(side % 32 == 0 for side in config.phases[0].crop)
    asked.clear()
    pretrained.Sides(tmp_path, tmp_path, "none", 1, of_set).severstal(0)  # of one pass 8 parts in 38
    config = parse_fit("fit", ["--preset", "severstal", "--data", "d", "--out", "o", *asked]).config
    assert [phase.epochs for phase in config.phases] == pytest.approx([30 / 38, 8 / 38], abs=1e-5)


def test_auto_at_its_own_length_is_told_no_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, masks = [steel_image(n, 64, 96) for n in range(12)], [defect_mask(n, 64, 96) for n in range(12)]
    data = make_shards(tmp_path / "s", images, masks, folds=3)
    asked: list[list[str]] = []
    monkeypatch.setattr(pretrained, "train", lambda folder, data, preset, options, **_: asked.append([*options]))
    of_set = SETS[pretrained.OWN_LENGTH]
    for passes in (of_set.passes, 2):  # the set's own, and a rehearsal
        pretrained.Sides(data, tmp_path, "none", passes, of_set).auto(0)
    assert "--budget" not in asked[0] and asked[1][-2:] == ["--budget", "2passes"]
    phases = auto_recipe(read_facts(ShardReader(str(data))), MachineClass("cpu", 8)).phases
    assert round(sum(phase.epochs for phase in phases)) == of_set.passes  # as on every small set


@pytest.mark.parametrize("question", ["pretrained-strips", "cascade-pretrained"])
def test_strips_are_rendered_from_annotations(
    question: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "w"
    command = ["quality", question, "--weights", str(weights), "--num-images", "7", "--per-class", "2"]
    monkeypatch.setattr(sys, "argv", command)
    for message in (f"--weights {weights}: there is no such file", f"{question} needs --annotations"):
        with pytest.raises(SystemExit):
            program._parse()
        assert message in capsys.readouterr().err
        weights.touch()
    monkeypatch.setattr(cascade, "make_shards", lambda *given: given)
    monkeypatch.setattr(sys, "argv", [*command, "--annotations", "masks.csv"])
    assert questions._strips(program._parse(), tmp_path) == (tmp_path, Path("masks.csv"), None, 7, 2)


def test_all_strips_are_rendered_where_all_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w").touch()
    masks = tmp_path / "masks.csv"
    rows = [f"{n:03d}.jpg,{1 + n % 4},1 5" for n in range(0, 30, 3)]
    masks.write_text("\n".join(["ImageId,ClassId,EncodedPixels", *rows]) + "\n")
    (tmp_path / "ids.txt").write_text("\n".join(f"{n:03d}.jpg" for n in range(30)) + "\n")
    given = ["--weights", str(tmp_path / "w"), "--annotations", str(masks), "--image-ids", str(tmp_path / "ids.txt")]
    monkeypatch.setattr(sys, "argv", ["quality", pretrained.ALL_STRIPS, *given])
    monkeypatch.setattr(cascade, "make_shards", lambda work, *asked: cascade.choose_images(*asked))
    assert questions._all_strips(program._parse(), tmp_path) == [
        *(f"{n:03d}.jpg" for n in range(0, 30, 3)),
        *(f"{n:03d}.jpg" for n in range(30) if n % 3),
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerate")
def test_all_sides_are_trained_from_the_same_weights_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [steel_image(n, 64, 64) for n in range(36)]
    masks = [defect_mask(n, 64, 64, num_classes=2) for n in range(36)]
    data = make_shards(tmp_path / "shards", images, masks, num_classes=2, folds=3)
    weights = make_tiny(tmp_path, monkeypatch)
    first = torch.load(weights)
    tiny = replace(SETS["pretrained-strips"], crop=(32, 32), plain_crop=(32, 32), batch_size=4)
    monkeypatch.setitem(pretrained.SETS, "tiny", tiny)

    def run() -> str:
        return pretrained.run("tiny", data, weights, tmp_path / "work", passes=2, seeds=(0, 2))

    text = run()
    assert "Seeds 0, 2; missing of three: 1." in text
    assert "For its first phase auto chose crops of 64x64 in batches of 8." in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    on_all, kinds = "plain loop on the validation images, too", ("threshold 0.5", "threshold tuning and TTA")
    kinds = (*kinds, f"{kinds[1]}, no gate")
    sides = [f"{side}, {how}" for how in kinds for side in ("auto", "plain loop", "preset severstal")]
    sides.insert(2, f"{on_all}, threshold 0.5")  # and no more of it: it has nothing to tune on
    assert [row[0] for row in rows[2:12]] == sides
    seeds = {row[0]: {1 + cell.count(",") for cell in row[1:]} for row in rows[2:12]}
    assert all(found == {2} for found in seeds.values())
    gains = [row[0] for row in rows[14:]]
    assert len(gains) == 3 * 3 * 3
    assert [gains.count(f"{on_all}, threshold 0.5{'; auto: ' * bool(how)}{how}") for how in ("", *kinds[1:])] == [3] * 3
    done = sorted((tmp_path / "work").glob("*/trial.json"))
    # Two of each, and the plain loop at its other rates, among which the first seed alone chooses.
    assert len(done) == 2 + (len(RATES) + 1) + 2 + 2
    assert f"Trained at {commit()}." in text
    before = [path.stat().st_mtime_ns for path in done]
    assert run() == text
    assert [path.stat().st_mtime_ns for path in done] == before  # nothing was trained twice
    fewer = replace(tiny, rates=RATES[:2], rate_seeds=2, others=(pretrained.PLAIN, pretrained.SEVERSTAL))
    monkeypatch.setitem(pretrained.SETS, "fewer", fewer)
    told = pretrained.run("fewer", data, weights, tmp_path / "work", passes=2, seeds=(0, 2))
    assert "the best of 2 in mean IoU" in told and "with the first 2 seeds, on average: 0.0005 gives" in told
    assert (tmp_path / "work" / f"plain-{RATES[1]:g}-32x32-2-2" / "trial.json").exists()
    assert "plain loop, threshold 0.5 |" in told and on_all not in told
    monkeypatch.setattr(pretrained, "PLAIN_BATCH", 4)
    with pytest.raises(
        InputError, match=r"plain-0\.0005-32x32-2-0: holds a training .* otherwise \(batches of 4 batches of 8\)"
    ):
        run()
    auto = load_checkpoint(tmp_path / "work" / "auto-2-0" / "model.safetensors").provenance["config"]
    assert auto["preset"] == "auto" and auto["reasons"]["phases.0.epochs"].startswith("1.58 of the budget's 2 passes")
    stem = next(name for name, tensor in first.items() if tensor.ndim == 4)
    on_all_folds = [
        load_checkpoint(path).folds["train"] for path in (tmp_path / "work").glob("plain-on-all-*/model.safetensors")
    ]
    assert on_all_folds == [[0, 2]] * 2
    for name in ("auto-2-0", f"plain-{RATES[0]:g}-32x32-2-0"):  # a few steps lead not far from where they began
        trained = load_checkpoint(tmp_path / "work" / name / "model.safetensors").tensors[f"encoder.{stem}"][0]
        assert np.abs((trained - first[stem]).numpy()).max() < 0.1 * float(first[stem].abs().max())
