"""Training and what follows it: `python -m train`, and the programs that clusters start by name."""

from steel.startup import program_ends_at_once

program_ends_at_once()
