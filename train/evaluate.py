"""Score a checkpoint on folds of shards.

Writes report.html, metrics.json, per_image.csv, label_doubts.csv, overlays/, gates.md and contact_sheet.png; with
--tune-thresholds also model.safetensors, decided anew on those folds. On several GPUs: accelerate launch -m
train.evaluate ...
"""

import argparse
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from steel import storage
from steel.checkpoint import Checkpoint, default_views, load_checkpoint, read_header, save_checkpoint
from steel.commands.common import Parser, local_folder
from steel.decision import Decision, default_decision
from steel.distributed.ending import end_program
from steel.distributed.runtime import Runtime, start
from steel.errors import InputError, list_some, run_program
from steel.extensions import load_extensions, require_extensions
from steel.folds import name_folds
from steel.gates import GATES
from steel.images.contact_sheet import save_contact_sheet
from steel.inference.predictor import Predictor
from steel.machine import parse_workers
from steel.metrics.expected import expected_figures
from steel.metrics.scores import decide
from steel.metrics.statistics import EvaluationStatistics
from steel.option_values import positive
from steel.reports.evaluation import format_table
from steel.reports.evaluation_report import others_in, remove_evaluation, write_evaluation
from steel.reports.gallery import RANDOM, TYPICAL, GalleryKeeper
from steel.reports.gates import format_gates, gate_table
from steel.reports.members import Judged
from steel.shards.format import Manifest
from steel.shards.reader import ShardReader
from steel.shards.selection import (
    check_same_task,
    check_stored_sizes,
    data_digests,
    labelled_folds,
    refuse_pseudo,
    rows_in,
)
from steel.shards.split_roles import Known, Role, role_of, seen_folds, shards_known, trained_on, tuned_on
from steel.thresholds.tuning import Tuning, tune_thresholds
from steel.views import parse_tta
from train.engine.evaluation_origin import provenance_of, recipe_reasons, speed_of
from train.engine.member_scores import judge_members
from train.engine.run_folder import RunFolder, has_members
from train.engine.run_inference import collect_statistics, gather_kept
from train.engine.visualise import NUM_EXAMPLES, choose_examples, choose_random, draw_examples, stream_examples
from train.live_line import LiveLine
from train.logging_setup import set_up_logging

logger = logging.getLogger("train.evaluate")

_OTHERS: dict[Known, str] = {
    "all": "",
    "some": "the checkpoint has learned from other shards, too: whether these images were among theirs is not known",
    "none": "the checkpoint was not trained on these shards, as far as it says: whether it has seen these images among "
    "others is not known",
}
"""What there is to say of a checkpoint that has learned from other shards than those that judge it."""


def build_parser(prog: str = "train.evaluate") -> argparse.ArgumentParser:
    """The command line, of a program called `prog`."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("--checkpoint", metavar="FILE", required=True, help="model.safetensors of a run; a path or URL")
    parser.add_argument("--data", metavar="SHARDS", required=True, help="folder or URL of the shards")
    parser.add_argument(
        "--folds", metavar="K,L,...", default="1", help="comma-separated folds, or `all` that people have labelled"
    )
    parser.add_argument("--out", metavar="DIR", required=True, type=local_folder, help="folder for what this writes")
    parser.add_argument(
        "--tta", metavar="VIEWS", help="flips averaged, such as hflip,vflip,hvflip, or none; by default the decision's"
    )
    parser.add_argument(
        "--tune-thresholds", action="store_true", help="decide anew on these folds: OUT/model.safetensors"
    )
    parser.add_argument(
        "--gates",
        metavar="GATE,...",
        type=lambda text: text.split(","),
        help="those among which --tune-thresholds chooses, such as none or binary,class; by default all",
    )
    parser.add_argument(
        "--members", action="store_true", help="judge each member of an ensemble, too: a pass over the images for each"
    )
    parser.add_argument(
        "--pixels-per-pass",
        type=positive,
        metavar="N",
        help="pixels in a forward pass; by default what suits the device",
    )
    parser.add_argument(
        "--workers",
        type=parse_workers,
        metavar="N",
        default="auto",
        help="decoding processes per rank; auto: none on a CPU",
    )
    parser.add_argument(
        "--precision", choices=("auto", "no", "bf16", "fp16"), default="auto", help="of the forward pass"
    )
    parser.add_argument("--cache-dir", metavar="DIR", help="where remote shards are kept on this node")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate; returns the process's exit code."""
    return evaluate(build_parser().parse_args(argv))


def evaluate(arguments: argparse.Namespace) -> int:
    """Evaluate in the job this process was launched into; returns its exit code."""
    set_up_logging()
    load_extensions()
    # The predictor takes its own precision, as in `steel predict`.
    with start("no").running() as runtime, LiveLine(shown=runtime.is_main) as live:
        _evaluate(arguments, runtime, live)
    return 0


@dataclass(frozen=True)
class _Images:
    """What is judged, and with what."""

    arguments: argparse.Namespace
    checkpoint: Checkpoint
    reader: ShardReader
    rows: np.ndarray
    runtime: Runtime
    live: LiveLine

    def predictor(self, checkpoint: Checkpoint, tta: tuple[str, ...]) -> Predictor:
        """The checkpoint's, with the views that the user asks for, or else with `tta`."""
        return Predictor.from_checkpoint(
            checkpoint,
            device=self.runtime.device,
            tta=tta if self.arguments.tta is None else parse_tta(self.arguments.tta),
            pixels_per_pass=self.arguments.pixels_per_pass,
            precision=self.arguments.precision,
        )

    def collect(
        self, predictor: Predictor, decision: Decision | None = None, keeper: GalleryKeeper | None = None
    ) -> EvaluationStatistics:
        """See `collect_statistics`."""
        with self.live.stage("evaluation", unit="images") as on_progress:
            return collect_statistics(
                *(predictor, self.reader, self.rows, self.runtime),
                decision=decision,
                workers=self.arguments.workers,
                on_progress=on_progress,
                keeper=keeper,
            )

    def tune(self, statistics: EvaluationStatistics, tta: tuple[str, ...]) -> Tuning:
        """Another decision, found on `statistics`; the same on every rank."""
        areas = self.reader.index.areas[training_rows(self.checkpoint, self.reader, statistics.rows)]
        with self.live.stage("threshold tuning") as on_progress:
            tuning = tune_thresholds(
                statistics,
                gates=self.arguments.gates,
                training_areas=areas,
                tta=tta,
                class_names=self.reader.manifest.class_names,
                share=self.runtime.share_out,
                on_progress=on_progress,
            )
        return self.runtime.broadcast(tuning)

    def judge(self, member: Checkpoint, name: str, role: str, decision: Decision, tta: tuple[str, ...]) -> Judged:
        """A member's answers as the ensemble's come about: by its own decision and flips, or cross-fitted by a decision
        found here with the ensemble's flips.

        Args:
            member: of the ensemble.
            name: of the member.
            role: what the images were to it.
            decision: the ensemble's, for a member that has none.
            tta: the ensemble's flips.
        """
        has_decision = member.decision is not None
        if member.decision is not None and not self.arguments.tune_thresholds:
            decision, tta = member.decision, member.decision.tta
        predictor = self.predictor(member, tta)
        statistics = self.collect(predictor)
        if self.arguments.tune_thresholds:
            outcome = self.tune(statistics, predictor.tta).cross_fitted
        else:
            outcome = decide(statistics, decision)
        return Judged(name, statistics, outcome, role, has_decision, predictor.tta)


def _evaluate(arguments: argparse.Namespace, runtime: Runtime, live: LiveLine) -> None:
    checkpoint, reader = _open(arguments)
    folds = parse_folds(arguments.folds, reader)
    rows = rows_in(reader, folds, "evaluated")
    refuse_pseudo(f"--folds {arguments.folds}", folds, reader.manifest)
    check_stored_sizes(f"--checkpoint {arguments.checkpoint}", checkpoint.input_size, reader, rows)
    digests, seen = data_digests(reader.manifest), seen_folds(checkpoint.folds, checkpoint.provenance)
    role = role_of(folds, digests, checkpoint.folds, checkpoint.provenance)
    _tell_seen(folds, role, shards_known(digests, seen))
    runtime.on_main(lambda: _make_way(arguments))

    views = default_views(checkpoint)
    decision = checkpoint.decision or default_decision(len(checkpoint.class_names), views)
    images = _Images(arguments, checkpoint, reader, rows, runtime, live)
    predictor = images.predictor(checkpoint, views)
    found = None
    if arguments.tune_thresholds:
        statistics = images.collect(predictor)
        found = images.tune(statistics, predictor.tta)
        decision, role = found.decision, role if role == "train" else "tuning"
        checkpoint = retuned(checkpoint, found, folds, reader.manifest, statistics)
    examples = choose_examples(reader, rows, NUM_EXAMPLES)
    wanted = {TYPICAL: examples, RANDOM: choose_random(rows, NUM_EXAMPLES)}
    keeper = GalleryKeeper(decision, reader.manifest.ignore_bit, frozenset(chain(*wanted.values())))
    begun = time.perf_counter()
    statistics = images.collect(predictor, decision, keeper)
    seconds = time.perf_counter() - begun
    kept = gather_kept(keeper, runtime, wanted)
    ensemble = None
    if arguments.members:
        answers = decide(statistics, decision) if found is None else found.cross_fitted
        has_decision, tta = checkpoint.decision is not None, predictor.tta
        judged = Judged("ensemble", statistics, answers, has_decision=has_decision, tta=tta)
        judge = partial(images.judge, decision=decision, tta=tta)
        ensemble = judge_members(checkpoint, judge, judged, folds, digests)
    if not runtime.is_main:
        return

    gates = gates_of(checkpoint)
    remove_evaluation(arguments.out)
    if found is not None:  # before its scores, which must never stand beside an earlier one
        save_checkpoint(arguments.out / "model.safetensors", checkpoint)
    with live.stage("report", "writing the report"):
        metrics = write_evaluation(
            *(arguments.out, statistics, decision, reader, kept),
            folds=folds,
            role=role,
            tta=predictor.tta,
            cross_fitted=None if found is None else found.cross_fitted,
            gates=gates,
            speed=speed_of(len(rows), seconds, predictor, runtime),
            provenance=provenance_of(checkpoint, arguments.checkpoint, reader),
            recipe=recipe_reasons(checkpoint),
            ensemble=ensemble,
        )
    logger.info("%s", "\n".join([metrics["verdict"]["sentence"], *([ensemble["sentence"]] if ensemble else [])]))
    if found is not None:
        logger.info("%s", "\n".join(found.explanation))
    shown = stream_examples(predictor, decision, reader, examples)
    save_contact_sheet(
        arguments.out / "contact_sheet.png",
        *draw_examples(shown, len(checkpoint.class_names)),
        class_names=checkpoint.class_names,
    )
    logger.info("%s", format_table(metrics))
    _compare_gates(gates, statistics, arguments.out)
    logger.info("%d images, %.1f images/s, %d views", len(rows), len(rows) / seconds, 1 + len(predictor.tta))
    logger.info("wrote %s", arguments.out / "report.html")


def _tell_seen(folds: Sequence[int], role: Role, known: Known) -> None:
    """Say why the scores flatter the checkpoint, or may.

    Args:
        folds: the judged ones.
        role: what they were to it.
        known: of what it was trained on, by `shards_known`.
    """
    if role in ("train", "tuning"):
        logger.warning("WARNING: the checkpoint has seen %s (%s): these scores flatter it", name_folds(folds), role)
    if role != "train" and _OTHERS[known]:
        logger.info("%s", _OTHERS[known])


def _open(arguments: argparse.Namespace) -> tuple[Checkpoint, ShardReader]:
    """The checkpoint and the shards, which fit each other."""
    checkpoint = load_checkpoint(arguments.checkpoint)
    require_extensions(checkpoint.provenance, f"--checkpoint {arguments.checkpoint}")
    reader = ShardReader(arguments.data, cache_dir=arguments.cache_dir)
    name, channels = f"--checkpoint {arguments.checkpoint}", checkpoint.network.in_channels
    check_same_task(name, checkpoint.class_names, channels, checkpoint.depth, reader.manifest)
    if arguments.gates is not None:
        _check_gates(arguments.gates, arguments.tune_thresholds)
    if arguments.members and checkpoint.members == 1:
        raise InputError(f"--members: {arguments.checkpoint} holds one network; `steel ensemble` packs several")
    return checkpoint, reader


def _check_gates(gates: Sequence[str], is_tuned: bool) -> None:
    given = f"--gates {','.join(gates)}"
    if not is_tuned:
        raise InputError(f"{given}: a gate is chosen by --tune-thresholds; give that too")
    unknown = [gate for gate in gates if gate not in GATES]
    if unknown:
        raise InputError(f"{given}: there is no gate {unknown[0]!r}; choose among {', '.join(GATES)}")


def _make_way(arguments: argparse.Namespace) -> None:
    """See, before any work is done, that results can be written, and neither replace a checkpoint or a run's files nor
    stand beside a checkpoint that is not theirs, or files of something else.

    Raises:
        InputError: says which.
    """
    out = arguments.out
    owner = "training" if RunFolder(out).is_run else "cross-validation" if has_members(out) else None
    if owner is not None:
        raise InputError(f"--out {out}: a {owner}'s run folder; give a folder of its own, such as {out / 'test'}")
    tuned = out / "model.safetensors"
    if arguments.tune_thresholds:
        storage.check_apart([arguments.checkpoint], [str(tuned)])
        if tuned.exists() and not _is_retuned(tuned):
            raise InputError(f"{tuned}: not of a --tune-thresholds, and would be replaced; give another --out")
    elif _is_retuned(tuned) and storage.full_path(arguments.checkpoint) != storage.full_path(str(tuned)):
        raise InputError(
            f"{tuned}: of an earlier --tune-thresholds, and would stand beside scores that are not its own; give "
            "another --out, or move it away"
        )
    others = [name for name in others_in(out) if name != tuned.name or not _is_retuned(tuned)]
    if others:
        raise InputError(
            f"--out {out}: not empty and not of an evaluation (it holds {list_some(others, 3)}); choose another folder"
        )
    storage.make_folder(out)


def _is_retuned(path: Path) -> bool:
    """Whether a file is a checkpoint as `retuned` makes it."""
    try:
        return "tuning_digest" in read_header(path)["provenance"]
    except InputError:
        return False


def gates_of(checkpoint: Checkpoint) -> dict[str, Decision]:
    """The best decision of every gate, where the checkpoint knows them."""
    return {gate: Decision.from_dict(values) for gate, values in checkpoint.provenance.get("gates", {}).items()}


def _compare_gates(gates: Mapping[str, Decision], statistics: EvaluationStatistics, out: Path) -> None:
    """Say how the best decision of every gate scores."""
    if gates:
        results = gate_table(gates, statistics)
        storage.write_text(out / "gates.md", format_gates(results, markdown=True) + "\n")
        logger.info("\nthe classic pipelines as gates of this one model\n%s", format_gates(results))


def parse_folds(text: str, reader: ShardReader) -> list[int]:
    """`0,2` as a list of folds, or `all` that people have labelled."""
    if text == "all":
        return labelled_folds(reader)
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise InputError(f"--folds {text}: give comma-separated numbers such as 0,2, or all") from None


def training_rows(checkpoint: Checkpoint, reader: ShardReader, otherwise: np.ndarray) -> np.ndarray:
    """Rows of the checkpoint's training folds where these are the shards it was trained on, else `otherwise`."""
    if reader.manifest.digest != checkpoint.provenance.get("data_digest"):
        return otherwise
    return rows_in(reader, checkpoint.folds["train"], "train")


def retuned(
    checkpoint: Checkpoint, found: Tuning, folds: Sequence[int], manifest: Manifest, statistics: EvaluationStatistics
) -> Checkpoint:
    """The same network with another decision, which remembers what it was found on, and what chose its weights."""
    digests, former = data_digests(manifest), tuned_on(checkpoint.provenance)
    chosen_on, before = checkpoint.folds.get("tuning", ()), list(checkpoint.provenance.get("tuned_before", ()))
    if digests.isdisjoint(former):
        before += [{"digest": digest, "folds": list(chosen_on)} for digest in former if chosen_on]
        chosen_on = ()
    roles = {**checkpoint.folds, "tuning": sorted({*chosen_on, *folds})}
    if not digests.isdisjoint(trained_on(checkpoint.provenance)):  # of other shards fold numbers mean nothing here
        roles["test"] = [fold for fold in roles.get("test", ()) if fold not in folds]
    return replace(
        checkpoint,
        decision=found.decision,
        folds=roles,
        provenance={
            **checkpoint.provenance,
            "tuning_digest": manifest.digest,
            "tuning_digests": sorted(digests),
            "tuned_before": before,
            "gates": {gate: decision.to_dict() for gate, decision in found.by_gate.items()},
            "validation": expected_figures(statistics, found.decision),
        },
    )


if __name__ == "__main__":
    end_program(run_program(main))
