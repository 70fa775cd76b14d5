"""Figures over seeds, worked by hand."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.quality import auto_choice, cascade
from bench.quality.demo import OURS, config_of, work_of
from bench.quality.networks import Network, tasks
from bench.quality.parts import PARTS, unit_options, verdict
from bench.quality.pretrained import AUTO, DECODER, ENCODER
from bench.quality.recipes import FROM_SCRATCH, on_pretrained
from bench.quality.seeds import Gain, gain, mean_dice, miou, spread, values
from bench.quality.trial import Trial, claim, train
from steel.config import ModelConfig, NetworkConfig, SamplingConfig
from steel.errors import InputError
from steel.metrics.scores import Outcome
from steel.model.network import UnifiedModel
from steel.shards.reader import ShardReader
from tests.shard_folder import defect_mask, make_shards, small_shards, steel_image
from train.arguments import parse_fit


def outcome(hits: list[int]) -> Outcome:
    """Four images of one class with 10 true pixels, 10 predicted and so many in common."""
    counts = np.array([[[h, 10, 10]] for h in hits])
    return Outcome(np.arange(len(hits)), counts, np.ones((len(hits), 2), bool))


def test_a_gain_is_the_mean_of_the_seeds_with_students_interval() -> None:
    theirs = [outcome([5] * 6)] * 3
    ours = [outcome([6] * 6), outcome([7] * 6), outcome([8] * 6)]
    found = gain(ours, theirs, mean_dice)
    assert found.of_seeds == pytest.approx((0.1, 0.2, 0.3))
    assert found.mean == pytest.approx(0.2)
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert found.seeds_interval == pytest.approx((0.2 - half, 0.2 + half), abs=1e-6)
    assert found.images_interval == pytest.approx((0.2, 0.2))  # every image gains alike
    assert found.text().startswith("+20.00 | -4.84 to +44.84 | +20.00 to +20.00")


def test_resampling_images_moves_a_gain_that_rests_on_one_of_them() -> None:
    found = gain([outcome([10] + [5] * 7)], [outcome([5] * 8)], mean_dice)
    assert found.images_interval is not None
    low, high = found.images_interval
    assert low == 0
    assert high > 1 / 16


def test_one_seed_says_nothing_of_others() -> None:
    found = gain([outcome([6] * 6)], [outcome([5] * 6)], mean_dice)
    assert found.seeds_interval is None
    assert found.text() == "+10.00 | one seed | +10.00 to +10.00"


def test_a_few_groups_of_images_say_nothing_of_others() -> None:
    """Each side counts them alike, and a table says so instead of ending."""
    ours, theirs = (replace(outcome([hits] * 10), groups=np.arange(10) % 5) for hits in (6, 5))
    found = gain([ours, ours], [theirs, theirs], mean_dice)
    assert found.images_interval is None
    assert found.text() == "+10.00 | +10.00 to +10.00 | too few groups"


def test_spread_shows_every_seed() -> None:
    assert values([outcome([5, 5])], miou) == pytest.approx((1 / 3,))
    assert spread((0.1, 0.3)) == "20.00 (10.00, 30.00)"


def test_variants_are_compared_with_auto_in_every_measure() -> None:
    half = {
        AUTO: [outcome([5] * 6), outcome([5] * 6)],
        "two": [outcome([6] * 6), outcome([8] * 6)],
        "one": [outcome([4] * 6)],
    }
    after = {
        AUTO: [outcome([7] * 6), outcome([8] * 6)],
        "two": [outcome([8] * 6), outcome([9] * 6)],
        "one": [outcome([9] * 6)],
    }
    lines = auto_choice.tables({"first": (half, mean_dice), "mean Dice, tuned": (after, mean_dice)})
    half_width = 12.706205 * 10  # Student's of one degree of freedom, for 0.1 and 0.3
    width = f"{20 - half_width:+.2f} to {20 + half_width:+.2f}"
    assert lines == [
        "| | first | against auto, points | 95 % over seeds | 95 % over images | mean Dice, tuned |",
        "|---|---|---|---|---|---|",
        "| auto | 50.00 (50.00, 50.00) | - | - | - | 75.00 (70.00, 80.00) |",
        f"| two | 70.00 (60.00, 80.00) | +20.00 | {width} | +20.00 to +20.00 | 85.00 (80.00, 90.00) |",
        "| one | 40.00 (40.00) | -10.00 | one seed | -10.00 to -10.00 | 90.00 (90.00) |",
        "",
        "| against auto, points (95 % over seeds; over images) | mean Dice, tuned |",
        "|---|---|",
        "| two | +10.00 (+10.00 to +10.00; +10.00 to +10.00) |",
        "| one | +20.00 (one seed; +20.00 to +20.00) |",
    ]


def test_tuned_scores_of_variants_have_intervals_and_averages_rows_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tuned(trial: str, data: Path, last: bool) -> Outcome:
        return outcome([9 if last else 8 if trial == AUTO else 7] * 6)

    monkeypatch.setattr(auto_choice, "raw", lambda trial, data, last: outcome([5] * 6))
    monkeypatch.setattr(auto_choice, "tuned", tuned)
    other = "no quarter turns"
    average = auto_choice.AVERAGES[0]
    lines = auto_choice.against_auto({name: [name] for name in (AUTO, other, average)}, tmp_path)  # type: ignore[list-item]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [row[0] for row in rows[2:6]] == [AUTO, other, average, f"{average}: itself, not what was shipped"]
    header, *differences = [row for row in rows[7:] if row[0] != "---"]
    assert header[1:] == rows[0][5:] and "mean IoU, threshold tuning and TTA" in header
    assert [row[-1] for row in differences] == [f"{points} (one seed; {points} to {points})" for points in (
        "-10.00", "-10.00", "+10.00"
    )]  # fmt: skip


@pytest.mark.parametrize(
    ("mean", "seeds", "images", "words"),
    [
        (1.0, (0.2, 1.8), (0.1, 1.9), "helps (seeds and images)"),
        (1.0, (-0.2, 2.2), (0.1, 1.9), "helps (images)"),
        (-1.0, (-1.5, -0.5), (-3.0, 1.0), "harms (seeds)"),
        (1.0, (-0.2, 2.2), (0.0, 2.0), "no"),
        (-1.0, None, (-2.0, -0.1), "harms (images)"),
    ],
)
def test_a_verdict_names_the_intervals_that_exclude_no_difference(mean, seeds, images, words) -> None:
    assert verdict(Gain(mean, (mean,), seeds, images)) == words


def test_every_part_changes_the_preset_it_is_measured_on() -> None:
    recipe = ["--preset", "severstal", "--data", "d", "--out", "o", *unit_options(0)]
    default = parse_fit("fit", recipe).config
    variants = {name: parse_fit("fit", [*recipe, *options]).config for name, options in PARTS.items()}
    assert all(config != default for config in variants.values())
    assert len({str(config) for config in variants.values()}) == len(PARTS)
    assert variants["noise"].augment.keys() - default.augment.keys() == {"noise"}


def test_six_networks_cover_what_one_does() -> None:
    one, six = tasks(4)
    assert len(six) == 6
    assert sorted(k for task in six for k in task.classes) == list(one.classes)
    assert sorted(k for task in six for k in task.labels) == list(one.labels)


def test_only_what_tells_classes_apart_draws_them_in_equal_shares() -> None:
    sampling = SamplingConfig(order="balanced", paste=0.5, defect_crop=0.5)
    recipe = replace(FROM_SCRATCH, phase=replace(FROM_SCRATCH.phase, sampling=sampling))
    one, (binary, labels, *unets) = tasks(4)
    assert one.phase(recipe).sampling == sampling
    assert binary.phase(recipe).sampling == SamplingConfig(order="natural", defect_crop=0)
    assert labels.phase(recipe).sampling == SamplingConfig(order="balanced", defect_crop=0)
    assert [unet.phase(recipe).sampling for unet in unets] == 4 * [replace(sampling, order="natural")]


def test_todays_recipe_is_the_first_phase_of_auto_on_a_cpu(tiny_shards: Path, tmp_path: Path) -> None:
    recipe = on_pretrained(tiny_shards, tmp_path / "lite0.safetensors")
    assert (recipe.model.encoder, recipe.model.decoder_channels) == (ENCODER, DECODER)
    assert recipe.model.weights == str(tmp_path / "lite0.safetensors")
    assert recipe.phase.loss.weights == {"bce": 1, "batch_dice": 1, "classification": 0.02}
    assert recipe.phase.loss.class_weights is None and recipe.optim.ema_decay == 0
    assert (recipe.phase.batch_size, recipe.phase.micro_batch, recipe.phase.lr) == (8, 8, 2e-3)
    assert set(recipe.augment) == {"hflip", "vflip", "brightness_contrast"}
    assert "losses bce 1, batch_dice 1, classification 0.02, absent 0; rate 0.002, rising for 30%" in recipe.told


def test_a_network_starts_from_the_recipes_weights_and_sees_images_as_they_expect(tmp_path: Path) -> None:
    channels = (48, 32, 16, 8)
    first = UnifiedModel(NetworkConfig("Unet", "tu-test_resnet", 4, 1, channels)).encoder.state_dict()
    torch.save(first, tmp_path / "weights.pth")
    model = ModelConfig("Unet", "tu-test_resnet", channels, 0.1, weights=str(tmp_path / "weights.pth"))
    masks = [defect_mask(n, num_classes=4) for n in range(9)]
    data = make_shards(tmp_path / "shards", [steel_image(n) for n in range(9)], masks, num_classes=4)
    reader, (one, six) = ShardReader(str(data)), tasks(4)
    for task in (one, six[0]):
        network = Network(task, replace(FROM_SCRATCH, model=model), reader, np.arange(9), seed=0)
        for name, tensor in network.model.encoder.state_dict().items():
            torch.testing.assert_close(tensor.cpu(), first[name])
        assert network.inputs != Network(task, FROM_SCRATCH, reader, np.arange(9), seed=0).inputs
        seen: list[torch.Tensor] = []
        network.model.encoder.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0]))
        network(torch.full((2, 1, 32, 64), 255, dtype=torch.uint8))
        expected = (1 - network.inputs.mean[0]) / network.inputs.std[0]
        torch.testing.assert_close(seen[0][:, 0].cpu(), torch.full((2, 32, 64), expected))


def test_rare_classes_are_taken_first_and_clean_images_fill_up(tmp_path) -> None:
    annotations, ids = tmp_path / "train.csv", tmp_path / "ids.txt"
    common = [f"{n}.jpg,3,1 5" for n in range(10)]
    annotations.write_text(
        "\n".join(["ImageId,ClassId,EncodedPixels", *common, "0.jpg,1,9 2", "a.jpg,1,1 2", "x.jpg,2,1 1"])
    )
    ids.write_text("\n".join([*(f"{n}.jpg" for n in range(10)), "a.jpg", "b.jpg", "c.jpg", "d.jpg"]))
    chosen = cascade.choose_images(annotations, ids, num_images=7, per_class=4)
    assert {"0.jpg", "a.jpg"} <= set(chosen)  # all of class 1 that there are
    assert len({name for name in chosen if name[0].isdigit()}) == 4  # 0.jpg counts for class 3, too
    assert len({"b.jpg", "c.jpg", "d.jpg"} & set(chosen)) == 2
    assert len(chosen) == len(set(chosen)) == 7


def test_strips_that_were_rendered_of_other_masks_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shard(words: list[str]) -> int:
        made.append(words)
        (tmp_path / "shards").mkdir()
        (tmp_path / "shards" / "manifest.json").touch()
        return 0

    made: list[list[str]] = []
    monkeypatch.setattr(cascade, "synthesize", lambda *_, **__: None)
    monkeypatch.setattr(cascade, "shard", shard)
    annotations = tmp_path / "train.csv"
    annotations.write_text(
        "\n".join(["ImageId,ClassId,EncodedPixels", *(f"{n}.jpg,{n % 4 + 1},1 5" for n in range(9))])
    )
    for _ in range(2):
        assert cascade.make_shards(tmp_path, annotations, None, num_images=4, per_class=1) == tmp_path / "shards"
    assert len(made) == 1
    with pytest.raises(InputError, match="strips of other masks than are asked for"):
        cascade.make_shards(tmp_path, annotations, None, num_images=8, per_class=2)


def test_sides_of_another_recipe_are_not_taken_for_those_of_this(tmp_path: Path) -> None:
    data, work = small_shards(tmp_path / "shards"), tmp_path / "work"
    claim(work, cascade._asked(FROM_SCRATCH, ShardReader(str(data))), is_begun=False)
    (work / "one-0").mkdir()
    (work / "one-0" / "side.json").touch()
    other = replace(FROM_SCRATCH, phase=replace(FROM_SCRATCH.phase, lr=0.125))
    with pytest.raises(InputError, match=r"asked for otherwise \(phase lr=0\.125 phase lr=0\.\d+\); name another"):
        cascade.run(data, work, other, seconds=0.01, seeds=(0,))
    (work / "asked.json").unlink()
    with pytest.raises(InputError, match="nobody noted"):
        cascade.run(data, work, FROM_SCRATCH, seconds=0.01, seeds=(0,))


@pytest.mark.slow
def test_one_and_six_are_trained_and_judged_alike(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cascade, "PACE_STEPS", 6)
    images = [steel_image(n, 64, 128) for n in range(36)]
    masks = [defect_mask(n, 64, 128, num_classes=4) for n in range(36)]
    data = make_shards(tmp_path / "shards", images, masks, num_classes=4, folds=3)
    text = cascade.run(data, tmp_path / "work", FROM_SCRATCH, seconds=0.01, seeds=(0, 1))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    names = [cascade.UNIFIED, cascade.TOGETHER, cascade.EACH]
    scores, gains, costs = rows[2:5], rows[7:11], rows[13:16]
    assert [row[0] for row in scores] == [row[0] for row in costs] == names
    assert all(row[1].count(",") == row[2].count(",") == 1 for row in scores)  # two seeds
    assert [row[:2] for row in gains] == [[name, m] for name in names[1:] for m in ("mean Dice", "positive Dice")]
    parameters = [int(row[1].replace(",", "")) for row in costs]
    assert parameters[1] == parameters[2] > 4 * parameters[0]
    assert [row[5] for row in costs] == ["1", "6", "6"]
    trained = sorted((tmp_path / "work").glob("*/side.json"))
    assert len(trained) == 6
    before = [path.stat().st_mtime_ns for path in trained]
    assert cascade.run(data, tmp_path / "work", FROM_SCRATCH, seconds=0.01, seeds=(0, 1)) == text
    assert [path.stat().st_mtime_ns for path in trained] == before  # nothing was trained twice
    longer = cascade.run(
        data, tmp_path / "work", FROM_SCRATCH, seconds=0.01, seeds=(0, 1), names=(*cascade.SIDES, cascade.LONG)
    )
    told = [[cell.strip() for cell in line.split("|")[1:-1]] for line in longer.splitlines() if line.startswith("|")]
    assert told[2:5] == scores and told[8:12] == gains and told[5][0] == cascade.LONG
    assert told[12][0] == "the unified network, six times as long, over"
    over = [cascade.UNIFIED, cascade.EACH]
    assert [row[:2] for row in told[14:18]] == [[name, m] for name in over for m in ("mean Dice", "positive Dice")]
    assert told[20][1] == told[23][1] and told[23][5] == "1"  # one network of the same size


def test_the_demos_work_counts_crops_and_whole_images_by_their_pixels() -> None:
    # 34 passes over 640 crops of half a step's eighth, and one over as many whole images, each of 3.125 times as much.
    assert work_of(config_of(OURS)) == 34 * 640 / 8 / 2 + 640 * 3.125 / 8 == 1360 + 250


def test_a_training_of_which_nobody_noted_how_it_was_asked_for_is_not_taken_for_any(tmp_path: Path) -> None:
    Trial(tmp_path).finish(1.0, asked=["--seed", "3"])
    assert Trial(tmp_path).is_done(["--seed", "3"])
    (tmp_path / "trial.json").write_text('{"seconds": 1.0}')
    with pytest.raises(InputError, match="asked for otherwise"):
        Trial(tmp_path).is_done(["--seed", "3"])


def test_a_training_that_a_signal_stopped_is_not_taken_for_a_finished_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`train.fit` ends with exit code 0 then, as its state is saved; the stand-in does so when it is first called."""
    program, run = tmp_path / "python", tmp_path / "work" / "run"
    program.write_text(f'#!/bin/sh\nif [ -d "{run}" ]; then touch "{run}/model.safetensors"; else mkdir "{run}"; fi\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))

    with pytest.raises(InputError, match="work/run: the training was stopped before its end; the same command goes on"):
        train(run, tmp_path, "smoke", ["--seed", "3"], alone=False)
    assert not (run / "trial.json").exists()
    (first,) = [json.loads(path.read_text()) for path in run.glob("attempts.json")]
    (run / "attempts.json").write_text(json.dumps([first[0] + 1000, first[1] + 2000]))
    trial = train(run, tmp_path, "smoke", ["--seed", "3"], alone=False)
    assert trial.is_done(["--preset", "smoke", "--seed", "3"])
    assert 1000 <= trial.seconds < 1100 and 2000 <= trial.processor_seconds < 2100  # of both attempts
