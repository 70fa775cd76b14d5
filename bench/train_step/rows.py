"""Every row of the table: a network at a size, fed in some way, on which sides, and what is to be reached."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import product
from typing import Any

from bench.speed.row import Row, Side
from bench.train_step.setting import Setting

ARCHITECTURES = ("Unet", "FPN")
ENCODERS = ("resnet18", "resnet34", "resnet50", "efficientnet-b0", "tu-convnext_tiny")
SIZES = ((256, 512), (256, 1600))
DEFAULT = Setting()
"""Small enough for a CPU."""
KINDS = ("made-up", "loader", "ddp", "ranks")
"""Of rows: the same batch over and over; fed by the loader; DDP around one rank; two ranks against two threads."""
UNIT = "images/s"
AIMS = {
    ("Unet resnet34", "256x512", "H200"): 2400,
    ("Unet resnet34", "256x512", "H100"): 1900,
    ("Unet resnet34", "256x1600", "H200"): 600,
    ("Unet resnet34", "256x1600", "H100"): 450,
}
"""Images a second of a made-up batch that a network is to reach on a card."""
FED_SHARE = 0.97
"""Of the speed on a made-up batch that a GPU is to keep when the loader feeds it."""
UNKEPT = "ours, freed memory not kept"
"""The label of our side with the allocator as the peers have it by themselves."""


def rows_of(
    kinds: Sequence[str], settings: Sequence[Setting], shards: str, card: str = "", *, bf16: bool = False
) -> list[Row]:
    """The chosen kinds of rows for each setting.

    Args:
        kinds: among `KINDS`.
        settings: network, size and device of each.
        shards: for the rows that the loader feeds.
        card: the GPU, as torch calls it.
        bf16: the CPU computes in bfloat16 by itself, so that training there takes it.
    """
    build: dict[str, Callable[[Setting], list[Row]]] = {
        "made-up": lambda one: _made_up(one, card, bf16),
        "loader": lambda one: _loader(one, shards),
        "ddp": _ddp,
        "ranks": _ranks,
    }
    return [row for one in settings for kind in KINDS if kind in kinds for row in build[kind](one)]


def not_measured(kinds: Sequence[str], settings: Sequence[Setting]) -> Iterator[str]:
    """What of the whole set of networks and sizes is not among `settings`, or of which kinds of rows it has none."""
    measured = {(one.architecture, one.encoder, one.height, one.width): one.device for one in settings}
    for architecture, encoder, (height, width) in product(ARCHITECTURES, ENCODERS, SIZES):
        name = f"{architecture} {encoder} {height}x{width}"
        device = measured.get((architecture, encoder, height, width))
        missing = [kind for kind in KINDS if kind not in kinds and (kind, device) != ("ranks", "cuda")]
        if device is None:
            yield name
        elif missing:
            yield f"{name} ({', '.join(missing)})"


def aims_not_measured(kinds: Sequence[str], settings: Sequence[Setting], card: str) -> Iterator[str]:
    """The aims on a GPU that no row is held to; arguments as of `rows_of`."""
    on_gpu = [one for one in settings if one.device == "cuda"]
    held = [AIMS.get(_key(one, card)) for one in on_gpu if "made-up" in kinds]
    for (network, size, model), rate in AIMS.items():
        if rate not in held:
            yield f"{network} {size}, made-up batch: at least {rate:,} {UNIT} on an {model}"
    if not on_gpu or "loader" not in kinds:
        yield f"fed by the loader: at least {FED_SHARE:g}x the made-up batch on a GPU"


def _key(setting: Setting, card: str) -> tuple[str, str, str]:
    """Of `AIMS`; no aim is another card's, or part of a card's."""
    words = card.split()
    model = next((word for word in ("H100", "H200") if word in words and "MIG" not in words), "")
    return f"{setting.architecture} {setting.encoder}", f"{setting.height}x{setting.width}", model


def _peers(setting: Setting) -> list[Side]:
    options = asdict(setting)
    fused = "fused AdamW" if setting.device == "cpu" else ""  # on a GPU every side but Lightning's has it
    by_lightning = fused if setting.precision == "no" else ""
    last, nchw = ({**options, "channels_last": layout} for layout in (True, False))
    return [
        Side("plain loop, channels_last", "plain", "step", last, target=1.0),
        Side("plain loop, NCHW", "plain-nchw", "step", nchw, 1.15, fused),
        Side("PyTorch Lightning, channels_last", "lightning", "lightning", last, target=1.0),
        Side("PyTorch Lightning, NCHW", "lightning-nchw", "lightning", nchw, 1.0, by_lightning),
        Side("MONAI SupervisedTrainer, channels_last", "monai", "monai", last, target=1.0),
        Side("MONAI SupervisedTrainer, NCHW", "monai-nchw", "monai", nchw, 1.0, fused),
    ]


def _made_up(setting: Setting, card: str, bf16: bool) -> list[Row]:
    options, aim = asdict(setting), AIMS.get(_key(setting, card))
    ours = Side("ours", "ours", "step", options, least_rate=aim)
    compiled = Side("ours, compiled", "ours-compiled", "step", {**options, "compiled": True}, least_rate=aim)
    title = f"{setting.name}, made-up batch"
    others = {"NCHW": {"channels_last": False}}
    if setting.device == "cuda":
        others["cuDNN searches"] = {"cudnn_benchmark": True}
    choices = _choices(options, others)
    if setting.device == "cuda":  # where training may compile by itself
        how, remark = {**options, "channels_last": True, "compiled": True}, "beside ours, compiled"
        choices.append(Side("plain loop, channels_last, compiled", "plain-compiled", "step", how, remark=remark))
    if setting.device == "cpu":  # nowhere else does training touch the allocator
        choices.append(Side(UNKEPT, "ours-unkept", "step", {**options, "keep_freed": False}))
    row = Row(f"made-up {setting.name}", title, UNIT, (ours, compiled, *choices, *_peers(setting)))
    if setting.device == "cuda":  # a step without mixed precision beside it
        return [row, _in_precision("no", setting, {"no TF32": {"tf32": False}})]
    alike = replace(row, sides=tuple(side for side in row.sides if side is ours or side.target is not None))
    rows = [row, _kept(alike)]
    if bf16:
        rows.append(_kept(_in_precision("bf16", setting, {"NCHW": {"channels_last": False}})))
    return rows


def _in_precision(precision: str, setting: Setting, others: dict[str, dict[str, bool]]) -> Row:
    """The made-up batch in another precision than the setting's, with ours in `others` as of `_choices`.

    MONAI's trainer asks CUDA alone for bfloat16: on a CPU it would go on in float32.
    """
    told, one = {"no": "float32"}.get(precision, precision), replace(setting, precision=precision)
    ours = Side("ours", "ours", "step", asdict(one))
    peers = [side for side in _peers(one) if side.task != "monai" or (one.device, precision) != ("cpu", "bf16")]
    sides = (ours, *_choices(asdict(one), others), *peers)
    return Row(f"{told} {one.name}", f"{one.name}, made-up batch, {told}", UNIT, sides)


def _kept(row: Row) -> Row:
    """On a CPU, with the allocator that training sets on all sides; on a GPU as it is."""
    if row.sides[0].options["device"] != "cpu":
        return row
    sides = tuple(replace(side, options={**side.options, "keep_freed": True}) for side in row.sides)
    return replace(row, name=f"kept {row.name}", title=f"{row.title}, all keep freed memory", sides=sides)


def _choices(options: dict[str, Any], others: dict[str, dict[str, bool]]) -> list[Side]:
    """Ours with other fields of `runtime`, by what they are called; for who chooses their defaults."""
    return [
        Side(f"ours, {name}", f"ours-{number}", "step", {**options, "runtime": fields})
        for number, (name, fields) in enumerate(others.items())
    ]


def _loader(setting: Setting, shards: str) -> list[Row]:
    fed, options = replace(setting, shards=shards), asdict(setting)
    share = FED_SHARE if setting.device == "cuda" else None  # on a CPU the loader has the network's own cores
    sides = (
        Side("ours", "ours", "step", asdict(fed)),
        Side("ours, made-up batch", "ours-compiled", "step", options, share, "what the loader costs"),
        *_peers(fed),
    )
    return [_kept(Row(f"loader {setting.name}", f"{setting.name}, fed by the loader", UNIT, sides))]


def _ddp(setting: Setting) -> list[Row]:
    sides = (
        Side("ours, DDP at world 1", "ours-compiled", "step", {**asdict(setting), "ddp": True}),
        Side("ours", "ours", "step", asdict(setting), target=0.97),
    )
    return [Row(f"ddp {setting.name}", f"{setting.name}, DDP", UNIT, sides, times=3)]


def _ranks(setting: Setting) -> list[Row]:
    if setting.device == "cuda":
        return []
    halves = replace(setting, micro=setting.batch // 2)
    sides = (
        Side("two gloo ranks of one thread", "ranks", "ranks", {**asdict(halves), "world": 2}),
        Side("one process of two threads", "ours", "step", asdict(halves), target=0.9),
    )
    return [Row(f"ranks {setting.name}", f"{setting.name}, two micro-batches", UNIT, sides, times=3)]
