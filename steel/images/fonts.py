"""Fonts that have the letters of a text: Pillow's own, then DejaVu Sans of matplotlib's files, then the system's."""

from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import ImageFont


def load_font(size: int, text: str = "") -> Any:
    """Pillow's own font, so many pixels high; for a text with letters beyond ASCII, which it lacks, that of `font_file`
    in the same height, where there is one."""
    path = None if text.isascii() else font_file(text)
    if path is None:
        return _own_font(size)
    return _font_of(path, max(1, round(0.92 * size)))


def font_file(text: str) -> Path | None:
    """A font with the letters of a text: DejaVu Sans has those of most alphabets; of those that the system has, as for
    Chinese, the one with most of the letters is taken. None where matplotlib's files are not there."""
    ours = _dejavu()
    if ours is None:
        return None
    foreign = frozenset(text) - letters_of(ours, text)
    return _file_with(foreign, ours) if foreign else ours


def letters_of(path: Path, text: str) -> frozenset[str]:
    """Those of a text that a font has; none where it cannot be read, or is of fixed sizes."""
    return frozenset(letter for letter in text if ord(letter) in _code_points(path))


@lru_cache
def _file_with(foreign: frozenset[str], first: Path) -> Path:
    """The first of the system's fonts with all these letters and those of ASCII; if none has, the one with the most of
    these and then of those; `first` if none has any."""
    letters = "".join(sorted(foreign))
    best, most = first, (0, len(_ASCII))
    for path in _system_fonts():
        has = len(letters_of(path, letters)), len(letters_of(path, _ASCII))
        if has > most:
            best, most = path, has
        if most == (len(foreign), len(_ASCII)):
            break
    return best


_ASCII = "".join(map(chr, range(0x20, 0x7F)))


@lru_cache
def _code_points(path: Path) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font  # here, as the import takes a while

    with suppress(OSError, RuntimeError):
        font = FT2Font(str(path))
        if font.scalable:
            return frozenset(font.get_charmap())
    return frozenset()


@lru_cache
def _system_fonts() -> tuple[Path, ...]:
    """Files, bold and slanted ones last."""
    from matplotlib.font_manager import findSystemFonts

    paths = map(Path, findSystemFonts())
    return tuple(sorted(paths, key=lambda path: (any(kind in path.stem for kind in _STYLES), path.stem)))


_STYLES = ("Bold", "Black", "Heavy", "Light", "Thin", "Italic", "Oblique")
"""What files of fonts are called that are not of the regular kind."""


@lru_cache
def _own_font(size: int) -> Any:
    return ImageFont.load_default(size)


@lru_cache
def _font_of(path: Path, size: int) -> Any:
    return ImageFont.truetype(path, size)


@lru_cache
def _dejavu() -> Path | None:
    spec = find_spec("matplotlib")  # without the import
    folders = (spec and spec.submodule_search_locations) or ()
    files = [Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf") for folder in folders]
    return next(filter(Path.is_file, files), None)
