"""Cross-validate:  accelerate launch -m train.crossval --preset NAME --data SHARDS --out DIR [--GROUP.FIELD VALUE ...]

Trains one member a fold, each validated on its own fold, then joins them: out-of-fold scores with thresholds found on
the other folds, and one checkpoint file that holds all members. A fold of pseudo-labels trains all of them. With --fold
K only that member is trained (for a job array); with --join the trained members are joined.
"""

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from steel import storage
from steel.checkpoint import load_checkpoint, save_checkpoint, stack_members
from steel.commands.common import Parser
from steel.config import FoldsConfig
from steel.distributed.ending import end_program
from steel.distributed.runtime import Runtime, start
from steel.distributed.signals import StopSignals
from steel.errors import InputError, SharedError, counted, run_program
from steel.folds import name_folds
from steel.metrics.expected import expected_figures
from steel.metrics.statistics import EvaluationStatistics
from steel.option_values import whole
from steel.reports.comparison import compare
from steel.reports.comparison_page import write_comparison
from steel.reports.crossval_report import images_to_see, write_crossval
from steel.reports.evaluation import format_table
from steel.reports.evaluation_report import remove_evaluation
from steel.shards.format import Manifest
from steel.shards.reader import ShardReader
from steel.shards.selection import labelled_folds
from steel.thresholds.nested import nested_outcome
from steel.thresholds.tuning import tune_thresholds
from train.arguments import FitArguments, parse_fit, share_recipe
from train.engine.data import check_test_folds
from train.engine.evaluation_origin import provenance_of, recipe_reasons
from train.engine.fold_pictures import keep_of_folds
from train.engine.learned_folds import seen_by_members
from train.engine.run_folder import RunFolder, member_folder, members_of
from train.fit import train_in_folder
from train.live_line import LiveLine
from train.logging_setup import set_up_logging
from train.preparation import open_reader

logger = logging.getLogger("train.crossval")


def main(argv: Sequence[str] | None = None) -> int:
    """Train the members that are missing and join them; returns the exit code."""
    parser = Parser(prog="train.crossval", add_help=False)
    parser.add_argument("--fold", type=whole)
    parser.add_argument("--join", action="store_true")
    own, rest = parser.parse_known_args(argv)
    if own.join and own.fold is not None:
        raise SharedError(f"--fold {own.fold} and --join: one trains a member, the other joins all; leave one out")
    arguments = parse_fit(
        "train.crossval",
        _validating_in_turn(rest),
        more={
            "--fold K": "train the member of fold K only",
            "--join": "train nothing: join the members that are there",
            "--folds.test K ...": "keep these for the test, none where it is not given; --folds.validation is not "
            "taken here, as each other fold validates one member",
        },
        runs_in=lambda out: [*([] if own.fold is None else [member_folder(out, own.fold)]), *members_of(out).values()],
    )
    if arguments.budget.seconds is not None:
        raise SharedError("--budget: a cross-validation takes passes, as 8passes; a time is fitted for one run alone")
    set_up_logging()
    runtime = start(arguments.config.runtime.precision)
    with StopSignals().installed() as signals, runtime.running():  # a stop ends no rank that waits for the last ones
        _run(share_recipe(arguments, runtime), runtime, signals, own.fold, own.join)
    return 0


def _validating_in_turn(words: Sequence[str]) -> list[str]:
    """The command line with a fold that validates, which a run must have and each member is given anew: one that is not
    named for the test. It stands last: an option of several values would take a stray first word for its own.

    Raises:
        SharedError: a fold is named.
    """
    if any(word.partition("=")[0] == "--folds.validation" for word in words):
        raise SharedError(
            "--folds.validation: in a cross-validation each fold that does not test validates one member; leave it out"
        )
    taken = {*(word.rpartition("=")[2] for word in words), *map(str, FoldsConfig().test)}
    return [*words, "--folds.validation", next(str(fold) for fold in itertools.count() if str(fold) not in taken)]


def _run(arguments: FitArguments, runtime: Runtime, signals: StopSignals, only: int | None, join: bool) -> None:
    runtime.on_main(lambda: _refuse_run(Path(arguments.out)))
    labelled = runtime.on_main(lambda: _labelled_folds(arguments))
    if join:
        arguments = runtime.on_main(lambda: _as_members_ended(arguments))
    test = arguments.config.folds.test if arguments.test_folds_given else ()
    folds = [fold for fold in labelled if fold not in test]
    if only is not None and only not in folds:
        raise SharedError(f"--fold {only}: not a fold to train a member for; there are {', '.join(map(str, folds))}")
    if len(folds) < 2:
        raise SharedError(f"--data {arguments.data}: cross-validation needs at least two folds; see data_prep --folds")
    to_train = [] if join else folds if only is None else [only]
    arguments = runtime.on_main(lambda: _as_members_began(arguments, to_train, test))
    for fold in to_train:
        member = _member(arguments, fold, test)
        logger.info("== member of fold %d: %s", fold, member.out)
        train_in_folder(member, runtime, signals)
        if any(runtime.all_gather(signals.received)):  # of any rank, or some would wait for those that leave
            return
        runtime.forget_trainings()
    if only is None:
        runtime.on_main(lambda: join_members(arguments, folds, test, runtime))


def _member(arguments: FitArguments, fold: int, test: Sequence[int]) -> FitArguments:
    """Of the run that is validated on a fold."""
    config = replace(arguments.config, folds=FoldsConfig(validation=(fold,), test=tuple(test)))
    return replace(arguments, out=str(member_folder(arguments.out, fold)), config=config)


def _as_members_began(arguments: FitArguments, to_train: Sequence[int], test: Sequence[int]) -> FitArguments:
    """`arguments`, seen to be those of the members that are there before any is trained: of all that are to go on and,
    for new ones, of the first. Where `--budget` says nothing now, it is what it said then.

    Raises:
        InputError: they are of another configuration, data set or budget.
    """
    if not to_train:
        return arguments
    digest = Manifest.load(arguments.data).digest
    folders = {fold: RunFolder(folder) for fold, folder in members_of(Path(arguments.out)).items()}
    there = [fold for fold, folder in folders.items() if folder.begun_config() is not None]
    going_on, new = [fold for fold in to_train if fold in there], [fold for fold in to_train if fold not in there]
    alike = [*going_on, *(there[:1] if new else [])]
    for fold in alike:
        folders[fold].check_same(_member(arguments, fold, test).config, digest, arguments.budget.text)
    if arguments.budget.text or not alike:
        return arguments
    return replace(arguments, budget=replace(arguments.budget, text=folders[alike[0]].budget_at_start("") or ""))


def _as_members_ended(arguments: FitArguments) -> FitArguments:
    """`arguments` of a join, with the test folds and the views that the members have: their predictions are there.

    Raises:
        InputError: they have several, or others than are given, or were trained on other shards.
    """
    folders = {fold: RunFolder(folder) for fold, folder in members_of(Path(arguments.out)).items()}
    digest = Manifest.load(arguments.data).digest
    for folder in folders.values():  # their counts are of the labels that these shards had
        folder.check_data(digest)
    members = {fold: folder.begun_config() for fold, folder in folders.items()}
    there = {fold: config for fold, config in members.items() if config is not None}  # an earlier version's, perhaps
    if not there:
        return arguments
    (first, config), *others = there.items()
    for fold, other in others:
        for group, name in (("folds", "test"), ("validation", "tta")):
            if config[group][name] != other[group][name]:
                raise InputError(
                    f"--out {arguments.out}: the members of folds {first} and {fold} differ in --{group}.{name}, so "
                    "that they cannot be joined; train one of them again, in another folder"
                )
    given, test = arguments.config.folds.test, tuple(config["folds"]["test"])
    if arguments.test_folds_given and given != test:
        raise InputError(
            f"--folds.test {' '.join(map(str, given))}: the members in {arguments.out} have kept "
            f"{' '.join(map(str, test)) or 'no fold'} for the test; leave it out"
        )
    validation = replace(arguments.config.validation, tta=tuple(config["validation"]["tta"]))
    joined = replace(arguments.config, validation=validation, folds=FoldsConfig((first,), test))
    return replace(arguments, config=joined, test_folds_given=True)


def _refuse_run(out: Path) -> None:
    if RunFolder(out).is_run:
        raise InputError(f"--out {out}: holds a training, whose model would be replaced; choose another folder")


def _labelled_folds(arguments: FitArguments) -> list[int]:
    """Those that people have labelled; what a checkpoint has labelled is trained on by all members.

    Raises:
        InputError: a fold for the test that is not there.
    """
    reader = open_reader(arguments)
    if arguments.test_folds_given:
        check_test_folds(reader, arguments.config.folds)
    return labelled_folds(reader)


def join_members(arguments: FitArguments, folds: Sequence[int], test: Sequence[int], runtime: Runtime) -> None:
    """Score the members out of fold, tune on all of it, and pack them into one checkpoint.

    Args:
        arguments: of the cross-validation.
        folds: one for each member, which it was validated on.
        test: folds that no member has seen.
        runtime: of the one rank that joins them.

    Raises:
        InputError: a member is missing or unfinished.
    """
    out = Path(arguments.out)
    _refuse_unfinished(arguments.out, folds)
    reader = open_reader(arguments)
    parts = [_read_part(reader, RunFolder(member_folder(arguments.out, fold)).statistics, fold) for fold in folds]
    statistics = EvaluationStatistics.concat(parts)
    fold_of_row, groups, areas = (
        np.asarray(column)[statistics.rows] for column in (reader.index.fold, reader.index.group, reader.index.areas)
    )
    statistics = replace(statistics, groups=groups)
    tta = tuple(arguments.config.validation.tta)

    nested = nested_outcome(statistics, fold_of_row, tta=tta)
    members = {fold: load_checkpoint(str(RunFolder(member_folder(arguments.out, fold)).checkpoint)) for fold in folds}
    with LiveLine(shown=True) as live:
        with live.stage("threshold tuning") as on_progress:
            found = tune_thresholds(
                statistics,
                training_areas=areas,
                tta=tta,
                class_names=reader.manifest.class_names,
                on_progress=on_progress,
            )
        with live.stage("report", "pictures of the report", "images") as on_progress:
            kept = keep_of_folds(
                *(members, nested, images_to_see(statistics, nested, fold_of_row), reader, runtime),
                tta=tta,
                pixels_per_pass=arguments.config.runtime.pixels_per_pass,
                workers=arguments.config.runtime.workers,
                on_progress=on_progress,
            )
    # Every image was trained on by some member. In the shipped decision it had a say by its out-of-fold prediction
    # alone; by its score, in which weights the member that made that has kept.
    joined = stack_members([*members.values()], [f"fold {fold}" for fold in members])
    packed = replace(
        joined,
        provenance=joined.provenance
        | {
            "gates": {gate: d.to_dict() for gate, d in found.by_gate.items()},
            "validation": expected_figures(statistics, found.decision),
        },
        decision=found.decision,
        folds={"train": joined.folds["train"], "tuning": list(folds), "test": list(test)},
    )
    _remove_scores(out)  # of an earlier join, which must never stand beside this checkpoint
    save_checkpoint(out / "model.safetensors", packed)
    provenance = provenance_of(packed, out / "model.safetensors", reader)
    origin = {"provenance": provenance, "recipe": recipe_reasons(packed)}
    seen = seen_by_members(members, reader.manifest)
    if seen:
        logger.warning(
            "WARNING: what the members that judge %s learned from was trained on these images: the scores flatter",
            name_folds(seen),
        )
    role = "train" if seen else "test"
    metrics = write_crossval(out, statistics, nested, found, reader, kept, role=role, tta=tta, **origin)
    report = _format_report(metrics, len(folds), found.explanation)
    storage.write_text(out / "report.txt", report + "\n")
    logger.info("%s", report)
    logger.info("wrote %s and %s", out / "model.safetensors", out / "report.html")
    write_comparison(compare([str(member_folder(arguments.out, fold)) for fold in folds]), out / "compare.html")
    logger.info("wrote %s, the folds beside each other", out / "compare.html")


def _remove_scores(out: Path) -> None:
    remove_evaluation(out)
    for name in ("report.txt", "compare.html", "compare.json"):
        storage.remove(out / name)


def _format_report(metrics: Mapping[str, Any], num_members: int, explanation: Sequence[str]) -> str:
    """The verdict, the scores out of fold, and how the shipped decision came about."""
    lines = [
        metrics["verdict"]["sentence"],
        f"{num_members} members; out-of-fold scores, each fold judged by thresholds found on the others:",
        "",
        format_table(metrics),
        "",
        "the shipped decision, found on all folds:",
        *explanation,
    ]
    return "\n".join(lines)


def _refuse_unfinished(out: str, folds: Sequence[int]) -> None:
    for fold in folds:
        if (RunFolder(member_folder(out, fold)).status() or {}).get("state") != "finished":
            raise InputError(f"--out {out}: the member of fold {fold} is not finished; run it again with --fold {fold}")


def _read_part(reader: ShardReader, path: Path, fold: int) -> EvaluationStatistics:
    """What a member's validation has left.

    Raises:
        InputError: unreadable, or not of this fold of these shards.
    """
    part, rows = EvaluationStatistics.load(path), reader.index.rows([fold])
    if part.num_classes != reader.manifest.num_classes or not np.isin(part.rows, rows).all():
        raise InputError(f"{path}: not of the images of fold {fold}; train that member again, in another --out")
    if reader.on_bad_sample == "fail" and len(part.rows) < len(rows):
        raise InputError(
            f"{path}: lacks {counted(len(rows) - len(part.rows), 'image')} of fold {fold}, which could not be read; "
            "--runtime.on-bad-sample skip goes on without"
        )
    return part


if __name__ == "__main__":
    end_program(run_program(main))
