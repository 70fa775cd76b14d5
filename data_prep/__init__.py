"""The sharding job: plan -> write -> manifest, then `python -m data_prep.verify`."""
