"""The page at `/`: drop an image, see verdict, classes and masks."""

import json
from importlib.resources import files

from steel.images.class_colours import CLASS_COLOURS

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Its content security policy: nothing from elsewhere."""


def make_page() -> str:
    """The page, whole: it asks for `info` and `predict` beside it, and for nothing else."""
    colours = json.dumps([f"rgb({red} {green} {blue})" for red, green, blue in CLASS_COLOURS])
    return files(__package__).joinpath("page.html").read_text("utf-8").replace("@COLOURS@", colours)
