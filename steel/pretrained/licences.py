"""Under what licence published weights stand, as their publishers say; no judgement of what that allows."""

import re

PERMISSIVE = {"apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-3-clause": "BSD-3-Clause", "cc-by-4.0": "CC BY 4.0"}
"""Timm's names of licences that ask for little more than to be named, and how they are written."""

SPECIAL = {
    "dinov3-license": "DINOv3 License (Meta's own terms, not Apache-2.0)",
    "nvidia-segformer": "NVIDIA Source Code License for SegFormer (non-commercial)",
    "mobileone-license": "Apple's MobileOne licence (its own terms)",
    "cc-by-nc-4.0": "CC BY-NC 4.0 (non-commercial)",
}
"""Others that occur here, likewise."""

RANDOM = "none of others: trained from random weights"
"""Of a checkpoint of this program that started from nobody's weights."""

NOT_RECORDED = "not recorded; ask whoever published the file"

_FAMILIES = (
    (re.compile("dinov3"), "dinov3-license"),
    (re.compile(r"(?<![a-z0-9])mit_b[0-5](?![0-9])"), "nvidia-segformer"),
    (re.compile("mobileone"), "mobileone-license"),
)
"""Parts of encoder names whose weights have one publisher: they tell the licence of a file that says nothing."""

_SMP_FAMILIES = (
    (("resnet", "resnext", "densenet", "vgg", "mobilenet_v2"), "bsd-3-clause"),  # torchvision's
    (("efficientnet", "timm-"), "apache-2.0"),
    (("dpn", "senet", "se_res", "inception", "xception"), "bsd-3-clause"),  # Cadene's pretrained-models
)
"""Where segmentation-models-pytorch has the weights of its own encoders from: its hub itself says `other`."""

_SMP_TAGS = {"ssl": "cc-by-nc-4.0", "swsl": "cc-by-nc-4.0", "instagram": "cc-by-nc-4.0"}
"""Weights of those encoders that have another publisher."""


def smp_licence(encoder: str, tag: str) -> str | None:
    """The key of the licence of weights `tag` of one of segmentation-models-pytorch's own encoders."""
    families = (key for starts, key in _SMP_FAMILIES if encoder.startswith(starts))
    return _SMP_TAGS.get(tag) or family_licence(encoder) or next(families, None)


def family_licence(encoder: str) -> str | None:
    """The key of the licence of all weights that there are for an encoder of this name; None where they differ."""
    return next((key for part, key in _FAMILIES if part.search(encoder)), None)


def told_licence(encoder: str, source: str) -> str | None:
    """The key of the licence of weights that say nothing of it, by the name of their encoder, else by that of their
    file or its folder.

    Args:
        encoder: its name.
        source: path or URL of the file.
    """
    names = source.lower().replace("-", "_").rstrip("/").split("/")[-2:]
    return next((key for key in map(family_licence, (encoder, *reversed(names))) if key), None)


def licence_text(key: str | None) -> str:
    """How a licence is written; `key` as timm or a file has it."""
    if not key:
        return NOT_RECORDED
    return PERMISSIVE.get(key.lower()) or SPECIAL.get(key.lower()) or key


def is_permissive(text: str) -> bool:
    """Whether a licence, as `licence_text` writes it, is one of `PERMISSIVE`, or nobody else's."""
    return text == RANDOM or text in PERMISSIVE.values()
