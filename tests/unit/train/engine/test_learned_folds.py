"""What a run begins with or is taught by may have seen the folds that judge it."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from steel import storage
from steel.checkpoint import load_checkpoint, save_checkpoint
from steel.config import Config, DistillConfig, FoldsConfig, ModelConfig
from steel.model.network import UnifiedModel
from steel.plain import from_dict, to_dict
from steel.pretrained.stem import Normalisation
from steel.shards.format import Manifest
from steel.shards.split_roles import LearnedFrom, SeenFolds, role_of
from tests.numerics.one_step import config_of
from tests.numerics.quick import quicken
from tests.random_members import make_member
from tests.shard_folder import small_shards
from train.engine.learned_folds import find_learned_from
from train.engine.run_folder import RunFolder
from train.engine.weight_initialisation import FirstWeights, find_first_weights
from train.fit import main


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    return Manifest.load(str(small_shards(tmp_path / "shards")))


def save(path: Path, digest: str) -> str:
    """A checkpoint that was trained on fold 0 and chosen on fold 1."""
    save_checkpoint(path, make_member(1, folds={"train": [0], "tuning": [1]}, provenance={"data_digest": digest}))
    return str(path)


def begin(option: str, path: str, data: Manifest) -> FirstWeights:
    """With the checkpoint at `path`, named by an option."""
    model = UnifiedModel(make_member(2).network)
    if option == "--init-from":
        return find_first_weights(model, ModelConfig(weights="none"), path, data)
    return find_first_weights(model, ModelConfig(weights=path), None, data)


def config(folds: FoldsConfig, teacher: str = "") -> Config:
    return replace(config_of(), folds=folds, distill=DistillConfig(teacher, 0.3) if teacher else DistillConfig())


@pytest.mark.parametrize("option", ["--init-from", "--model.weights"])
@pytest.mark.parametrize(
    ("folds", "told"),
    [
        (FoldsConfig((0,), (1,)), ["trained on validation", "tuned on test"]),
        (FoldsConfig((1,), (0,)), ["trained on test"]),
        (FoldsConfig((1,), (2,)), []),
    ],
)
def test_a_start_that_has_seen_what_judges_is_told_of(
    option: str, folds: FoldsConfig, told: list[str], data: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(tmp_path / "start.safetensors", data.digest)
    start = (LearnedFrom(path, (SeenFolds(data.digest, (0,), (1,)),)),)
    assert begin(option, path, data).learned_from == start
    caplog.clear()
    assert find_learned_from(config(folds), start, option, data) == start
    assert caplog.messages == [
        f"WARNING: {option} {path} was {what} folds of this run, whose scores it flatters" for what in told
    ]


@pytest.mark.parametrize("option", ["--init-from", "--model.weights"])
def test_a_start_is_read_once(option: str, data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has seen is of the bytes that were loaded; a second download could fail, or bring another file."""
    path, read = save(tmp_path / "start.safetensors", data.digest), list[str]()

    def noting(real: Callable[..., bytes], path: str, *place: int) -> bytes:
        read.append(path)
        return real(path, *place)

    for name in ("read_bytes", "read_range"):
        monkeypatch.setattr(storage, name, functools.partial(noting, getattr(storage, name)))
    first = begin(option, path, data)
    find_learned_from(config(FoldsConfig((0,), (1,))), first.learned_from, option, data)
    assert read == [path]


def test_a_start_of_other_shards_has_seen_nothing_of_these(
    data: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Yet it is written down: these are not all that the checkpoint will be judged on. So is what the teacher saw."""
    start, teacher = (LearnedFrom("a", (SeenFolds("elsewhere", (0,), (1,)),)),), save(tmp_path / "b", "there")
    found = find_learned_from(config(FoldsConfig((0,), (1,)), teacher), start, "--init-from", data)
    assert [(one.source, one.seen[0].digest) for one in found] == [("a", "elsewhere"), (teacher, "there")]
    assert not caplog.messages
    assert find_learned_from(config(FoldsConfig((0,), (1,))), (), "--model.weights", data) == ()


def test_what_labelled_a_fold_is_told_of_and_remembered_as_a_start_is(
    data: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    """A round of shards of before it was kept has seen nothing that is known."""
    seen = SeenFolds(data.digest, (0,), (1,))
    rounds = [{"fold": 3}, {"fold": 4, "data_digest": data.digest, "seen": [to_dict(seen)]}]
    second = replace(data, options={**data.options, "pseudo_labels": rounds})
    labellers = (LearnedFrom("pseudo-labels of fold 3", ()), LearnedFrom("pseudo-labels of fold 4", (seen,)))
    start = (LearnedFrom("a", ()),)
    assert find_learned_from(config(FoldsConfig((0,), (1,))), start, "--init-from", second) == (*start, *labellers)
    assert caplog.messages == [
        f"WARNING: the checkpoint that labelled fold 4 was {what} folds of this run, whose scores it flatters"
        for what in ("trained on validation", "tuned on test")
    ]


def test_a_run_that_goes_on_knows_what_it_learned_from(tmp_path: Path) -> None:
    """Of an earlier version, which did not ask, nothing is known."""
    folder, inputs = RunFolder(tmp_path), Normalisation((0.5,), (0.2,))
    first = FirstWeights(None, inputs, (LearnedFrom("a", (SeenFolds("d", (0, 2), ()),)),))
    folder.keep_first_weights(first)
    assert folder.first_weights() == first == from_dict(FirstWeights, to_dict(first))
    older = (tmp_path / "first_weights.json").read_text().partition(',\n "learned_from"')[0] + "}"
    (tmp_path / "first_weights.json").write_text(older)
    assert folder.first_weights() == FirstWeights(None, inputs)


@pytest.mark.usefixtures("fresh_accelerate")
def test_what_was_learned_from_a_fold_is_no_test_on_it(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quicken(monkeypatch)
    digest = Manifest.load(str(tiny_shards)).digest

    def fit(out: Path, *options: str) -> str:
        shape = "--preset smoke --tracking.tracker none --runtime.workers 0 --runtime.precision no"
        assert main([*shape.split(), "--data", str(tiny_shards), "--out", str(out), *options]) == 0
        return str(out / "model.safetensors")

    def role(path: str, fold: int) -> str:
        made = load_checkpoint(path)
        return role_of([fold], [digest], made.folds, made.provenance)

    first = fit(tmp_path / "first", "--folds.validation", "0", "--folds.test", "2")
    assert role(first, 2) == "test"
    second = fit(tmp_path / "second", "--folds.validation", "2", "--folds.test", "1", "--init-from", first)
    assert f"--init-from {first} was trained on test folds of this run" in "".join(capsys.readouterr())
    assert (role(second, 1), role(second, 2)) == ("train", "tuning")
    RunFolder(tmp_path / "second").end("interrupted")
    again = fit(tmp_path / "second", "--folds.validation", "2", "--folds.test", "1", "--init-from", "gone")
    assert role(again, 1) == "train"
