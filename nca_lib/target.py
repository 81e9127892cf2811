"""Targets: the picture that a pattern should grow into (chapter 1).

A target is a float32 array `(H, W, 4)` of red, green, blue and alpha in [0, 1]: an emoji or
any image, resampled to `size` cells a side and surrounded by `padding` empty cells.

The bundled emoji are drawn from the font Noto Color Emoji (SIL Open Font License 1.1; see
`data/emoji/manifest.json`). All others are downloaded once from Noto's public repository.
"""

import http.client
import io
import json
import numbers
import os
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
import warnings
from concurrent.futures import Future
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from platformdirs import user_cache_dir

from nca_lib.lab.checkpoint import read_file, write_atomic

# A tag, not a branch: the same emoji is the same picture next year.
NOTO_VERSION = "v2.047"
NOTO_URL = f"https://raw.githubusercontent.com/googlefonts/noto-emoji/{NOTO_VERSION}/"
TIMEOUT, DEADLINE = 10.0, 30.0  # seconds without a sign of life, and in all
MAX_BYTES = 1_000_000  # the bundled pictures have at most some ten thousand
MAX_SIZE, MAX_PADDING = 512, 256  # cells
MAX_EMOJI = 32  # code points; the longest emoji of Unicode have about ten
# What an image may be. Pillow reads some fifty formats more, one of them by starting a program.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")
MAX_FILE = 100_000_000  # bytes
MAX_SIDE = 65_535  # pixels; what resampling takes grows with the side, whatever the area

# One emoji, after the grammar of Unicode Technical Standard 51: parts joined by U+200D. A part is
# a base with an optional skin tone or variation selector, a keycap, or one of two kinds of flag.
_BASE = (
    "[\u00a9\u00ae\u203c\u2049\u2100-\u2bff\u3030\u303d\u3297\u3299\U0001f004\U0001f0cf"
    "\U0001f170-\U0001f19a\U0001f201-\U0001f251\U0001f300-\U0001f3fa\U0001f400-\U0001faff]"
)
_PART = f"(?:{_BASE}[\ufe0f\U0001f3fb-\U0001f3ff]?|[0-9#*]\ufe0f?\u20e3)"
_COUNTRY = re.compile("[\U0001f1e6-\U0001f1ff]{2}")
_REGION = re.compile("\U0001f3f4([\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6})\U000e007f")
_EMOJI = re.compile(f"{_COUNTRY.pattern}|{_REGION.pattern}|{_PART}(?:\u200d{_PART})*")

# Territories whose flag is that of another country: Noto stores them as links, not as pictures.
_SAME_FLAG = dict(BV="NO", CP="FR", DG="IO", EA="ES", HM="AU", MF="FR", SJ="NO", UM="US")


def list_emoji() -> list[str]:
    """Emoji that ship with the library and need no network, the lizard first.

    Explained in chapter 1, "More targets".

    Example:
        >>> list_emoji()[0]
        '🦎'
    """
    manifest = (_data() / "manifest.json").read_text(encoding="utf-8")
    return [entry["emoji"] for entry in json.loads(manifest)["emoji"]]


def load_emoji(
    emoji: str = "🦎", size: int = 40, padding: int = 4, premultiply: bool = True
) -> np.ndarray:
    """Load an emoji as a target.

    A bundled emoji (`list_emoji`) is read from the package. Any other, those of several code
    points included (flags, skin tones, families), is downloaded from Noto's public repository
    and kept in the user's cache folder.

    Explained in chapter 1, "From many pixels to few cells".

    Args:
        emoji: Exactly one emoji.
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
    is_short = isinstance(emoji, str) and len(emoji) <= MAX_EMOJI
    if not is_short or not _EMOJI.fullmatch(emoji):
        raise ValueError(f"emoji must be a string of exactly one emoji, got {emoji!r}")
    check_layout(size, padding, premultiply)
    path = _noto_path(emoji)
    bundled = _data() / Path(path).name
    if bundled.is_file():
        image = _decode(bundled.read_bytes())
    else:
        try:
            image = _cached(path)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ValueError(
                f"cannot load the emoji {emoji!r}: it is not bundled, and {NOTO_URL}{path} gave: "
                f"{error}. Bundled, and available offline: {' '.join(list_emoji())}"
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
            65,535 in a row, or its values have no agreed range (floats).
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"path must be the path of an image file, got {path!r}")
    check_layout(size, padding, premultiply)
    try:
        image = _decode(read_file(path, MAX_FILE))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the image {str(path)!r}: {error}") from error
    return _to_target(image, size, padding, premultiply)


def check_layout(size: int, padding: int, premultiply: bool) -> None:
    """Refuse what no target can look like.

    Args:
        size: see `load_emoji`.
        padding: see `load_emoji`.
        premultiply: see `load_emoji`.

    Raises:
        ValueError: one of them is of the wrong type or out of range.
    """
    limits = {"size": (size, 1, MAX_SIZE), "padding": (padding, 0, MAX_PADDING)}
    for name, (value, low, high) in limits.items():
        is_int = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not is_int or not low <= value <= high:
            raise ValueError(f"{name} must be an int from {low} to {high}, got {value!r}")
    if not isinstance(premultiply, bool):
        raise ValueError(f"premultiply must be True or False, got {premultiply!r}")


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


def _decode(data: bytes, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Decode image bytes to RGBA: first frame, upright. ValueError if that is not possible."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=formats) as image:
                if max(image.size) > MAX_SIDE:
                    raise ValueError(f"{image.width} x {image.height} pixels")
                if image.mode == "F":
                    raise ValueError("its values are floats, which have no agreed range")
                upright = ImageOps.exif_transpose(image)
                if upright.mode.startswith("I"):  # 16-bit grey, which convert() would clip
                    grey = np.asarray(upright).clip(0, 65_535).astype(np.float32)
                    upright = Image.fromarray(np.rint(grey / 257).astype(np.uint8))
                return upright.convert("RGBA")
    except Exception as error:  # decoders raise nearly anything when fed damaged files
        raise ValueError(f"not a readable image ({error})") from error


def _data():
    """Folder of the bundled emoji."""
    return files(__package__) / "data" / "emoji"


def _noto_path(emoji: str) -> str:
    """Path of an emoji's picture in Noto's repository; flags lie apart from the rest."""
    if _COUNTRY.fullmatch(emoji):
        code = "".join(chr(ord(char) - 0x1F1E6 + ord("A")) for char in emoji)
        return f"third_party/region-flags/png/{_SAME_FLAG.get(code, code)}.png"
    if match := _REGION.fullmatch(emoji):
        code = "".join(chr(ord(char) - 0xE0000) for char in match[1]).upper()
        return f"third_party/region-flags/png/{code[:2]}-{code[2:]}.png"
    codes = "_".join(f"{ord(char):04x}" for char in emoji if char != "\ufe0f")
    return f"png/128/emoji_u{codes}.png"


def _cached(path: str) -> Image.Image:
    """Picture from the cache folder, or else downloaded, verified and then put there."""
    file = (
        Path(user_cache_dir("nca_lib", appauthor=False)) / f"noto-{NOTO_VERSION}" / Path(path).name
    )
    try:
        return _verified(read_file(file, MAX_BYTES))
    except (OSError, ValueError):  # not there yet, or damaged
        pass
    data = _fetch(NOTO_URL + path)
    image = _verified(data)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, data)
    except OSError:  # a cache that cannot be written costs time, not the picture
        pass
    return image


def _verified(data: bytes) -> Image.Image:
    """Decode a picture of Noto; ValueError if it cannot be one."""
    image = _decode(data, ("PNG",))
    if not 16 <= min(image.size) <= max(image.size) <= 4096:
        raise ValueError(f"a picture of {image.width} x {image.height} pixels")
    return image


class _SameOrigin(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to the same scheme and host."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """Refuse a redirect that leaves the origin of the request."""
        if urllib.parse.urlsplit(newurl)[:2] != urllib.parse.urlsplit(req.full_url)[:2]:
            raise urllib.error.HTTPError(req.full_url, code, "redirect refused", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch(url: str) -> bytes:
    """Download within `DEADLINE`, however the server dawdles; see `_download`."""
    answer: Future[bytes] = Future()

    def work():
        try:
            answer.set_result(_download(url))
        except Exception as error:  # for the caller, not for this thread
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return answer.result(DEADLINE)
    except TimeoutError as error:
        raise TimeoutError(str(error) or f"not complete after {DEADLINE:g} seconds") from None


def _download(url: str) -> bytes:
    """Download up to `MAX_BYTES`: ValueError if there is more, OSError without an answer."""
    try:
        with urllib.request.build_opener(_SameOrigin).open(url, timeout=TIMEOUT) as response:
            data = response.read(MAX_BYTES + 1)
    except urllib.error.HTTPError as error:
        error.close()
        raise
    if len(data) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    return data
