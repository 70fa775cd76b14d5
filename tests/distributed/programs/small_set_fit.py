"""`train.fit` whose recipe for a small set depends on the length as a larger set's does: small_set_fit.py ARGUMENT...

`--preset auto` gives 27 images batches of 64, as the first phase has 10 steps; with 8 passes batches of 16, with fewer
of 8. A time is fitted to these 8 passes, or to 1.
"""

import sys

from steel.errors import run_program
from train import auto_recipe, fit_to_time
from train.fit import main

if __name__ == "__main__":
    auto_recipe._LEAST_STEPS = 10
    fit_to_time.PASSES = (1.0, 8.0)
    sys.exit(run_program(lambda: main(sys.argv[1:])))
