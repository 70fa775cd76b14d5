"""The sections of an evaluation's report: each a function of the numbers that it shows."""
