"""WebP files: whether they are one image."""

import struct

_FIRST_CHUNK = 12
_ANIMATED = 2
"""Of the flags in the first byte of an extended file's header."""


def check_webp(data: bytes) -> None:
    """Refuse an animation, of which a decoder gives the first frame and no word of the others.

    Raises:
        ValueError: several frames.
    """
    frames = _count_frames(data)
    if frames > 1:
        raise ValueError(f"an animated WebP of {frames} frames; save each frame as a file of its own")


def _count_frames(data: bytes) -> int:
    """Frames of an animation, as far as the file goes; 0 of an image."""
    try:
        end = min(len(data), 8 + struct.unpack_from("<I", data, 4)[0])
        name, _, flags = struct.unpack_from("<4sIB", data, _FIRST_CHUNK)
    except struct.error:  # cut short, as the decoder will say
        return 0
    if name != b"VP8X" or not flags & _ANIMATED:
        return 0
    frames, at = 0, _FIRST_CHUNK
    while at + 8 <= end:
        name, length = struct.unpack_from("<4sI", data, at)
        frames += name == b"ANMF"
        at += 8 + length + length % 2
    return frames
