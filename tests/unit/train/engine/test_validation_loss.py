"""The validation loss, against a plain loop over whole images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from steel.config import DistillConfig, NetworkConfig, SamplingConfig
from steel.distributed.runtime import start
from steel.model.distillation import SoftTargets
from steel.model.losses import LOSS_TERMS, head_losses, lovasz_hinge
from steel.model.network import UnifiedModel
from steel.pretrained.stem import Normalisation
from steel.shards.reader import ShardReader
from tests.shard_folder import defect_mask, make_shards, steel_image
from train.engine.batch_plan import plan_phases
from train.engine.data import split_rows
from train.engine.run_context import RunContext
from train.engine.step import TrainingState
from train.engine.validation_loss import validation_loss
from train.engine.weight_initialisation import FirstWeights
from train.live_line import LiveLine
from train.presets import SMOKE

SIZE = (32, 64)
NUM = 5


class OfTwo:
    """One of two ranks, whose words are kept; what was gathered is all that was ever said."""

    world = 2
    cores = 1.0

    def __init__(self, rank: int, accelerator: object, said: list[dict[str, float]]) -> None:
        self.rank, self.accelerator, self.said, self.device = rank, accelerator, said, torch.device("cpu")

    def all_gather(self, value: dict[str, float]) -> list[dict[str, float]]:
        self.said.append(value)
        return list(self.said)


def test_the_loss_is_the_mean_over_images_whatever_the_number_of_ranks(
    tmp_path: Path, fresh_accelerate: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crops as large as the images: nothing is drawn, so a plain loop sees the same pixels. The Lovász loss is told
    which classes are present, and need not sort the others.
    """
    images = [steel_image(n, *SIZE) for n in range(2 * NUM)]
    masks = [defect_mask(n // 3, *SIZE, 2) for n in range(2 * NUM)]
    reader = ShardReader(str(make_shards(tmp_path / "shards", images, masks, num_classes=2, folds=2)))
    phase = replace(
        SMOKE.phases[0], crop=(0, 0), batch_size=8, micro_batch=2, sampling=SamplingConfig(defective_only=True)
    )
    phase = replace(phase, loss=replace(phase.loss, weights={**phase.loss.weights, "lovasz": 0.5}))
    sorted_pairs: list[int] = []

    def noting(logits: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
        sorted_pairs.append(len(pairs))
        return lovasz_hinge(logits, masks, valid, pairs)

    monkeypatch.setitem(LOSS_TERMS, "lovasz", replace(LOSS_TERMS["lovasz"], of_pairs=noting))
    config = replace(SMOKE, phases=(phase,), folds=replace(SMOKE.folds, validation=(0,), test=()))
    config = replace(config, runtime=replace(config.runtime, workers=0))
    runtime, rows = start("no", cpu=True), split_rows(reader, config.folds)
    plans = plan_phases(config.phases, [NUM], 1.0, rank=0, world=1)
    torch.manual_seed(0)
    model = UnifiedModel(NetworkConfig("Unet", "tu-test_resnet", 2, 1, decoder_channels=(8, 8)))
    training = TrainingState(runtime, config, model, (0.5,), (0.2,), 0)
    first = FirstWeights(None, Normalisation((0.5,), (0.2,)))
    context = RunContext(runtime, config, reader, rows, plans, first, LiveLine(shown=False))
    found = validation_loss(context, training, model, plans[0])
    assert len(sorted_pairs) == 3 and sum(sorted_pairs) < 2 * NUM  # of three micro-batches

    expected: dict[str, float] = {}
    with torch.no_grad():
        for row in rows.validation.tolist():
            sample = reader.read(row)
            planes = np.stack([sample.bitmask >> k & 1 for k in range(2)]).astype(np.float32)[None]
            image = (torch.from_numpy(sample.image / np.float32(255))[None, None] - 0.5) / 0.2
            losses = head_losses(model.eval()(image), torch.from_numpy(planes), torch.ones(1, 1, *SIZE), phase.loss)
            for head, loss in losses.items():
                expected[head] = expected.get(head, 0.0) + loss.mean().item() / len(rows.validation)
    assert found == pytest.approx(expected, rel=1e-5)
    assert set(found) == {"segmentation", "classification"} and min(found.values()) > 0

    said: list[dict[str, float]] = []
    for rank in (0, 1):
        of_two = replace(context, runtime=OfTwo(rank, runtime.accelerator, said))  # type: ignore[arg-type]
        together = validation_loss(of_two, training, model, plans[0])
    assert together == pytest.approx(expected, rel=1e-5)


def test_where_a_teacher_is_learned_from_it_is_asked_of_these_images_too(
    tmp_path: Path, fresh_accelerate: None
) -> None:
    """As in training, beside whose loss this one is drawn: all of it is the teacher's, who sees defects everywhere."""
    images, masks = [steel_image(n, *SIZE) for n in range(4)], [defect_mask(0, *SIZE, 2)] * 4
    reader = ShardReader(str(make_shards(tmp_path / "shards", images, masks, num_classes=2, folds=2)))
    phase = replace(SMOKE.phases[0], crop=(0, 0), batch_size=2, micro_batch=2)
    phase = replace(phase, loss=replace(phase.loss, weights={"bce": 1.0, "classification": 1.0}))
    config = replace(SMOKE, phases=(phase,), folds=replace(SMOKE.folds, validation=(0,), test=()))
    config = replace(config, runtime=replace(config.runtime, workers=0), distill=DistillConfig(share=1.0))
    runtime, rows = start("no", cpu=True), split_rows(reader, config.folds)
    plans = plan_phases(config.phases, [2], 1.0, rank=0, world=1)
    model = UnifiedModel(NetworkConfig("Unet", "tu-test_resnet", 2, 1, decoder_channels=(8, 8)))

    def everything(images: torch.Tensor) -> SoftTargets:
        return SoftTargets(torch.ones(len(images), 2, *SIZE), torch.ones(len(images), 3))

    training = TrainingState(runtime, config, model, (0.5,), (0.2,), 0, everything)  # type: ignore[arg-type]
    first = FirstWeights(None, Normalisation((0.5,), (0.2,)))
    context = RunContext(runtime, config, reader, rows, plans, first, LiveLine(shown=False))
    found = validation_loss(context, training, model, plans[0])
    with torch.no_grad():
        batch = torch.stack([torch.from_numpy(reader.read(row).image)[None] for row in rows.validation.tolist()])
        outputs = model((batch / 255 - 0.5) / 0.2)
    assert list(found) == ["segmentation", "classification"]
    for head, loss in found.items():
        assert loss == pytest.approx(torch.nn.functional.softplus(-outputs[head]).mean().item(), rel=1e-4)
