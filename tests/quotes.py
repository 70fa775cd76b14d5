"""Sentences of documents whose figures come from a table, held to it.

Where a document no longer says such a sentence, or says a new one, the test's `QUOTES` are what to edit: the sentence
with `{}` for each figure, and how each follows from the table.
"""

import re
from typing import NamedTuple

import pytest

from tests.paths import ROOT


class Quote(NamedTuple):
    """A sentence with figures, or a part of one."""

    document: str
    words: str
    """With `{}` for each figure, or `{:.1f}`; else two digits."""
    figures: tuple[float, ...]


def check(quote: Quote) -> None:
    """Fail where the document does not say it, with what it is to say."""
    words = quote.words.replace("{}", "{:.2f}")
    said, expected = " ".join((ROOT / quote.document).read_text().split()), words.format(*quote.figures)
    if expected in said:
        return
    pattern = re.sub(r"\\\{:(?:\\\+)?\\\.\df\\\}", r"[-+]?\\d[\\d.]*", re.escape(words))
    if found := re.search(pattern, said):
        pytest.fail(f"{quote.document} says:\n  {found[0]}\nby its table it is to say:\n  {expected}")
    pytest.fail(
        f"{quote.document} has no such sentence; write it, or edit QUOTES in this test where other words say it:\n"
        f"  {expected}"
    )
