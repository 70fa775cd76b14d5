"""What a round comes to: its places, its recipe and its folds, all seen to before any work is done."""

import argparse
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from steel import storage
from steel.checkpoint import read_header
from steel.config import Config, ModelConfig
from steel.errors import InputError, list_some, told_url
from steel.plain import from_dict, to_dict
from steel.pretrained.encoder import own_header
from steel.shards.format import Manifest
from steel.shards.reader import ShardReader
from steel.shards.selection import data_digests, folds_of, labelled_by, refuse_pseudo, rows_in
from steel.shards.split_roles import SeenFolds, role_in, seen_folds, tuning_folds
from train.__main__ import choose_processes, count_gpus
from train.arguments import FitArguments, parse_fit
from train.engine.run_folder import RunFolder, RunFolderError
from train.presets import AUTO, PRESETS
from train.second_round.record import RECORD, Record

PROGRAM = "train.second_round"
FIRST, SECOND = "first", "second"
"""What the two checkpoints are called."""
_OURS = {"shards", "run", "test", "compare.html", "compare.json", "report.txt", RECORD}
"""What a round leaves in its folder."""


@dataclass(frozen=True)
class Round:
    """What is to be done, and where."""

    own: argparse.Namespace
    """The options that are none of a training."""
    words: tuple[str, ...]
    """Those that are, without data and run folder."""
    config: Config
    """What these come to on the shards without the images to be labelled."""

    @property
    def shards(self) -> str:
        """Where the labelled images go."""
        return storage.join(self.own.out, "shards")

    @property
    def run(self) -> str:
        """The run folder of the training."""
        return _run_in(self.own.out)

    def test(self, name: str) -> str:
        """Where the evaluation of one of the checkpoints goes."""
        return storage.join(self.own.out, "test", name)

    @property
    def checkpoints(self) -> dict[str, str]:
        """By their names."""
        return {FIRST: self.own.checkpoint, SECOND: str(RunFolder(self.run).checkpoint)}

    @property
    def ranks(self) -> list[str]:
        """Options of `python -m train` that say where on this machine."""
        return [*_words_of(self.own, "processes"), *(["--cpu"] if self.own.cpu else [])]

    @property
    def asked(self) -> list[str]:
        """Options that say how a checkpoint is asked, for labelling and for evaluations alike."""
        return _words_of(self.own, "tta", "precision", "pixels_per_pass")

    @property
    def labelling(self) -> list[str]:
        """The command line of `data_prep.pseudo_labels`."""
        words = _words_of(self.own, "checkpoint", "data", "unlabelled", "tiff_pages", "groups", "unsure", "threads")
        if self.own.groups is not None:
            judging = sorted({*self.config.folds.validation, *self.config.folds.test})
            words += ["--held-out", *map(str, judging)]
        return [*words, *self.asked, *(["--device", "cpu"] if self.own.cpu else []), "--out", self.shards]

    @property
    def training(self) -> list[str]:
        """The command line of `python -m train`."""
        return [*self.words, "--data", self.shards, "--out", self.run, *self.ranks]

    def evaluation(self, name: str) -> list[str]:
        """The command line of an evaluation of one of the checkpoints, but for `ranks`."""
        folds, workers = ",".join(map(str, self.config.folds.test)), str(self.config.runtime.workers)
        words = ["--checkpoint", self.checkpoints[name], "--data", self.shards, "--folds", folds, "--workers", workers]
        return [*words, *self.asked, "--out", self.test(name)]


def _words_of(values: argparse.Namespace, *names: str) -> list[str]:
    given = {name.replace("_", "-"): getattr(values, name) for name in names}
    return [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]


def plan_round(own: argparse.Namespace, rest: Sequence[str]) -> Round:
    """See, before any work is done, that everything fits together.

    Args:
        own: the options that are none of a training.
        rest: the other words.

    Raises:
        InputError: a mistake in the options or in the files they name, or no fold that neither checkpoint has seen.
    """
    _refuse_foreign(own)
    choose_processes(own.processes, 0 if own.cpu else count_gpus())
    header, reader = read_header(own.checkpoint), ShardReader(own.data)
    given = {word.partition("=")[0].replace("_", "-") for word in rest if word.startswith("--")}
    recipe = () if "--preset" in given else recipe_words(header, given)
    words = (*recipe, *_fold_words(own, header, reader, given), *rest)
    with _run_told(own.out):
        arguments = parse_fit(PROGRAM, [*words, "--data", own.data, "--out", _run_in(own.out)])
    _check_folds(own, header, reader, arguments)
    return Round(own, words, arguments.config)


def check_training(this: Round) -> None:
    """See, before a training is started on the shards with the labelled images, that its run folder takes it.

    Raises:
        InputError: it holds another run, or something else; names the round's own `--out` beside it.
    """
    with _run_told(this.own.out):
        arguments = parse_fit(PROGRAM, [*this.words, "--data", this.shards, "--out", this.run])
        digest = Manifest.load(this.shards).digest
        RunFolder(this.run).check(arguments.config, digest, arguments.resume, arguments.budget.text)


def _run_in(out: str) -> str:
    """Where the second training goes."""
    return storage.join(out, "run")


@contextmanager
def _run_told(out: str) -> Iterator[None]:
    """What the block says against the run folder, which nobody has given, as being of `--out`."""
    try:
        yield
    except RunFolderError as error:
        raise InputError(f"--out {out}: its run folder {error.root}: {error.wrong}") from error


def _refuse_foreign(own: argparse.Namespace) -> None:
    """Raises InputError where the output folder is another's, or of a round with other images."""
    if storage.is_remote(own.out):
        raise InputError(f"--out {own.out}: give a folder of this machine")
    folder = storage.local_path(own.out)
    names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    others = [name for name in names if name not in _OURS and not name.startswith(".")]
    if others:
        raise InputError(
            f"--out {own.out}: not empty and not of a second round (it holds {list_some(others, 3)}); choose another "
            "folder"
        )
    record = Record.load(own.out)
    if record is not None and record.unlabelled != told_url(storage.full_path(own.unlabelled)):
        raise InputError(
            f"--out {own.out}: was started with --unlabelled {record.unlabelled}; give that again, or choose another "
            "folder"
        )


@dataclass(frozen=True)
class _Recipe:
    """What a checkpoint says of its training, as far as it is taken over."""

    preset: str
    model: ModelConfig


def recipe_words(header: Mapping[str, Any], given: Collection[str]) -> tuple[str, ...]:
    """The preset and the network of a checkpoint's training, as options; none where it does not say.

    The preset, not all that it came to: there are more images now, and `auto` derives lengths and draws from them. The
    network, for another one would gain or lose by itself.

    Args:
        header: of the checkpoint; of an ensemble, whose members are alike, the first one tells.
        given: options that are given otherwise.
    """
    provenance = header["provenance"]
    members = [member["provenance"] for member in provenance.get("members", ())]
    told = (one.get("config") for one in (provenance, *members))
    config: dict[str, Any] = next((values for values in told if isinstance(values, dict)), {})
    try:
        recipe = from_dict(_Recipe, {name: config.get(name) for name in ("preset", "model")})
    except InputError:
        return ()
    if recipe.preset not in (AUTO, *PRESETS):
        return ()
    words = ["--preset", recipe.preset]
    taken = {*given, *(["--model.weights"] if "--init-from" in given else [])}
    for name, value in to_dict(recipe.model).items():
        option = f"--model.{name.replace('_', '-')}"
        if option not in taken:
            words += [option, *map(str, value if isinstance(value, list) else [value])]
    return tuple(words)


def _knows_folds(header: Mapping[str, Any], manifest: Manifest) -> bool:
    """Whether the folds that a checkpoint names are those of these shards."""
    return header["provenance"].get("data_digest") in data_digests(manifest)


def _held_out(header: Mapping[str, Any], reader: ShardReader, role: str) -> list[int]:
    """The folds of a role, `tuning` or `test`, that a checkpoint's training had and did not train on."""
    used, digests = header["folds"], data_digests(reader.manifest)
    folds = tuning_folds(digests, used, header["provenance"]) if role == "tuning" else set(used.get(role, ()))
    return sorted((folds - set(used.get("train", ()))) & set(folds_of(reader)))


def _fold_words(
    own: argparse.Namespace, header: Mapping[str, Any], reader: ShardReader, given: Collection[str]
) -> tuple[str, ...]:
    """Hold out again what the first training held out, unless other folds are named.

    Raises:
        InputError: no test fold is named, and the checkpoint tells of none.
    """
    known = _knows_folds(header, reader.manifest)
    test = _held_out(header, reader, "test") if known else []
    if "--folds.test" not in given and not test:
        if known:
            tuned = _held_out(header, reader, "tuning")
            raise InputError(
                f"--folds.test: {own.checkpoint} was trained on folds {_listed(header['folds'].get('train', ()))}"
                f"{f' and tuned on {_listed(tuned)}' if tuned else ''} of {own.data} and kept none for a test: nothing "
                "is left to judge by; train it with one held out, as --folds.test 1"
            )
        raise InputError(
            f"--folds.test: {own.checkpoint} was trained on other shards than {own.data}, so that it does not tell "
            "which folds it has not seen; name such"
        )
    validation = sorted({*_held_out(header, reader, "tuning")} - {*test}) if known else []
    defaults = {"--folds.validation": validation, "--folds.test": test}
    return tuple(
        word
        for option, folds in defaults.items()
        if option not in given and folds
        for word in (option, *map(str, folds))
    )


def _check_folds(
    own: argparse.Namespace, header: Mapping[str, Any], reader: ShardReader, arguments: FitArguments
) -> None:
    """See that the test folds can judge, and that all is held out that the first training held out.

    Raises:
        InputError: a fold that is not there, that people have not labelled or that a checkpoint has seen, also one that
            labelled a fold before; or one that the first training held out, and this one would not.
    """
    folds, manifest = arguments.config.folds, reader.manifest
    test = f"--folds.test {_listed(folds.test)}"
    rows_in(reader, folds.test, f"{test}: test")
    validation = f"--folds.validation {_listed(folds.validation)}"
    refuse_pseudo(test, folds.test, manifest)
    refuse_pseudo(validation, folds.validation, manifest)
    starts = {
        "--checkpoint": own.checkpoint,
        "--init-from": arguments.init_from,
        "--distill.teacher": arguments.config.distill.teacher,
    }
    for option, path in starts.items():
        if path:
            _refuse_seen(f"{option} {told_url(path)}:", _seen_by(read_header(path)), folds.test, manifest)
    encoder = None if arguments.init_from else _own_weights(arguments.config.model)
    if encoder is not None:
        name = f"--model.weights {told_url(arguments.config.model.weights)}:"
        _refuse_seen(name, _seen_by(encoder), folds.test, manifest)
    for fold, seen in labelled_by(manifest).items():
        _refuse_seen(f"--data {own.data}: the checkpoint that labelled fold {fold}", seen, folds.test, manifest)
    held = {fold for role in ("tuning", "test") for fold in _held_out(header, reader, role)}
    lost = held - {*folds.validation, *folds.test}
    if lost and _knows_folds(header, manifest):
        raise InputError(
            f"{validation} {test}: the first training held out fold {_listed(lost)}, "
            "which would now be trained on; hold it out again"
        )


def _own_weights(model: ModelConfig) -> dict[str, Any] | None:
    """The header of the checkpoint that the second training has its encoder's weights from; None where they are
    others'."""
    try:
        return own_header(model.weights, model.encoder)
    except InputError:  # not to be had: the training says so, or has begun and does not ask for it again
        return None


def _seen_by(header: Mapping[str, Any]) -> tuple[SeenFolds, ...]:
    return seen_folds(header["folds"], header["provenance"])


def _refuse_seen(name: str, seen: Sequence[SeenFolds], test: Sequence[int], manifest: Manifest) -> None:
    """Raises InputError, which begins with `name`, where a checkpoint was trained or tuned on any of the test folds."""
    roles = {fold: role_in([fold], data_digests(manifest), seen) for fold in test}
    for role, did in {"train": "trained", "tuning": "tuned"}.items():
        judging = [fold for fold in test if roles[fold] == role]
        if judging:
            raise InputError(
                f"{name} was {did} on fold {_listed(judging)}, which is to judge; name folds that it has not seen with "
                "--folds.test"
            )


def _listed(folds: Collection[int]) -> str:
    return " ".join(map(str, sorted(folds)))
