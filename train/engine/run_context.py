"""What never changes during a run."""

from dataclasses import dataclass

from steel.config import Config
from steel.distributed.runtime import Runtime
from steel.shards.reader import ShardReader
from train.engine.batch_plan import PhasePlan
from train.engine.data import FoldRows
from train.engine.weight_initialisation import FirstWeights
from train.live_line import LiveLine


@dataclass(frozen=True)
class RunContext:
    """The surroundings of a run; whoever needs to know where it stands is given a `LoopState` besides."""

    runtime: Runtime
    config: Config
    reader: ShardReader
    """Of the shards."""
    rows: FoldRows
    """Which of its rows are trained on, validated on and left for the test."""
    plans: tuple[PhasePlan, ...]
    """One for each phase, in order."""
    first_weights: FirstWeights
    """What the network started from, and the inputs it expects."""
    live: LiveLine
    """Where rank 0 says what is under way."""
