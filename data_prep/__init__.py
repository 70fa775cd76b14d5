"""The sharding job: plan -> write -> manifest, then `python -m data_prep.verify`."""

from steel.startup import program_ends_at_once

program_ends_at_once()
