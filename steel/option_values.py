"""The values of options: what argparse calls for each, and what it says where there is none of the kind."""

import argparse
import math


def number(text: str) -> float:
    """The value of an option that takes a number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return value


def numbers(text: str) -> tuple[float, ...]:
    """The value of an option that takes `1,2,3`."""
    return tuple(number(part) for part in text.split(","))


def whole(text: str) -> int:
    """The value of an option that takes a whole number."""
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from error


def positive(text: str) -> int:
    """The value of an option that takes a number of at least 1."""
    value = whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def seed(text: str) -> int:
    """The value of an option that takes a seed, of those that every program takes."""
    value = whole(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 2**63)")
    return value


def milliseconds(text: str) -> float:
    """The value of an option that takes a time of up to ten seconds."""
    value = number(text)
    if not 0 <= value <= 10_000:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 10000")
    return value


def fold_numbers(text: str) -> tuple[int, ...]:
    """The value of an option that takes folds, as `0,2`."""
    return tuple(sorted({whole(part) for part in text.split(",")}))
