"""Looks at a training run from outside while it works: its run folder and its processes."""

import json
from pathlib import Path

from steel.tracking.history import History


def steps_done(run: Path) -> int:
    """Training steps that the run's history has; 0 before it begins."""
    return sum(record["kind"] == "train" for record in History(run / "history.jsonl").records())


def status(run: Path) -> dict:
    """What status.json says; empty before there is one."""
    path = run / "status.json"
    return json.loads(path.read_text()) if path.exists() else {}


def losses(run: Path) -> list[tuple]:
    """Where and what the losses were, in the order of training."""
    return [(r["phase"], r["step"], r.get("loss")) for r in History(run / "history.jsonl").records()]


def ranks_of(run: Path) -> list[int]:
    """Process ids of the ranks that work on a run folder, without their launchers and data-loader workers."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):  # it has just ended
            continue
        if b"train.fit" in words and str(run).encode() in words:
            parents[int(folder.name)] = (words, parent)
    launchers = (b"srun", b"torch.distributed.run", b"accelerate.commands.launch")
    ranks = {pid for pid, (words, _) in parents.items() if not any(word in launchers for word in words)}
    return sorted(pid for pid in ranks if parents[pid][1] not in ranks)
