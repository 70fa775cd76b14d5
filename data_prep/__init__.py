"""The sharding job: plan -> write -> finish, then `python -m data_prep.verify`."""
