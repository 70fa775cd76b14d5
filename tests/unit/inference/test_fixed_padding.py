"""Networks whose "same" padding follows the size, as the graph has them: with padding that does not."""

import pytest
import timm
import torch
from timm.layers import Conv2dSame
from torch import nn

from steel.inference.fixed_padding import fix_padding


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_a_convolution_answers_alike_where_its_stride_divides_the_sides(
    kernel: int, stride: int, dilation: int
) -> None:
    torch.manual_seed(kernel)
    given = (kernel, (kernel + 1) % 5 + 1), (stride, 1 + stride % 2), 0, (dilation, 1), 2
    network = nn.Sequential(Conv2dSame(2, 4, *given, bias=kernel % 2 == 0))
    fixed = fix_padding(network)
    assert type(network[0]) is Conv2dSame and not any(isinstance(one, Conv2dSame) for one in fixed.modules())
    for height, width in ((stride, 2 * stride), (4 * stride, 6 * stride), (12 * stride, 2 * stride)):
        images = torch.randn(2, 2, height, 2 * width)
        assert torch.equal(fixed(images), network(images))


def test_an_encoder_shares_its_weights_and_answers_alike() -> None:
    encoder = timm.create_model("tf_efficientnet_lite0", features_only=True, in_chans=1).eval()
    fixed = fix_padding(encoder)
    assert {id(tensor) for tensor in fixed.parameters()} == {id(tensor) for tensor in encoder.parameters()}
    for size in ((32, 64), (96, 160)):
        images = torch.randn(1, 1, *size)
        with torch.inference_mode():
            for found, expected in zip(fixed(images), encoder(images), strict=True):
                assert torch.equal(found, expected)
