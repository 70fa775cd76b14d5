"""Deep supervision: which stages are judged, against what, and that nothing of it is left where it is off."""

import copy
import math

import numpy as np
import pytest
import torch

from steel.config import LossConfig, NetworkConfig
from steel.errors import InputError
from steel.model.deep_supervision import STAGES, StageHeads, coarsen, stage_weights
from steel.model.losses import LOSS_TERMS, head_losses
from steel.model.network import UnifiedModel
from train.engine.weight_initialisation import start_heads_at_frequencies

SMALL = NetworkConfig("Unet", "tu-test_resnet", 2, 1, decoder_channels=(16, 8, 8))
EVERY_TERM = LossConfig(dict.fromkeys(LOSS_TERMS, 0.5), absent=0.3, class_weights=(1.0, 2.0))


@pytest.fixture
def small_model() -> UnifiedModel:
    torch.manual_seed(0)
    return UnifiedModel(SMALL)


def plane(*rows: tuple[int, ...]) -> torch.Tensor:
    """One image, one plane."""
    return torch.tensor(rows, dtype=torch.float32)[None, None]


def batch(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, masks and valid pixels of two images; each class is absent from one of them."""
    masks = torch.zeros(2, 2, height, width)
    masks[0, 0, 2:9, 3:4] = 1
    masks[1, 1, 12:, 15:] = 1
    valid = torch.ones(2, 1, height, width)
    valid[0, 0, :, -5:] = 0
    return torch.randn(2, 1, height, width), masks, valid


def loss_of(model: UnifiedModel, heads: StageHeads, case: tuple[torch.Tensor, ...], pairs: torch.Tensor | None = None):
    """What the segmentation loses, and what the stages add."""
    images, masks, valid = case
    finest = head_losses(model(images), masks, valid, EVERY_TERM, pairs)["segmentation"]
    return finest, heads.loss(heads.logits(), finest, masks, valid, EVERY_TERM, pairs)


@pytest.mark.parametrize(("num", "weights"), [(0, [1]), (1, [2 / 3, 1 / 3]), (3, [8 / 15, 4 / 15, 2 / 15, 1 / 15])])
def test_each_weight_is_half_of_the_one_before_it(num: int, weights: list[float]) -> None:
    assert stage_weights(num) == pytest.approx(weights)


def test_cells_worked_by_hand() -> None:
    """A spot of one pixel is a cell; so is what is left at the edges; one unknown pixel makes a cell unknown."""
    masks = plane((0, 0, 0, 0, 1), (0, 1, 0, 0, 0), (0, 0, 0, 0, 0))
    valid = plane((1, 1, 1, 1, 1), (1, 1, 1, 0, 1), (1, 1, 1, 1, 0))
    coarse_masks, coarse_valid = coarsen(masks, valid, 2)
    assert coarse_masks.equal(plane((1, 0, 1), (0, 0, 0)))
    assert coarse_valid.equal(plane((1, 0, 1), (1, 1, 0)))


def test_a_known_defect_counts_beside_pixels_that_are_not_known() -> None:
    """As in pseudo-labels, whose defects lie in ignored bands; what is said of an ignored pixel itself is not heard."""
    masks = plane((1, 0, 0, 0, 1, 1), (0, 0, 0, 0, 1, 1))
    valid = plane((1, 0, 1, 0, 0, 0), (0, 0, 1, 1, 0, 0))
    coarse_masks, coarse_valid = coarsen(masks, valid, 2)
    assert coarse_masks.equal(plane((1, 0, 0)))
    assert coarse_valid.equal(plane((1, 0, 0)))


def test_stages_start_from_how_often_a_class_occurs(small_model: UnifiedModel) -> None:
    """As the masks' head does by then, which is given the frequencies."""
    start_heads_at_frequencies(small_model, np.array([[20, 0], [0, 1]]), pixels=100)
    heads = StageHeads(small_model, 2)
    for convolution in heads.convolutions:
        assert torch.sigmoid(convolution.bias).tolist() == pytest.approx([0.2, 0.01])


@pytest.mark.parametrize("architecture", STAGES)
def test_every_architecture_of_the_table_has_stages_that_halve(architecture: str) -> None:
    model = UnifiedModel(NetworkConfig(architecture, "resnet18", 2, 1))
    random_numbers, buffers = torch.get_rng_state(), {name: b.clone() for name, b in model.named_buffers()}
    heads = StageHeads(model, 3)
    assert model.training and all(buffer.equal(buffers[name]) for name, buffer in model.named_buffers())
    assert not torch.get_rng_state().equal(random_numbers)
    finest = 4 if architecture in ("FPN", "UPerNet") else 1
    assert heads.strides == [2 * finest, 4 * finest, 8 * finest]
    outputs = model(torch.randn(2, 1, 70, 133))
    logits = heads.logits()
    padded = [-(-side // model.stride) * model.stride for side in (70, 133)]
    assert [tuple(stage.shape) for stage in logits] == [
        (2, 2, *(side // stride for side in padded)) for stride in heads.strides
    ]
    (outputs["segmentation"].mean() + sum(stage.mean() for stage in logits)).backward()
    assert all(parameter.grad is not None for parameter in heads.parameters())


def test_the_loss_worked_by_hand() -> None:
    """Logits of 0 lose ln 2 by cross-entropy everywhere; those of ln 3, probability 3/4, -ln of 3/4 and of 1/4."""
    heads = StageHeads(UnifiedModel(SMALL), 2)
    config = LossConfig({"bce": 1.0})
    masks, valid = torch.zeros(1, 2, 8, 8), torch.ones(1, 1, 8, 8)
    masks[0, 0, 0, 0] = 1
    logits = [torch.zeros(1, 2, 4, 4), torch.full((1, 2, 2, 2), math.log(3))]
    finest = torch.tensor([[0.5, 0.2]])
    quarter_is_defect = (-math.log(3 / 4) - 3 * math.log(1 / 4)) / 4
    expected = [
        (4 * 0.5 + 2 * math.log(2) + quarter_is_defect) / 7,
        (4 * 0.2 + 2 * math.log(2) - math.log(1 / 4)) / 7,
    ]
    added = heads.loss(logits, finest, masks, valid, config)
    assert (finest + added)[0].tolist() == pytest.approx(expected)


def test_stages_are_judged_by_all_terms_where_images_have_pixels(small_model: UnifiedModel) -> None:
    """Images of no whole strides: what the padding of the network shows is not judged. Pairs change nothing."""
    heads, case = StageHeads(small_model.eval(), 2), batch(18, 27)
    seen: list[torch.Tensor] = []
    for block in small_model.decoder.blocks[:2]:
        block.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    finest, added = loss_of(small_model, heads, case)
    (quarter, half), (of_half, of_quarter) = seen, heads.convolutions
    mean = 4 / 7 * finest
    for logits, stride, weight in ((of_half(half), 2, 2 / 7), (of_quarter(quarter), 4, 1 / 7)):
        masks, valid = coarsen(*case[1:], stride)
        assert masks.shape[-2:] == (-(-18 // stride), -(-27 // stride))
        inside = logits[..., : masks.shape[-2], : masks.shape[-1]]
        mean = mean + weight * head_losses({"segmentation": inside}, masks, valid, EVERY_TERM)["segmentation"]
    torch.testing.assert_close(finest + added, mean)
    again, with_pairs = loss_of(small_model, heads, case, torch.tensor([0, 3]))
    torch.testing.assert_close((again, with_pairs), (finest, added))


def test_pixels_that_are_not_valid_add_nothing(small_model: UnifiedModel) -> None:
    """Nor does an image without any valid one lose anything."""
    heads, case = StageHeads(small_model.eval(), 2), batch(16, 24)
    expected = loss_of(small_model, heads, case)
    images, masks, valid = case
    masks = torch.where(valid > 0, masks, 1.0)
    torch.testing.assert_close(loss_of(small_model, heads, (images, masks, valid)), expected)
    finest, added = loss_of(small_model, heads, (images, masks, torch.zeros_like(valid)))
    assert finest.abs().max() == 0 and added.abs().max() == 0


def test_without_stages_nothing_is_watched_and_no_random_number_is_drawn() -> None:
    model = UnifiedModel(NetworkConfig("Segformer", "resnet18", 2, 1))
    random_numbers = torch.get_rng_state()
    heads = StageHeads(model, 0)
    assert list(heads.parameters()) == [] and heads.state_dict() == {}
    assert torch.get_rng_state().equal(random_numbers)
    assert not any(module._forward_hooks for module in model.modules())
    model(torch.randn(2, 1, 64, 64))
    assert heads.logits() == []


def test_what_is_computed_without_gradients_is_not_held(small_model: UnifiedModel) -> None:
    """As in validation, of the network and of a copy of it; and what a training pass left goes with its losses."""
    heads = StageHeads(small_model, 2)
    with torch.no_grad():
        for model in (small_model, copy.deepcopy(small_model)):
            model(torch.randn(1, 1, 16, 16))
    assert heads._features == {}
    small_model(torch.randn(2, 1, 16, 16))
    assert len(heads.logits()) == 2 and heads._features == {}


@pytest.mark.parametrize(
    ("architecture", "stages", "message"),
    [
        (
            "Segformer",
            1,
            r"^model\.deep-supervision 1: the decoder of Segformer has no stages from coarse to fine; leave it at 0 or "
            r"choose one of Unet, UnetPlusPlus, MAnet, Linknet, FPN, UPerNet$",
        ),
        (
            "Unet",
            5,
            r"^model\.deep-supervision 5: this Unet on resnet18 has 4 stages below its finest; give at most 4$",
        ),
    ],
)
def test_stages_that_there_are_not_are_refused(architecture: str, stages: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        StageHeads(UnifiedModel(NetworkConfig(architecture, "resnet18", 2, 1)), stages)
