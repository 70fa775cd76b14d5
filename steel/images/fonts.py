"""Fonts that have the letters of a text: Pillow's own, then DejaVu Sans of matplotlib's files, then the system's."""

from collections.abc import Iterator
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
    return None if ours is None else _file_with(frozenset(text), ours)


@lru_cache(maxsize=4)
def letters_of(path: Path) -> frozenset[str]:
    """Those that a font has; none where it cannot be read, or is of fixed sizes."""
    from matplotlib.ft2font import FT2Font  # here, as the import takes a while

    with suppress(OSError, RuntimeError):
        font = FT2Font(str(path))
        if font.scalable:
            return frozenset(map(chr, font.get_charmap()))
    return frozenset()


@lru_cache
def _file_with(letters: frozenset[str], first: Path) -> Path:
    """The first font, `first` before the system's, that has all these letters; if none has, the one with the most."""
    best, most = first, -1
    for path in _fonts(first):
        has = len(letters & letters_of(path))
        if has > most:
            best, most = path, has
        if most == len(letters):
            break
    return best


def _fonts(first: Path) -> Iterator[Path]:
    """`first`, then the system's, bold and slanted ones last; these are looked for when they are asked for."""
    yield first
    from matplotlib.font_manager import findSystemFonts

    paths = map(Path, findSystemFonts())
    yield from sorted(paths, key=lambda path: (any(kind in path.stem for kind in _STYLES), path.stem))


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
