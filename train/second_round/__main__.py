"""A second round with images without labels, by one command:

python -m train.second_round --checkpoint RUN/model.safetensors --data SHARDS --unlabelled DIR --out OUT [...]

The checkpoint labels the images of DIR (`data_prep.pseudo_labels`: OUT/shards), a second training takes them along
(`python -m train`: OUT/run), both checkpoints are scored on the test folds, which neither has seen (`train.evaluate`:
OUT/test/first, OUT/test/second), and compared (`steel compare`: OUT/compare.html, OUT/report.txt). The folds that the
first training held out are held out again. The same command goes on where it was stopped, and does nothing twice. Every
option of `python -m train` is one here; without --preset the training takes the preset and the network of the
checkpoint's. --tta, --precision and --pixels-per-pass are of the labelling and the evaluations. Exit code 3: some
images could not be read and were left out.
"""

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from steel import storage
from steel.checkpoint import read_header
from steel.checkpoint_header import digest_content
from steel.commands.common import Parser
from steel.commands.predictions import UNREADABLE
from steel.commands.pseudo_labels import add_labelling
from steel.errors import InputError, run_program, told_url
from steel.option_values import whole
from steel.reports.comparison import compare, format_comparison
from steel.reports.comparison_page import write_comparison
from steel.shards.format import Manifest
from steel.shards.selection import num_unreadable
from train.__main__ import OPTIONS
from train.arguments import parse_fit
from train.engine.run_folder import RunFolder
from train.logging_setup import set_up_logging
from train.second_round.plan import FIRST, PROGRAM, SECOND, Round, check_training, plan_round
from train.second_round.programs import Programs, ProgramsEnded
from train.second_round.record import Record

logger = logging.getLogger(PROGRAM)

_DECIDING = ("mean Dice", "positive Dice", "mean IoU")
"""The scores that tell whether there is a gain, by their names in a comparison."""
_COMPARED = ("metrics.json", "per_image.csv")
"""What the comparison reads of an evaluation."""


def build_parser() -> argparse.ArgumentParser:
    """The command line, without the options of a training."""
    parser = Parser(prog=PROGRAM, description=__doc__, add_help=False)
    add = parser.add_argument
    add("--checkpoint", metavar="FILE", required=True, help="model.safetensors of the first training; a path or URL")
    add_labelling(parser)
    add("--out", metavar="OUT", required=True, help="folder for all that comes of it")
    for option, meaning in OPTIONS.items():
        name, _, metavar = option.partition(" ")
        kind: dict[str, Any] = {"type": whole, "metavar": metavar} if metavar else {"action": "store_true"}
        add(name, help=meaning, **kind)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Do what is not yet done of the round; returns the process's exit code, 0 also where the training was stopped."""
    words, parser = list(sys.argv[1:] if argv is None else argv), build_parser()
    if {"-h", "--help"} & set(words):
        parser.print_help()
        print("\nand all options of a training, whose run folder is OUT/run:\n")  # noqa: T201
        parse_fit(PROGRAM, words)  # ends the program
    own, rest = parser.parse_known_args(words)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(f"`python -m {PROGRAM}` starts the ranks itself; under a launcher take its steps one by one")
    round_ = plan_round(own, rest)
    set_up_logging()
    with Programs().handing_on() as programs:
        try:
            return _run(round_, programs)
        except ProgramsEnded as ended:
            if programs.received is not None or ended.code == 0:
                logger.info("the round is interrupted; the same command goes on from here")
            return ended.code


def _run(this: Round, programs: Programs) -> int:
    """All steps, each of which passes over what it has done before; returns the exit code."""
    own, run = this.own, RunFolder(this.run)
    logger.info("== labelling the images of %s: %s", told_url(own.unlabelled), this.shards)
    programs.run("data_prep.pseudo_labels", this.labelling, fine=(0, UNREADABLE))
    check_training(this)
    record = Record.load(own.out) or Record(told_url(storage.full_path(own.unlabelled)), {})
    record.save(own.out)
    record = _judge(this, FIRST, record, programs)  # before hours of training, should it fail
    logger.info("== training on them, too: %s", this.run)
    programs.run("train", this.training)
    if (run.status() or {}).get("state") != "finished":
        raise ProgramsEnded(0)
    _judge(this, SECOND, record, programs)
    logger.info("== comparing both")
    comparison, out = compare([this.test(name) for name in (FIRST, SECOND)]), storage.local_path(own.out)
    report = f"{format_comparison(comparison)}\n\n{verdict(comparison, this.checkpoints)}"
    page = out / "compare.html"
    write_comparison(comparison, page)
    storage.write_text(out / "report.txt", report + "\n")
    logger.info("%s\nwrote %s", report, page)
    return UNREADABLE if num_unreadable(Manifest.load(this.shards)) else 0


def _judge(this: Round, name: str, record: Record, programs: Programs) -> Record:
    """Evaluate one of the checkpoints on the test folds, once; returns the record with that."""
    judged = {
        "checkpoint": digest_content(read_header(this.checkpoints[name])),
        "data": Manifest.load(this.shards).digest,
        "folds": list(this.config.folds.test),
        "asked": this.asked,
    }
    written = all(storage.exists(storage.join(this.test(name), file)) for file in _COMPARED)
    if written and record.judged.get(name) == judged:
        logger.info("== %s is evaluated: %s", this.checkpoints[name], this.test(name))
        return record
    logger.info("== evaluating %s: %s", this.checkpoints[name], this.test(name))
    record = record.without(name)
    record.save(this.own.out)  # the evaluation replaces what was recorded, and may be killed half-way
    programs.run("train", ["evaluate", *this.evaluation(name), *this.ranks])
    record = Record(record.unlabelled, {**record.judged, name: judged})
    record.save(this.own.out)
    return record


def verdict(comparison: Mapping[str, Any], checkpoints: Mapping[str, str]) -> str:
    """Whether the second checkpoint gains anything beyond the noise, and which one to ship, in a sentence.

    Args:
        comparison: of the two, which have judged the same images; see `steel.reports.comparison.compare`.
        checkpoints: their files.

    Raises:
        InputError: they cannot be compared.
    """
    pair = comparison["pairs"][0]
    if pair["why_not"]:
        paths = " and ".join(source["path"] for source in comparison["sources"])
        raise InputError(
            f"{paths}: cannot be compared ({pair['why_not']}); remove the folders of both, and the same command "
            "evaluates both checkpoints again"
        )
    differences = pair["differences"]
    found = {
        so: ", ".join(
            f"{name} {differences[name]['difference']:+.4f}"
            for name in _DECIDING
            if name in differences and differences[name]["so"] == so
        )
        for so in ("better", "worse")
    }
    shipped = SECOND if found["better"] and not found["worse"] else FIRST
    if shipped == SECOND:
        said = f"a gain is shown ({found['better']})"
    elif found["better"]:
        said = f"a gain ({found['better']}) is shown beside a loss ({found['worse']})"
    else:
        said = f"a loss is shown ({found['worse']})" if found["worse"] else "no gain is shown"
    (source,) = (source for source in comparison["sources"] if source["name"] == shipped)
    though = f", though {source['warning']}" if source["warning"] else ""
    return f"{said}: ship {checkpoints[shipped]}{though}"


if __name__ == "__main__":
    sys.exit(run_program(main))
