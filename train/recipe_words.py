"""How the reasons of `--preset auto` call what training draws, and its sizes."""

from train.recipe_facts import DataFacts


def noun_of(facts: DataFacts) -> str:
    """What training draws, and all that is counted here is of, for reasons."""
    return "image" if facts.whole is None else "stored tile"


def sizes_of(facts: DataFacts) -> str:
    """All that are drawn, with their sizes, for reasons."""
    more = "" if facts.is_one_size else f" at the median, {up_to(facts.largest)}"
    return f"{noun_of(facts)}s of {size_text(facts.size)}{more}"


def typical_of(facts: DataFacts) -> str:
    """What the median size is of: all, or one of several sizes, of which the others need not be alike in shape."""
    return f"{noun_of(facts)}s" if facts.is_one_size else f"the median {noun_of(facts)}"


def is_nearly_square(size: tuple[int, int]) -> bool:
    """By height and width: one is at most a quarter more than the other."""
    return max(size) <= 1.25 * min(size)


def up_to(largest: tuple[int, int]) -> str:
    """The greatest height and width, which no image need have both."""
    return f"up to {largest[0]} high and {largest[1]} wide"


def size_text(size: tuple[int, int]) -> str:
    """`256x1600`, of height and width."""
    return f"{size[0]}x{size[1]}"
