"""The report of an ensemble without a network: one member is as good as the average, one half blind, one blind."""

from pathlib import Path
from typing import Any

from steel.decision import ClassDecision, Decision
from steel.metrics.scores import decide
from steel.reports.members import Judged, member_metrics
from steel.shards.reader import ShardReader
from tests.known_faults import DECISION, judge, predicted_probabilities, true_defects, write_report, write_shards
from tests.shard_folder import steel_image

NUM_IMAGES, CLASS_NAMES = 60, ("class 1", "class 2", "class 3")
MEMBERS = {
    "runs/as-good/model.safetensors": DECISION,
    "runs/half-blind/model.safetensors": Decision((ClassDecision(128, 128),) * 2 + (ClassDecision(255, 255),)),
    "runs/blind/model.safetensors": Decision((ClassDecision(255, 255),) * 3),
}


def write_ensemble_page(folder: Path) -> dict[str, Any]:
    """Shards and report under `folder`; returns what stands in `metrics.json`."""
    truths = [true_defects(number) for number in range(NUM_IMAGES)]
    images = [steel_image(n, *truth.shape[1:]) for n, truth in enumerate(truths)]
    reader = ShardReader(write_shards(folder, images, truths))
    statistics, kept = judge(reader, map(predicted_probabilities, truths), {})
    members = [
        Judged(name, statistics, decide(statistics, decision), "test", has_decision=decision is DECISION)
        for name, decision in MEMBERS.items()
    ]
    ensemble = member_metrics(Judged("ensemble", statistics, decide(statistics, DECISION)), members, CLASS_NAMES)
    return write_report(folder / "report", reader, statistics, kept, ensemble)
