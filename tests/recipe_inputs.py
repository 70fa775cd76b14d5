"""What recipes of tests are made for: two sets and two machines."""

from dataclasses import replace
from typing import Any

from train.recipe_facts import DataFacts, MachineClass

LARGE = MachineClass("gpu", 80)
SMALL = MachineClass("cpu", 8)
STRIPS = DataFacts(12_568, 5902, ("1", "2", "3", "4"), (897, 247, 5150, 801), (256, 1600), (256, 1600))
"""Severstal's set."""
TILES = DataFacts(700, 0, ("a", "b"), (300, 400), (200, 200), (200, 200))


def changed(facts: DataFacts, **values: Any) -> DataFacts:
    return replace(facts, **values)
