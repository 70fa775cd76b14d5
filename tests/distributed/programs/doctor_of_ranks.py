"""The doctor where one machine does not see the shards: doctor_of_ranks.py SHARDS OUT, and the last rank's are gone."""

import sys

from steel.distributed.runtime import launcher_rank
from train.doctor.__main__ import main

shards, out = sys.argv[1:]
sys.exit(main(["--data", shards if launcher_rank() == 0 else f"{shards}-gone", "--out", out, "--workers", "0"]))
