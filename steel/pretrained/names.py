"""Which tensor of a file is which of an encoder's, whatever the program that wrote it put before their names."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

ENOUGH = 0.9
"""Share of an encoder's tensors that a file must have: one that lacks more is of another network."""

_ROLES = ("bias", "running_mean", "running_var")
"""Last parts of names that have one meaning everywhere; all others are weights."""


_TORCHVISION_VIT = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.ln\.", "norm."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
)
"""Parts of torchvision's names of a vision transformer, and timm's."""


_OF_TORCHVISION = (
    "encoder.layers.encoder_layer_0.ln_1.weight",  # a vision transformer
    "features.0.0.weight",  # an EfficientNet, a ConvNeXt, a MobileNet
    "trunk_output.block1.block1-0.proj.0.weight",  # a RegNet
)
"""Tensors by which torchvision's networks are known."""


_NUMBER = re.compile(r"\d+(?=\.)")
"""Of a stage or block, at the end of a part of a name."""


@dataclass(frozen=True)
class Fit:
    """How the tensors of a file fit an encoder."""

    taken: dict[str, str]
    """Name in the encoder to name in the file."""
    missing: tuple[str, ...]
    """Tensors of the encoder that the file does not have, or has in another shape."""
    left_over: tuple[str, ...]
    """Tensors of the file that the encoder has no place for: a classifier's head, a decoder, stages not used."""
    how: str = "by name"
    given: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """The file's tensors, as `taken` names them."""
    place: str = ""
    """Of these tensors in the file, where it holds several sets, such as `model_ema`."""

    @property
    def share(self) -> float:
        """Of the encoder's tensors that were found."""
        return len(self.taken) / max(1, len(self.taken) + len(self.missing))


def fit_names(
    own: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    convert: Callable[[dict[str, Tensor]], Mapping[str, Tensor]] | None = None,
    orders: Iterable[Sequence[str]] = (),
) -> Fit:
    """The best of what there is: by name; by name as `convert` translates the file; by order.

    By order is for other libraries' names of one network (torchvision's, timm's and segmentation-models-pytorch's
    EfficientNets): each tensor, from the first to the encoder's last, must have the shape and the kind of its partner.
    That is the file's order, or, where it has lost that, as safetensors have, the first of `orders` with all its names.

    Args:
        own: an encoder's state dict.
        given: a file's tensors, in its order.
        convert: gives the tensors of an original publication the names of the library that has the encoder.
        orders: names of the tensors of networks that the file may be of, in the order of their modules.
    """
    fits = [_by_name(own, given)]
    if fits[0].missing and convert is not None:  # of a transformer, too, that lacks nothing but its positions
        for prefix in _prefixes(given, common=True):
            bare = {name.removeprefix(prefix): tensor for name, tensor in given.items()}
            fits.append(_by_name(own, convert(bare), "by its publisher's names"))
    if max(fit.share for fit in fits) < ENOUGH:
        fits.append(_by_order(own, given))
    if max(fit.share for fit in fits) < ENOUGH:
        fits += (_by_order(own, ordered) for ordered in _reordered(given, orders))
    return max(fits, key=lambda fit: fit.share)


def skipped_blocks(fit: Fit) -> list[str]:
    """Blocks of the file that come before others which are taken, such as `layer1.2` of a ResNet-34 where an encoder
    takes `layer1.1` and `layer2.0`. Those of a deeper encoder have the shapes of their neighbours, and what follows
    them was trained on what they make."""
    last: dict[str, int] = {}
    """The greatest number that is taken after the beginning of a name."""
    for name in fit.taken.values():
        for number in _NUMBER.finditer(name):
            beginning = name[: number.start()]
            last[beginning] = max(int(number[0]), last.get(beginning, 0))
    found: dict[str, None] = {}
    for name in fit.left_over:
        is_followed = False
        for number in _NUMBER.finditer(name):
            beginning = name[: number.start()]
            beyond = int(number[0]) - last.get(beginning, int(number[0]))
            if is_followed and beyond > 0 and beginning.endswith("."):
                found[name[: number.end()]] = None
            is_followed |= beyond < 0
    return list(found)


def vit_from_torchvision(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by timm's names where they are those of torchvision's vision transformer, whose order is another; else as
    they are."""
    if "encoder.layers.encoder_layer_0.ln_1.weight" not in given:
        return dict(given)

    def renamed(name: str) -> str:
        for theirs, timms in _TORCHVISION_VIT:
            name = re.sub(theirs, timms, name)
        return name

    return {renamed(name): tensor for name, tensor in given.items()}


def is_torchvisions(names: Collection[str]) -> bool:
    """Whether tensors have torchvision's names, of networks that others name otherwise."""
    return any(name.endswith(_OF_TORCHVISION) for name in names)


def is_same_shape(own: Tensor, given: Tensor) -> bool:
    """Whether the shapes are equal but for dimensions of 1 and, in a first convolution, for 1 instead of 3 channels."""
    if own.ndim == given.ndim == 4 and {own.shape[1], given.shape[1]} == {1, 3}:
        own, given = own[:, :1], given[:, :1]
    return [n for n in own.shape if n != 1] == [n for n in given.shape if n != 1]


def _by_name(own: Mapping[str, Tensor], given: Mapping[str, Tensor], how: str = "by name") -> Fit:
    """The reading with most partners, over what may stand before the names on either side."""
    wanted, offered = _weights(own), _weights(given)
    best: dict[str, str] = {}
    for mine in _prefixes(wanted, common=True):
        tails = {_plain(name.removeprefix(mine)): name for name in wanted}
        for theirs in _prefixes(offered, common=False):
            partners = {_plain(n.removeprefix(theirs)): n for n in offered if n.startswith(theirs)}
            taken = {
                name: partners[tail]
                for tail, name in tails.items()
                if tail in partners and is_same_shape(wanted[name], offered[partners[tail]])
            }
            if len(taken) > len(best):
                best = taken
            if len(best) == len(wanted):
                return _fit(wanted, offered, best, how)
    return _fit(wanted, offered, best, how)


def _by_order(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Fit:
    wanted, offered = _weights(own), _weights(given)
    pairs = list(zip(wanted, offered, strict=False))
    agree = len(pairs) == len(wanted) and all(
        is_same_shape(wanted[mine], offered[theirs]) and _role(mine) == _role(theirs) for mine, theirs in pairs
    )
    return _fit(wanted, offered, dict(pairs) if agree else {}, "by order, under other names")


def _reordered(given: Mapping[str, Tensor], orders: Iterable[Sequence[str]]) -> Iterator[dict[str, Tensor]]:
    """The tensors as each of `orders` has them that knows all their names, whatever stands before these."""
    prefixes = _prefixes(given, common=True)
    for order in orders:
        places = {name: place for place, name in enumerate(order)}
        for prefix in prefixes:
            tails = {name.removeprefix(prefix): name for name in given}
            if places.keys() >= tails.keys():
                yield {tails[tail]: given[tails[tail]] for tail in sorted(tails, key=places.__getitem__)}


def _fit(wanted: Mapping[str, Tensor], offered: Mapping[str, Tensor], taken: dict[str, str], how: str) -> Fit:
    used = set(taken.values())
    missing = tuple(name for name in wanted if name not in taken)
    return Fit(taken, missing, tuple(name for name in offered if name not in used), how, offered)


def _weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without counters and tables of positions, which are no weights."""
    return {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}


def _prefixes(names: Iterable[str], *, common: bool) -> list[str]:
    """What up to three parts of names may stand before them: nothing first; with `common`, before all of them."""
    names = list(names)
    found = dict.fromkeys([""])
    for name in names:
        parts = name.split(".")
        found |= dict.fromkeys(".".join(parts[:n]) + "." for n in range(1, min(4, len(parts))))
    return [prefix for prefix in found if not common or all(name.startswith(prefix) for name in names)]


def _plain(name: str) -> str:
    """timm calls a part `stem.conv1` or `stages.0` in a classifier, and `stem_conv1` or `stages_0` in an extractor of
    features."""
    return name.replace("_", ".")


def _role(name: str) -> str:
    last = name.rpartition(".")[2]
    return last if last in _ROLES else "weight"
