"""Quality of trained models, measured:  python -m bench.quality QUESTION

Each question is answered by a section in bench/quality/sections, from which bench/quality.md is put together anew. What
was trained before is not trained again: remove a run's folder under --work to repeat it.
"""

import argparse
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from bench.made_by import made_by
from bench.quality.questions import DATA, NEEDS, QUESTIONS, WEIGHTS, Question, severstal_recipe
from bench.quality.trial import ROOT
from steel.commands.common import Parser

HERE = Path(__file__).parent
PACKAGES = ("torch", "accelerate", "segmentation-models-pytorch", "albumentations", "timm", "numpy")


def main() -> int:
    """What `bench.quality.__main__` starts; returns the exit code."""
    options = _parse()
    question = QUESTIONS[options.what]
    work = options.work.absolute() / (question.goes_on_in or options.what)
    work.mkdir(parents=True, exist_ok=True)
    text = question.answer(options, work)
    if not _is_rehearsal(options):
        (HERE / "sections" / f"{options.what}.md").write_text(f"{_head()}\n\n{text}\n")
        HERE.with_suffix(".md").write_text(report())
    print(text)
    return 0


def report() -> str:
    """All sections that were measured, and the names of those that were not."""
    parts = [(HERE / "head.md").read_text().rstrip()]
    for name, question in QUESTIONS.items():
        section = HERE / "sections" / f"{name}.md"
        text = section.read_text().rstrip() if section.exists() else "Not measured yet."
        parts.append(f"## {question.title}\n\n{text}")
    return "\n\n".join(parts) + "\n"


def _is_rehearsal(options: argparse.Namespace) -> bool:
    """Whether Kaggle's set was only tried: no section is made of that."""
    return DATA in QUESTIONS[options.what].needs and severstal_recipe(options).is_rehearsal


def _head() -> str:
    import torch

    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores, no GPU"
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"{made_by('bench.quality')}, {machine}, Python {platform.python_version()}, {versions}."


def _those(that: Callable[[Question], bool]) -> str:
    """The names of questions."""
    return ", ".join(name for name, question in QUESTIONS.items() if that(question))


def _parse() -> argparse.Namespace:
    parser = Parser(
        prog="python -m bench.quality",
        description=__doc__,
        epilog="questions:\n" + "\n".join(f"  {name:<22} {one.title}" for name, one in QUESTIONS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("what", metavar="QUESTION", choices=tuple(QUESTIONS), help="one of those below")
    add("--source", type=Path, help="folder of NEU-Seg with images/ and masks/; of BSData")
    add(
        "--weights",
        help="file with an encoder's weights: of all questions on pretrained encoders; of severstal a URL, too",
    )
    add("--data", type=Path, help="severstal: Kaggle's folder with train.csv and train_images/")
    add("--preset", default="severstal", help="severstal: what is trained")
    add("--size", metavar="HxW", help="severstal: store images at this size, for a rehearsal")
    add("--passes", type=int, help="times each training image is seen (neu, choice: 16)")
    add("--annotations", type=Path, help="cascade*, *-strips*, batches: run-length masks to render images for")
    add("--image-ids", type=Path, help="cascade*, *-strips*, batches: ids to render, as `steel synth` takes them")
    add("--num-images", type=int, default=1800, help="cascade*, *-strips, batches: images to render")
    add(
        "--per-class",
        type=int,
        default=240,
        help="cascade*, *-strips, batches: of them, at least so many of each class",
    )
    add("--seconds", type=float, default=90, help="cascade*: training time of the unified network")
    add("--resamples", type=int, default=20, help="thresholds*: sets of images for each network")
    add("--variants", nargs="+", help=f"{_those(lambda one: bool(one.variants))}: only these")
    add(
        "--once",
        nargs="+",
        default=[],
        metavar="VARIANT",
        help=f"{_those(lambda one: one.takes_once)}: these too, with the first seed alone",
    )
    add("--seeds", type=int, nargs="+", help="of the trainings (0 1 2; rare*: 0 to 4), of the demo's data (11 12 13)")
    add("--work", type=Path, default=ROOT / ".bench" / "quality", help="data sets and runs")
    options = parser.parse_args()
    question = QUESTIONS[options.what]
    if options.seeds and not question.seeds:
        parser.error(f"{options.what} takes no --seeds")
    options.seeds = options.seeds or list(question.seeds)
    for need in question.needs:
        if getattr(options, need) is None:
            parser.error(f"{options.what} needs --{need}, {NEEDS[need]}")
        if need == WEIGHTS:
            options.weights = Path(options.weights)
            if not options.weights.is_file():
                parser.error(f"--weights {options.weights}: there is no such file")
    for option, names, taken in (
        ("--once", options.once, question.variants if question.takes_once else ()),
        ("--variants", options.variants or (), question.variants),
    ):
        unknown = sorted(set(names) - set(taken))
        if unknown and not taken:
            parser.error(f"{options.what} takes no {option}")
        if unknown:
            parser.error(f"{option}: there is no {unknown[0]!r}; there are {'; '.join(taken)}")
    return options
