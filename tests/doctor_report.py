"""What a doctor's report complains of."""

import re


def complaints(report: str) -> list[str]:
    """The lines that warn or refuse, but for the disk's: other tests keep that busy."""
    return [line for line in report.splitlines() if re.match(r"x |! (?!disk )", line)]
