"""Networks whose padding follows the size that they meet, with padding that does not, for graphs of any size."""

import copy
from typing import TypeVar

from timm.layers import Conv2dSame
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def fix_padding(network: Network) -> Network:
    """A copy of a network, which shares its weights and answers alike, for inputs whose sides its stride divides.

    TensorFlow's "same" padding (timm's `Conv2dSame`, in its `tf_` encoders) depends on the size of the input. Sides
    that are whole strides at the beginning are so before each convolution, and are always padded by the same. What
    makes a graph for any size would else carry the size as a formula through every layer, which grows with each: a
    graph of four views of EfficientNet-Lite0 was not made within five minutes.
    """
    weights = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return _fix(copy.deepcopy(network, weights))


def _fix(module: Network) -> Network:
    for name, child in module.named_children():
        setattr(module, name, _fixed(child) if isinstance(child, Conv2dSame) else _fix(child))
    return module


def _fixed(same: Conv2dSame) -> nn.Module:
    """The same convolution where its stride divides the sides; of an odd number of pixels the end has one more."""
    rows, columns = zip(same.kernel_size, same.stride, same.dilation, strict=True)
    kernel, stride, dilation = zip(rows, columns, strict=True)
    fixed = nn.Conv2d(same.in_channels, same.out_channels, kernel, stride, 0, dilation, same.groups, bias=False)
    fixed.weight, fixed.bias = same.weight, same.bias
    above, left = _before_and_after(*rows), _before_and_after(*columns)
    return nn.Sequential(nn.ZeroPad2d((*left, *above)), fixed)


def _before_and_after(size: int, stride: int, dilation: int) -> tuple[int, int]:
    pixels = max(0, (size - 1) * dilation + 1 - stride)
    return pixels // 2, pixels - pixels // 2
