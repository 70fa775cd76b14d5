"""What to do where memory has run out in training."""

from collections.abc import Mapping

from steel.config import PhaseConfig


def less_memory(phases: Mapping[int, PhaseConfig], *, has_begun: bool) -> str:
    """A way out, in words.

    Args:
        phases: those that may have been at work, by their numbers.
        has_begun: the run has saved a state; it then goes on with no other micro-batch or crop.
    """
    options = [
        f"phases.{number}.micro-batch (at the same batch size)" if phase.micro_batch > 2 else f"phases.{number}.crop"
        for number, phase in phases.items()
    ]
    smaller = f"a smaller {' or '.join(options)}"
    if has_begun:
        return (
            "a run that has saved a state keeps its recipe: go on where there is more memory, or begin anew with "
            f"another --out and {smaller}"
        )
    return f"{smaller} needs less"
