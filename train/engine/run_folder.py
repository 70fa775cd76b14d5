"""The run folder: who may use it, what it was made with, and how the run ended.

status.json    running, interrupted, finished or failed, with the reason
config.json    the resolved configuration, the data set's identity, and `--budget` as given
first_weights.json  what the network started from, and the inputs it expects
.lock          held by the live run
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from steel.config import Config, recipe_of
from steel.distributed.runtime import Runtime
from steel.errors import InputError
from steel.plain import from_dict, parse_json, to_dict
from steel.storage import remove_leftovers, write_bytes
from steel.tracking.queue import Status
from train.engine.weight_initialisation import FirstWeights

logger = logging.getLogger("train.fit")

_FIRST_WEIGHTS = "first_weights.json"
_CLAIM_S = 5.0
"""How long a held folder is waited for: processes of a run just killed need a moment to go."""


@dataclass(frozen=True)
class _StatusFile:
    """What status.json says."""

    state: Literal["running", Status]
    reason: str
    attempt: int
    pid: int
    host: str
    time: str

    def __post_init__(self) -> None:
        if not 0 <= self.attempt < 1 << 53:
            raise InputError(f"attempt {self.attempt}")


@dataclass(frozen=True)
class _ConfigFile:
    """What config.json says: what the run was started with."""

    config: dict[str, Any]
    data_digest: str
    budget: str | None = None
    """What `--budget` said at the first start, nothing where it was not given; None where an earlier version began."""


LEFTOVER_S = 600.0
"""An unfinished file is left over when nothing was written to it for so long: others write into a run folder, too."""


def member_folder(root: str | Path, fold: object) -> Path:
    """Where a cross-validation in `root` trains the member that is validated on `fold`."""
    return Path(root) / f"fold-{fold}"


def members_of(root: Path) -> dict[int, Path]:
    """The folders of a cross-validation's members in `root`, by their folds, in that order."""
    start = member_folder("", "").name
    folds = {path.name.removeprefix(start): path for path in root.glob(f"{start}*")}
    return {int(fold): folds[fold] for fold in sorted(filter(str.isdecimal, folds), key=int)}


def has_members(root: Path) -> bool:
    """Whether a cross-validation has begun to train members in `root`."""
    return any(RunFolder(folder).is_run for folder in members_of(root).values())


class RunFolderError(InputError):
    """A run folder that cannot be taken; what is said names it as `--out`, which is how a user has given it."""

    def __init__(self, root: Path, wrong: str) -> None:
        super().__init__(f"--out {root}: {wrong}")
        self.root, self.wrong = root, wrong


class RunFolder:
    """A run folder. Rank 0 holds and writes it; the other ranks derive paths from it, and may say that they failed."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.states = self.root / "states"
        self.top_checkpoints = self.root / "top_checkpoints"
        self.checkpoint = self.root / "model.safetensors"
        self.last_checkpoint = self.root / "last.safetensors"
        self.history = self.root / "history.jsonl"
        self.curves = self.root / "curves.png"
        self.report = self.root / "report.txt"
        self.model_card = self.root / "model_card.md"
        self.statistics = self.root / "validation_statistics.npz"
        self._is_claimed = False
        """Rank 0 has opened the folder for this attempt, and this rank knows it."""
        self._lock: IO[bytes] | None = None

    def claim(
        self, runtime: Runtime, config: Config, data_digest: str, resume: Literal["auto", "never"], budget: str = ""
    ) -> bool:
        """`open` it on rank 0, for all ranks; to be called by all."""
        self._is_claimed = runtime.on_main(lambda: self.open(config, data_digest, resume, budget))
        return self._is_claimed

    def open(self, config: Config, data_digest: str, resume: Literal["auto", "never"], budget: str = "") -> bool:
        """Take the folder for a run of `config` on the data set `data_digest`, on rank 0, whose length `--budget` has
        said as `budget`, if it is given.

        Returns:
            False when an earlier run has already finished it, and there is nothing to do.

        Raises:
            InputError: not writable; in use by a live run; holding states of another configuration, data set or budget;
                or not empty although `resume` is `never`. Nothing is changed then.
        """
        self._refuse_foreign()  # before anything of ours is there, such as the lock
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._take_lock()
        except OSError as error:
            raise self._unwritable(error) from error
        self.check(config, data_digest, resume, budget)
        if self._is_finished:
            return False
        attempt = int((self.status() or {}).get("attempt", 0)) + 1
        try:
            for place in (self.root, self.top_checkpoints):  # states look after their own
                remove_leftovers(place, older_than_s=LEFTOVER_S)
            self.keep_config(config, data_digest, self.budget_at_start(budget))
            self._write("status.json", self._describe("running", "", attempt))
        except OSError as error:
            raise self._unwritable(error) from error
        return True

    def check(self, config: Config, data_digest: str, resume: Literal["auto", "never"], budget: str = "") -> None:
        """See, by reading alone, that a run of `config` on the data set `data_digest` may begin or go on here.

        Raises:
            InputError: the folder holds states of another configuration, data set or budget, something else than a
                run, or anything although `resume` is `never`.
        """
        self._refuse_foreign()
        if self._read_config() is None:
            return
        if resume == "never":
            raise RunFolderError(
                self.root,
                "holds a run already and --resume never was given; without that it goes on, or "
                "begins anew where it has saved no state; or choose another folder",
            )
        self.check_same(config, data_digest, budget)

    def _refuse_foreign(self) -> None:
        """Raises InputError where there is a file, or a folder with something else in it than a run."""
        if self.root.exists() and not self.root.is_dir():
            raise RunFolderError(self.root, "a file, not a folder; choose another name")
        others = [p.name for p in self.root.glob("*") if not p.name.startswith(".")]
        if others and self._read_config() is None:
            raise RunFolderError(
                self.root, f"not empty and not a run folder (it holds {others[0]}); choose another folder"
            )

    def check_same(self, config: Config, data_digest: str, budget: str = "") -> None:
        """See that the run that has begun here is of `config`, `data_digest` and `budget`; where none has, a run begins
        anew, as it is asked now.

        Raises:
            InputError: it is of others.
        """
        former = self._read_config()
        if former is not None and self.begun_config() is not None:
            self._refuse_other(former, config, data_digest, budget)

    def check_data(self, data_digest: str) -> None:
        """See that the run that has begun here, if one has, is of the data set `data_digest`.

        Raises:
            InputError: it is of another.
        """
        former = self._read_config()
        if former is not None and self.begun_config() is not None:
            self._refuse_other_data(former, data_digest)

    def keep_config(self, config: Config, data_digest: str, budget: str | None) -> None:
        """Write down what is run on which data set, and what `--budget` said when the run began."""
        self._write("config.json", to_dict(_ConfigFile(config.told(), data_digest, budget)))

    def budget_at_start(self, budget: str) -> str | None:
        """What `--budget` said of the run that goes on here; `budget` where one begins."""
        former = self._read_config()
        return budget if former is None or self.begun_config() is None else former["budget"]

    def _unwritable(self, error: OSError) -> InputError:
        return RunFolderError(
            self.root, f"cannot be written ({error.strerror}); free space, mend it or choose another folder"
        )

    def release(self) -> None:
        """Give up the hold on the folder, as the end of the process does."""
        if self._lock is not None:
            self._lock.close()

    def _take_lock(self) -> None:
        self._lock = open(self.root / ".lock", "wb")  # noqa: SIM115 - held until the process ends
        deadline = time.monotonic() + _CLAIM_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    owner = self.status() or {}
                    raise RunFolderError(
                        self.root,
                        f"in use by a live run (pid {owner.get('pid')} on {owner.get('host')}); "
                        "stop it first or choose another folder",
                    ) from error
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                logger.warning("--out %s: its file system has no locks; start no second run in it", self.root)
                return
            time.sleep(0.1)

    def _refuse_other_data(self, former: dict[str, Any], data_digest: str) -> None:
        if former["data_digest"] != data_digest:
            raise RunFolderError(
                self.root,
                "was started on another data set, or the shards have changed; give the shards that it was started on, "
                "or choose another folder",
            )

    def _refuse_other(self, former: dict[str, Any], config: Config, data_digest: str, budget: str) -> None:
        self._refuse_other_data(former, data_digest)
        length = former["budget"]
        if budget and length is not None and budget != length:
            began = f"with --budget {length}" if length else "without --budget"
            if self._is_finished:
                wrong = f"is finished, {began}; choose another --out for a run with --budget {budget}"
            else:
                wrong = f"was started {began}, now --budget {budget}; leave it out to go on, or choose another folder"
            raise RunFolderError(self.root, wrong)
        differing = _differences(_by_content(recipe_of(former["config"])), _by_content(config.recipe()))
        if differing:
            raise RunFolderError(
                self.root,
                f"was started with another configuration ({'; '.join(differing[:3])}); "
                "choose another folder, or repeat the options of the first start",
            )

    def begun_config(self) -> dict[str, Any] | None:
        """The configuration of the run that has left states here, or has ended, as plain JSON values; None where there
        is none."""
        former = self._read_config()
        has_begun = self.has_states or self._is_finished
        return dict(former["config"]) if former is not None and has_begun else None

    @property
    def _is_finished(self) -> bool:
        return (self.status() or {}).get("state") == "finished"

    @property
    def has_states(self) -> bool:
        """Whether a state has been saved here, with which the run goes on as it began."""
        return self.states.is_dir() and any(not path.name.startswith(".") for path in self.states.iterdir())

    def keep_first_weights(self, first: FirstWeights) -> None:
        """Write down what the network starts from, for attempts that resume."""
        self._write(_FIRST_WEIGHTS, to_dict(first))

    def first_weights(self) -> FirstWeights:
        """What `keep_first_weights` wrote.

        Raises:
            InputError: there is none, or it is damaged.
        """
        values = self._read(_FIRST_WEIGHTS, FirstWeights, {"learned_from": []})
        if values is None:
            raise RunFolderError(self.root, f"holds states, but no {_FIRST_WEIGHTS}; choose another folder")
        return from_dict(FirstWeights, values)

    def status(self) -> dict[str, Any] | None:
        """What status.json says; None when there is none."""
        return self._read("status.json", _StatusFile)

    @property
    def is_run(self) -> bool:
        """Whether a training has begun here, going by the names of its files alone."""
        return all((self.root / name).is_file() for name in ("config.json", "status.json"))

    @property
    def attempt(self) -> int:
        """How many times the run has been started, this time included."""
        return int((self.status() or {}).get("attempt", 1))

    def record_failure(self, reason: str) -> None:
        """Record, on any rank, why the attempt has failed; nothing happens where the folder is not this attempt's."""
        if self._is_claimed:
            self.end("failed", reason)

    def end(self, state: Status, reason: str = "") -> None:
        """Record how the attempt ended. The first failure recorded stands: later ones are usually its consequences.

        Where even that cannot be written, as on a full disk, a failure is what the process says and nothing more.
        """
        status = self.status() or {}
        if state == "failed" and status.get("state") == "failed":
            return
        description = self._describe(state, reason, int(status.get("attempt", 1)))
        try:
            self._write("status.json", description)
        except OSError:
            if state != "failed":
                raise
            with contextlib.suppress(OSError):
                self._overwrite("status.json", description)

    def _describe(self, state: Literal["running", Status], reason: str, attempt: int) -> dict[str, Any]:
        return {
            "state": state,
            "reason": reason,
            "attempt": attempt,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }

    def _read_config(self) -> dict[str, Any] | None:
        return self._read("config.json", _ConfigFile, {"budget": None})

    def _read(self, name: str, kind: type, younger: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """The values of a file that must be those of the dataclass `kind`; None when there is no file.

        Args:
            name: of the file.
            kind: of the values.
            younger: those that files of earlier versions lack, as these mean them.
        """
        try:
            values = parse_json((self.root / name).read_bytes())
            if younger is not None and isinstance(values, dict):
                values = {**younger, **values}
            from_dict(kind, values)
            return values
        except (FileNotFoundError, NotADirectoryError):  # `open` says what is in the folder's place
            return None
        except (OSError, InputError) as error:
            raise InputError(f"{self.root / name}: cannot be read ({error}); choose another --out") from error

    def _write(self, name: str, value: dict[str, Any]) -> None:
        write_bytes(self.root / name, (json.dumps(value, indent=1) + "\n").encode())

    def _overwrite(self, name: str, value: dict[str, Any]) -> None:
        """Write in place, padded with blanks to the old length: that takes no new block of a full disk."""
        with (self.root / name).open("r+b") as file:
            old_size = file.seek(0, os.SEEK_END)
            file.seek(0)
            file.write((json.dumps(value) + "\n").encode().rjust(old_size))


def _by_content(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe without the words on how it was derived, its teacher told by what the file holds, wherever it lies, and
    its encoder's weights by their kind: a run that goes on has its own, and does not ask where the file is now."""
    recipe = {name: value for name, value in recipe.items() if name != "reasons"}
    model = recipe.get("model")
    if isinstance(model, dict) and model.get("weights") not in ("hub", "none"):
        recipe["model"] = {**model, "weights": "a file"}
    distill = recipe.get("distill")
    if not isinstance(distill, dict) or not distill.get("identity"):
        return recipe
    return {**recipe, "distill": {"share": distill.get("share"), "teacher": f"checkpoint {distill['identity']:.12}"}}


def _differences(former: Any, now: Any, path: str = "") -> list[str]:
    """`path: former -> now` for each leaf that differs between two plain JSON values."""
    if isinstance(former, dict) and isinstance(now, dict):
        names = sorted(former.keys() | now.keys())
        return [line for n in names for line in _differences(former.get(n), now.get(n), f"{path}.{n}".lstrip("."))]
    if isinstance(former, list) and isinstance(now, list) and len(former) == len(now):
        return [
            line for i, (f, n) in enumerate(zip(former, now, strict=True)) for line in _differences(f, n, f"{path}.{i}")
        ]
    return [] if former == now else [f"{path} was {former}, now {now}"]
