"""A network for predictions alone: each BatchNorm that reads a convolution becomes part of that convolution.

In evaluation such a BatchNorm multiplies each channel by one number and adds another, which the convolution's own
weights and bias can do as well. A pass then goes once less over each of these feature maps. And weights that never
change need not be rounded to half precision in each pass.
"""

import copy
from collections import Counter
from contextlib import ExitStack
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from steel.model.network import UnifiedModel
from steel.model.passes import intra_op_threads

_NORMS = (nn.BatchNorm2d, BatchNormAct2d)


def fold_batch_norms(model: UnifiedModel) -> UnifiedModel:
    """A copy of `model` in evaluation mode that says the same, to float tolerance, with fewer operations.

    A BatchNorm stays where other operations, too, read what its convolution makes, where either of the two runs more
    than once in a pass, and where the convolution makes its weights of others first or is a transposed one.
    """
    with intra_op_threads(1):
        folded = copy.deepcopy(model).eval()
        for conv, norm in _pairs(folded):
            _fold(conv, norm)
            rest = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
            _replace(folded, norm, rest)
    return folded


def shorten_weights(model: UnifiedModel, dtype: torch.dtype) -> None:
    """Round the weights of the encoder's and the decoder's convolutions and linear layers to `dtype` once, as autocast
    does in each pass over the network: the same comes out, bit for bit.

    Layers that make their weights of others first keep them, and so do heads, which may compute in float32; and all do
    where `dtype` is float32, for which autocast rounds nothing.
    """
    if dtype == torch.float32:
        return
    for part in (model.encoder, model.decoder):
        for layer in part.modules():
            if type(layer) in (nn.Conv2d, nn.Linear):
                layer.to(dtype)


def _pairs(model: UnifiedModel) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions with the BatchNorm that alone reads what they make, found by a small pass."""
    read: list[tuple[nn.BatchNorm2d, Tensor]] = []
    seen = _Convolutions()
    with ExitStack() as hooks:
        for module in model.modules():
            if type(module) in _NORMS and module.running_var is not None:
                handle = module.register_forward_pre_hook(lambda norm, inputs: read.append((norm, inputs[0])))
                hooks.callback(handle.remove)
        with torch.no_grad(), seen:
            model.forward_padded(model.small_images())
    conv_of = {id(module.weight): module for module in model.modules() if isinstance(module, nn.Conv2d)}
    norm_of = {id(tensor): norm for norm, tensor in read}
    runs = Counter(id(norm) for norm, _ in read) + Counter(id(weight) for weight, _ in seen.made)
    return [
        (conv_of[id(weight)], norm)
        for weight, output in seen.made
        if id(weight) in conv_of and (norm := norm_of.get(id(output))) is not None
        if runs[id(weight)] == runs[id(norm)] == seen.readers[id(output)] == 1
    ]


class _Convolutions(TorchFunctionMode):
    """Sees each convolution's weights and what it makes, and counts the operations that read that.

    A dispatch mode would see the same, but imports TorchDynamo, which takes longer than all the rest of a prediction.
    """

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[Tensor, Tensor]] = []
        """Weights and output; kept here, so that no later tensor is mistaken for one of them."""
        self.readers: dict[int, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if any(isinstance(each, Tensor) for each in tree_leaves(output)):  # not a mere question of its shape
            for each in tree_leaves((args, kwargs)):
                if id(each) in self.readers:
                    self.readers[id(each)] += 1
        if func is torch.conv2d:
            self.made.append((args[1], output))
            self.readers[id(output)] = 0
        return output


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Give `conv` the weights and the bias with which it says what `norm` makes of what it says now."""
    assert norm.running_mean is not None and norm.running_var is not None
    with torch.no_grad():
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight.double()
        shift = -norm.running_mean.double() if conv.bias is None else conv.bias.double() - norm.running_mean.double()
        bias = shift * scale if norm.bias is None else shift * scale + norm.bias.double()
        weight = conv.weight.double() * scale.view(-1, 1, 1, 1)
        conv.weight.copy_(weight)
        conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` where `old` stands, under all of its names."""
    for name in [name for name, module in model.named_modules(remove_duplicate=False) if module is old]:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, new)
