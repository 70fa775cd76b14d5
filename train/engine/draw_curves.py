"""`python -m train.engine.draw_curves HISTORY PNG STAGING`: a run's curves as its history stands; for `train.fit`."""

import os
import sys

from steel.errors import InputError
from steel.extensions import load_extensions
from steel.reports.plots import plot_history
from steel.tracking.history import History

_NICENESS = 10
"""It is run beside training, which must not feel it."""


def main(history: str, curves: str, staging: str) -> None:
    """Draw the records of `history`, a `history.jsonl`, into the PNG `curves`; what is not yet whole lies in the
    folder `staging`."""
    os.nice(_NICENESS)
    load_extensions()  # their metrics have curves
    plot_history(History(history).records(), curves, staging)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (OSError, InputError) as error:
        sys.exit(str(error))
