"""Training by the answers of a model that there is already."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from steel.checkpoint import Checkpoint, save_checkpoint, stack_members
from steel.config import Config, DistillConfig, FoldsConfig, NetworkConfig
from steel.distributed.runtime import Runtime, start
from steel.errors import InputError, SharedError
from steel.images.pixel_format import Depth
from steel.inference.predictor import Predictor
from steel.model.losses import LossConfig
from steel.model.network import UnifiedModel
from tests.numerics.one_step import build_training, config_of, micro_batches, plan_of, samples
from tests.random_members import make_member
from tests.shard_folder import make_shards, steel_image
from train.arguments import parse_fit
from train.engine.data import split_rows
from train.engine.dry_run import try_phases
from train.engine.run_folder import RunFolder
from train.engine.step import TrainingState
from train.engine.teacher import Teacher, load_teacher


@pytest.fixture
def runtime() -> Runtime:
    return start("no", cpu=True)


@pytest.fixture(scope="module")
def ensemble() -> Checkpoint:
    return stack_members([make_member(seed) for seed in range(2)])


def test_a_teacher_says_what_its_predictor_says(ensemble: Checkpoint, runtime: Runtime) -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 1, 32, 64), np.uint8))
    soft = Teacher(ensemble, runtime, channels_last=True)(images)
    told = Predictor.from_checkpoint(ensemble, device="cpu", tta=(), precision="no").probabilities(images)
    for probs, expected in ((soft.masks, told.mask_probs), (soft.labels, told.label_probs)):
        assert probs.dtype == torch.float32 and not probs.requires_grad
        assert np.abs(255 * probs.numpy() - expected).max() <= 0.51
    assert soft.masks.std() > 0.1


class Fixed(Teacher):
    """Says the same of everything: the first class everywhere, and nothing else."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, images: torch.Tensor) -> Any:
        from steel.model.distillation import SoftTargets

        self.asked += 1
        masks = torch.zeros(len(images), 3, *images.shape[-2:])
        masks[:, 0] = 1
        labels = torch.zeros(len(images), 4)
        labels[:, :2] = 1
        return SoftTargets(masks, labels)


def taught(runtime: Runtime, config: Config, teacher: Teacher) -> TrainingState:
    plain = build_training(runtime, config)
    return TrainingState(runtime, config, plain.model, (0.5,), (0.2,), freeze_steps=0, teacher=teacher)


def test_a_network_learns_what_the_teacher_says_and_the_labels_do_not(runtime: Runtime) -> None:
    """Labels call half of the images clean; the teacher alone counts, also where no pixel has a truth."""
    config = replace(config_of(batch_size=6, micro_batch=3), distill=DistillConfig(share=1.0))
    teacher = Fixed()
    training, plan = taught(runtime, config, teacher), plan_of(config)

    def batches() -> Iterator[Any]:
        for batch in micro_batches(plan):
            yield replace(batch, targets=torch.full_like(batch.targets, 1 << 3))

    losses = []
    for step in range(30):
        sums = training.step(plan, step, 1e-2, batches())
        losses.append(float(sums.losses["segmentation"]))
    assert teacher.asked == 60
    assert losses[-1] < 0.2 * losses[0]
    training.model.eval()
    with torch.no_grad():
        outputs = training.model((samples(6)[0].double() / 255 - 0.5) / 0.2)
    masks = torch.sigmoid(outputs["segmentation"])
    assert masks[:, 0].mean() > 0.8 and masks[:, 1:].mean() < 0.2
    assert bool((torch.sigmoid(outputs["classification"])[:, 1] > 0.5).all())


def test_a_step_with_a_teacher_is_one_graph(runtime: Runtime) -> None:
    config = replace(config_of(), distill=DistillConfig(share=0.5))
    training = taught(runtime, config, Fixed())
    images, targets = samples(6)
    soft = training.ask_teacher(images)
    loss = LossConfig({"bce": 1.0, "dice": 0.5, "classification": 0.1})
    found = torch._dynamo.explain(training.micro_batch_losses.eager)(images, targets, loss, None, soft)
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


def test_coarser_stages_go_by_the_labels_alone(runtime: Runtime) -> None:
    """Without a valid pixel they lose nothing: all that counts is what the teacher says of the finest, 4/7 of it."""
    config = replace(config_of(deep_supervision=2), distill=DistillConfig(share=1.0))
    training = taught(runtime, config, Fixed())
    images, targets = samples(6)
    soft = training.ask_teacher(images)
    nothing = torch.full_like(targets, 1 << 3)
    losses = training.micro_batch_losses(images, nothing, config.phases[0].loss, None, soft)
    assert losses["segmentation"].min() > 0
    torch.testing.assert_close(losses["segmentation"] + losses["deep_supervision"], 4 / 7 * losses["segmentation"])


@pytest.fixture
def context(tmp_path: Any, ensemble: Checkpoint, runtime: Runtime) -> Any:
    """What `load_teacher` looks at: shards of two classes, and a teacher that was trained on their fold 0."""
    from types import SimpleNamespace

    from steel.shards.reader import ShardReader

    bitmasks = [np.zeros((32, 64), np.uint8) for _ in range(4)]
    reader = ShardReader(make_shards(tmp_path / "shards", [steel_image(n) for n in range(4)], bitmasks, num_classes=2))
    checkpoint = replace(
        ensemble,
        folds={"train": [0]},
        provenance={"data_digest": reader.manifest.digest},
        class_names=("class 1", "class 2"),
    )
    save_checkpoint(tmp_path / "teacher.safetensors", checkpoint)
    config = replace(config_of(), distill=DistillConfig(str(tmp_path / "teacher.safetensors"), 0.3))
    rows = split_rows(reader, FoldsConfig((0,), ()))
    return SimpleNamespace(config=config, reader=reader, runtime=runtime, rows=rows)


def test_a_teacher_that_has_seen_the_validation_images_is_told_of(context: Any, caplog: Any) -> None:
    with caplog.at_level(logging.INFO):
        assert load_teacher(context) is not None
    assert "was trained on validation folds of this run, whose scores it flatters" in caplog.text
    assert "test folds" not in caplog.text
    assert "(2 networks), 30 % of the loss" in caplog.text
    context.config = config_of()
    assert load_teacher(context) is None


def test_a_teacher_of_another_scale_is_refused(context: Any, ensemble: Checkpoint) -> None:
    path = context.config.distill.teacher
    save_checkpoint(path, replace(ensemble, class_names=("class 1", "class 2"), input_size=(16, 32)))
    with pytest.raises(SharedError, match=r"--distill.teacher .*: it takes images resized to 16x32, the shards hold 2"):
        load_teacher(context)


def test_a_teacher_for_other_classes_is_refused(context: Any, tmp_path: Any) -> None:
    save_checkpoint(tmp_path / "teacher.safetensors", replace(make_member(0), class_names=("pit", "dent")))
    with pytest.raises(SharedError, match=r"--distill.teacher .*its classes are pit, dent"):
        load_teacher(context)


def test_a_teacher_of_another_depth_is_refused(context: Any, tmp_path: Any) -> None:
    """Gray levels that it was never trained on would be asked of it."""
    checkpoint = replace(make_member(0), class_names=("class 1", "class 2"), depth=Depth("high-byte"))
    save_checkpoint(tmp_path / "teacher.safetensors", checkpoint)
    with pytest.raises(SharedError, match=r"--distill.teacher .*it reads images of 16 bits by high-byte"):
        load_teacher(context)


def test_a_gray_teacher_is_tried_with_what_a_colour_network_is_given(ensemble: Checkpoint, runtime: Runtime) -> None:
    """Shards of gray images, and a network that takes them for three equal channels."""
    config, gray = config_of(), Teacher(ensemble, runtime, channels_last=True)
    network = UnifiedModel(NetworkConfig("Unet", "tu-test_resnet", 2, in_channels=3, decoder_channels=(8, 8)))
    training = TrainingState(runtime, config, network, (0.5,) * 3, (0.2,) * 3, freeze_steps=0, teacher=gray)
    plan = plan_of(config)
    loss = replace(plan.phase.loss, class_weights=None)  # they are of three classes
    try_phases(runtime, training, [replace(plan, phase=replace(plan.phase, loss=loss))], [(32, 64)], 1)


def with_teacher(path: Any) -> Config:
    words = ["--preset", "smoke", "--data", "shards", "--out", "run", "--distill.teacher", str(path)]
    return parse_fit("fit", words).config


def test_a_run_goes_on_with_the_same_teacher_wherever_it_lies(ensemble: Checkpoint, tmp_path: Any) -> None:
    save_checkpoint(tmp_path / "a.safetensors", ensemble)
    folder = RunFolder(tmp_path / "run")
    folder.open(with_teacher(tmp_path / "a.safetensors"), "data", "auto")
    (folder.states / "000000-00000001").mkdir(parents=True)
    folder.end("interrupted")
    folder.release()
    (tmp_path / "a.safetensors").rename(tmp_path / "b.safetensors")
    again = RunFolder(tmp_path / "run")
    assert again.open(with_teacher(tmp_path / "b.safetensors"), "data", "auto")
    again.release()
    save_checkpoint(tmp_path / "b.safetensors", make_member(5))
    with pytest.raises(InputError, match=r"\(distill.teacher was checkpoint \w{12}, now checkpoint \w{12}\)"):
        RunFolder(tmp_path / "run").open(with_teacher(tmp_path / "b.safetensors"), "data", "auto")


def test_a_teacher_that_is_not_there_is_told_with_its_option(tmp_path: Any) -> None:
    with pytest.raises(InputError, match=r"^--distill.teacher .*nowhere.safetensors: no such file$"):
        with_teacher(tmp_path / "nowhere.safetensors")
