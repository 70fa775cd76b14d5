"""In which form a prediction is sent: by `?format=`, or by what the client accepts."""

import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

from steel.images.pictures import encode_picture
from steel.images.png import encode_png
from steel.inference.prediction import Prediction
from steel.serving.limits import Refusal


class Format(NamedTuple):
    """A form of predictions."""

    media_type: str
    encode: Callable[[Prediction], bytes]


FORMATS: Mapping[str, Format] = {
    "json": Format("application/json", lambda p: json.dumps(p.to_dict(), ensure_ascii=False).encode()),
    "labelmap": Format("image/png", lambda p: encode_png(p.label_map())),
    "overlay": Format("image/jpeg", lambda p: encode_picture(p.overlay(), ".jpg")),
}
"""By the values of `?format=`; the first of them where a client takes any."""


def choose_format(asked: str | None, accept: str) -> Format:
    """The form that a request wants.

    Args:
        asked: the value of `?format=`; it overrules the header.
        accept: the header; empty for anything.

    Raises:
        Refusal: neither is known.
    """
    if asked is not None:
        if asked not in FORMATS:
            raise Refusal(400, f"format {asked[:40]!r} is not known; choose from {', '.join(FORMATS)}")
        return FORMATS[asked]
    quality = {form.media_type: _quality(form.media_type, accept or "*/*") for form in FORMATS.values()}
    best = max(FORMATS.values(), key=lambda form: quality[form.media_type])  # the first of equals
    if not quality[best.media_type]:
        raise Refusal(406, f"nothing to be had that is accepted: {', '.join(quality)}")
    return best


def _quality(media_type: str, accept: str) -> float:
    """How much a media type is wanted, 0 to 1; the most specific range decides (RFC 9110, 12.5.1)."""
    ranges = {"*/*": 0, f"{media_type.partition('/')[0]}/*": 1, media_type: 2}
    found = (-1, 0.0)
    for part in accept.lower().split(","):
        name, *parameters = (text.strip() for text in part.split(";"))
        weight = next((text[2:] for text in parameters if text.startswith("q=")), "1")
        if name in ranges:
            try:
                found = max(found, (ranges[name], min(1.0, max(0.0, float(weight)))))
            except ValueError:
                raise Refusal(400, f"the Accept header's q={weight[:20]!r} is not a number") from None
    return found[1]
