"""Predict on every GPU:  accelerate launch -m train.predict FILE IMAGES --out DIR [--format A,B,...] [...]

The same options and the same files, byte for byte, as `steel predict`; every image is predicted once, by one of the
ranks. All ranks must see OUT. Stopped and started again, on any number of ranks, it goes on.
"""

import argparse
import time
from collections.abc import Sequence

from steel.commands.common import Parser
from steel.commands.predictions import (
    add_predict_arguments,
    job_from,
    make_way_for,
    prediction_bars,
    report_predictions,
)
from steel.distributed.ending import end_program
from steel.distributed.runtime import Runtime, start
from steel.errors import SharedError, run_program, told_url
from steel.inference.folder_job import Plan, plan_folder
from steel.inference.load import load_predictor
from steel.inference.predict_folder import describe_predictor, finish_folder, predict_images
from steel.views import parse_tta
from train.logging_setup import set_up_logging


def build_parser(prog: str = "train.predict") -> argparse.ArgumentParser:
    """The command line, of a program called `prog`."""
    parser = Parser(prog=prog, description=__doc__)
    add_predict_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Predict; returns the process's exit code."""
    return predict(build_parser().parse_args(argv))


def predict(arguments: argparse.Namespace) -> int:
    """Join the job and predict; returns the process's exit code, on the first rank that of `steel predict`."""
    set_up_logging()
    with start("no").running() as runtime:  # the predictor takes its own precision, as in `steel predict`
        return _predict(arguments, runtime)


def _predict(arguments: argparse.Namespace, runtime: Runtime) -> int:
    job = job_from(arguments)
    runtime.on_main(lambda: make_way_for(arguments))
    predictor = load_predictor(
        arguments.checkpoint,
        tta=None if arguments.tta is None else parse_tta(arguments.tta),
        device=str(runtime.device),
        precision=arguments.precision,
        pixels_per_pass=arguments.pixels_per_pass,
    )

    described = describe_predictor(predictor)
    _check_same_model(arguments.checkpoint, described["checkpoint"], runtime)

    def plan() -> Plan:
        return plan_folder(job, predictor.class_names, described)

    planned, begun = runtime.on_main(plan), time.perf_counter()
    total, before = len(planned.records), len(planned.records) - len(planned.missing)
    mine = planned.missing[runtime.rank :: runtime.world]
    if runtime.is_main:
        with prediction_bars(predictor) as on_image:  # as if all ranks were equally fast
            found = predict_images(
                predictor,
                job,
                planned.mark,
                mine,
                lambda done: on_image(min(total, before + done * runtime.world), total),
            )
    else:
        found = predict_images(predictor, job, planned.mark, mine)
    unreadable = {image_id: reason for part in runtime.all_gather(found) for image_id, reason in part.items()}
    summary = runtime.on_main(lambda: finish_folder(job, predictor.class_names, planned, unreadable))
    if not runtime.is_main:
        return 0
    return report_predictions(job, predictor, summary, time.perf_counter() - begun)


def _check_same_model(path: str, digest: str, runtime: Runtime) -> None:
    """Raises SharedError unless all ranks have loaded the same weights: the journal knows those of rank 0 alone."""
    if len(set(runtime.all_gather(digest))) > 1:
        raise SharedError(
            f"{told_url(path)}: the ranks have read different files; it was replaced meanwhile, or each machine has "
            "its own: see that all find the same, and start again"
        )


if __name__ == "__main__":
    end_program(run_program(main))
