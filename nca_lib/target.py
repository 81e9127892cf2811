"""Targets: the picture that a pattern should grow into (chapter 1).

A target is a float32 array `(H, W, 4)` of red, green, blue and alpha in [0, 1]: an emoji or
any image, resampled to `size` cells a side and surrounded by `padding` empty cells.

The bundled emoji are drawn from the font Noto Color Emoji (SIL Open Font License 1.1; see
`data/emoji/manifest.json`). All others are downloaded once from Noto's public repository.
"""

import contextlib
import io
import json
import os
import re
import unicodedata
import warnings
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pooch
from PIL import Image, ImageOps

from nca_lib.model import check, check_int

DATA = Path(__file__).parent / "data" / "emoji"
# A tag, not a branch: the same emoji is the same picture next year.
NOTO_VERSION = "v2.047"
NOTO_URL = f"https://raw.githubusercontent.com/googlefonts/noto-emoji/{NOTO_VERSION}/"
TIMEOUT = 10.0  # seconds without a sign of life
MAX_SIZE, MAX_PADDING = 512, 256  # cells
# What an image may be. Pillow reads some fifty formats more, one of them by starting a program.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")
# Pixels that Pillow makes 8 bits of: they no longer equal the colour that is to be transparent.
SHIFTED = ("L;2", "L;4", "I;16B", "RGB;16B")
# Bytes, and pixels in a row: what resampling takes grows with the side, whatever the area.
MAX_FILE, MAX_SIDE = 100_000_000, 65_535
# Flags are spelt with letters of their own: of a country, and tags for a part of one.
FLAG = re.compile("([\U0001f1e6-\U0001f1ff]{2,})|\U0001f3f4([\U000e0061-\U000e007a]{2,})\U000e007f")


def list_emoji() -> list[str]:
    """Emoji that ship with the library and need no network, the lizard first.

    Explained in chapter 1, "Your own picture".

    Example:
        >>> list_emoji()[0]
        '🦎'
    """
    manifest = (DATA / "manifest.json").read_text(encoding="utf-8")
    return [entry["emoji"] for entry in json.loads(manifest)["emoji"]]


def load_emoji(
    emoji: str = "🦎", size: int = 40, padding: int = 4, premultiply: bool = True
) -> np.ndarray:
    """Load an emoji as a target.

    A bundled emoji (`list_emoji`) is read from the package. Any other, those of several code
    points included (flags, skin tones, families), is downloaded from Noto's public repository
    and kept in the user's cache folder, where there is one.

    Explained in chapter 1, "From many pixels to few cells".

    Args:
        emoji: One emoji.
        size: Side of the picture in cells, 1 to 512.
        padding: Empty cells added on each side, 0 to 256.
        premultiply: Multiply red, green and blue by alpha, so that a transparent cell is black
            whatever its colour was, see chapter 1, "Colour that nobody sees". `False` keeps
            straight alpha, as the reference notebook does.

    Returns:
        Float32 array `(size + 2 * padding, size + 2 * padding, 4)`, RGBA in [0, 1].

    Raises:
        ValueError: An argument is not as described, or there is no picture of the emoji (Noto
            does not have it, or the machine is offline).

    Example:
        >>> load_emoji("🦎", size=40, padding=4).shape
        (48, 48, 4)
    """
    check(isinstance(emoji, str) and not emoji.isascii(), "emoji", emoji, "a string of one emoji")
    _check_layout(size, padding, premultiply)
    path = _noto_path(emoji)
    bundled = DATA / Path(path).name
    try:
        image = _read(bundled) if bundled.exists() else _download(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot load the emoji {emoji!r}: it is not bundled, and its download gave: {error}. "
            f"Bundled, and available offline: {' '.join(list_emoji())}"
        ) from None
    return _to_target(image, size, padding, premultiply)


def load_image(
    path: str | os.PathLike, size: int = 40, padding: int = 4, premultiply: bool = True
) -> np.ndarray:
    """Load an image file as a target.

    The image keeps its proportions: it is scaled to fit a transparent square and centred in it.
    PNG, JPEG, GIF, WebP, BMP and TIFF will do, in colours or grey, of 8 or 16 bits, or with a
    palette. Of an animation the first frame is taken, and the orientation noted by a camera is
    applied.

    Explained in chapter 1, "Your own picture".

    Args:
        path: Image file.
        size: Side of the square in cells, 1 to 512.
        padding: Empty cells added on each side, 0 to 256.
        premultiply: As in `load_emoji`.

    Returns:
        Float32 array `(size + 2 * padding, size + 2 * padding, 4)`, RGBA in [0, 1].

    Raises:
        ValueError: An argument is not as described, or the file is missing, is not an image, is
            damaged, is larger than 100 MB, has more pixels than Pillow deems safe or more than
            65,535 in a row, its values have no agreed range (floats, signed integers, 32 bits), or
            a colour of other than 8 bits is transparent.
    """
    _check_layout(size, padding, premultiply)
    try:
        image = _read(path)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"cannot read the image {str(path)!r}: {error}") from error
    return _to_target(image, size, padding, premultiply)


def _check_layout(size: int, padding: int, premultiply: bool) -> None:
    """Refuse what no target can look like; see `load_emoji`."""
    check_int("size", size, 1, MAX_SIZE)
    check_int("padding", padding, 0, MAX_PADDING)
    check(isinstance(premultiply, bool), "premultiply", premultiply, "True or False")


def _to_target(image: Image.Image, size: int, padding: int, premultiply: bool) -> np.ndarray:
    """Resample an RGBA image into a padded square target; see `load_emoji`."""
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    # Pillow weighs colours by alpha while it resamples RGBA: no fringe of hidden colours.
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (size, size))
    square.paste(image, ((size - width) // 2, (size - height) // 2))
    target = np.asarray(square, dtype=np.float32) / np.float32(255)  # (size, size, 4)
    if premultiply:
        target[..., :3] *= target[..., 3:]
    return np.pad(target, ((padding, padding), (padding, padding), (0, 0)))


def _read(path: str | os.PathLike) -> Image.Image:
    """Decode an image file to RGBA: first frame, upright. ValueError if that is not possible."""
    path = Path(path)
    if not path.is_file():  # a pipe would block
        raise ValueError("there is no such regular file")
    if path.stat().st_size > MAX_FILE:
        raise ValueError(f"it has more than {MAX_FILE:,} bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(path.read_bytes()), formats=FORMATS) as image:
                if max(image.size) > MAX_SIDE:
                    raise ValueError(f"{image.width} x {image.height} pixels")
                _check_range(image)
                upright = ImageOps.exif_transpose(image)
                if upright.mode.startswith("I"):  # 16-bit grey, which convert() would clip
                    grey = np.rint(np.asarray(upright, np.float32) / 257)
                    upright = Image.fromarray(grey.astype(np.uint8))
                return upright.convert("RGBA")
    except Exception as error:  # decoders raise nearly anything when fed damaged files
        raise ValueError(f"not a readable image ({error})") from error


def _check_range(image: Image.Image) -> None:
    """Refuse values of which nobody says what is white, or which Pillow does not read as meant."""
    tags = {258: (16,), 262: 1, 339: (1,)} | dict(getattr(image, "tag_v2", {}))  # of TIFF
    raw = "transparency" in image.info and image.tile[0][3]
    is_plain = image.mode not in ("F", "I") and {*tags[339]} == {1} and raw not in SHIFTED
    if not is_plain or (image.mode[:4] == "I;16" and (tags[258], tags[262]) != ((16,), 1)):
        raise ValueError(
            "its values have no agreed range (floats, signed, 12 or 32 bits, 0 for white), or a "
            "colour of other than 8 bits is transparent: save it with 8 bits and alpha"
        )


def _noto_path(emoji: str) -> str:
    """Path of an emoji's picture in Noto's repository; flags lie apart from the rest."""
    if flag := FLAG.fullmatch(emoji):
        letters = "".join(unicodedata.name(char)[-1] for char in flag[1] or flag[2])
        name = f"{letters[:2]}-{letters[2:]}".rstrip("-")
        return f"third_party/region-flags/png/{name}.png"
    codes = "_".join(f"{ord(char):04x}" for char in emoji if char != "\ufe0f")
    return f"png/128/emoji_u{codes}.png"


def _download(path: str) -> Image.Image:
    """Picture of Noto's repository, from the cache folder or else from there."""
    pooch.get_logger().setLevel("WARNING")  # it would tell the notebook of every download
    # Noto's pictures lie where they are asked for: who redirects is somebody else. And pooch would
    # leave open a stream that it does not read to the end.
    downloader = pooch.HTTPDownloader(timeout=TIMEOUT, allow_redirects=False, stream=False)
    fetch = partial(pooch.retrieve, NOTO_URL + path, None, downloader=downloader)
    with TemporaryDirectory() as spare:
        file = (_cache() or Path(spare)) / Path(path).name
        try:
            return _read(fetch(file.name, file.parent))
        except ValueError:  # damaged, in the cache or on the way
            file.unlink(missing_ok=True)
            return _read(fetch(file.name, file.parent))


def _cache() -> Path | None:
    """Folder for what was downloaded; None where there is no home, or none to write to."""
    with contextlib.suppress(OSError, RuntimeError):
        folder = pooch.os_cache("nca_lib").expanduser() / f"noto-{NOTO_VERSION}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder if os.access(folder, os.W_OK) else None
