"""Arrays to pixels and files, by NumPy and Pillow alone.

A *state* is float, shape `(..., H, W, C)`, its last four channels red, green, blue and alpha;
its values may lie anywhere, NaN and infinity included, because states in training do.
*Pixels* are uint8, shape `(..., H, W, 3)` or `(..., H, W, 4)`, the latter with straight alpha,
as PNG and WebP want it. Chapter 6 builds the conversion from one to the other by hand.

The usual path of a picture:

>>> import numpy as np
>>> frames = np.zeros((10, 32, 32, 16), np.float32)  # a rollout: ten dead grids
>>> pixels = to_rgb(frames)                          # (10, 32, 32, 3), white
>>> contact_sheet(pixels, columns=5, gap=1).shape
(65, 164, 3)
"""

import io
import math

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from nca_lib.model import check


def to_rgb(
    state: ArrayLike, background: ArrayLike = (1.0, 1.0, 1.0), premultiplied: bool = True
) -> np.ndarray:
    """Lay states over a background.

    With premultiplied colour `c` the result is `c + (1 - a) * background`, with straight colour
    `a * c + (1 - a) * background`; the "over" operator of Porter and Duff (1984).

    Explained in chapter 6, "From state to pixels".

    Args:
        state: `(..., H, W, C)` with C >= 4, RGBA last. Clipped to [0, 1], NaN counts as 0.
        background: a colour `(3,)` or a picture `(H, W, 3)`, values in [0, 1].
        premultiplied: whether the colour channels are already multiplied by alpha.

    Returns:
        uint8 pixels `(..., H, W, 3)`.

    Raises:
        ValueError: the state has fewer than three axes or fewer than four channels.
    """
    state = np.asarray(state)
    is_real = np.can_cast(state.dtype, np.float64)
    check(is_real, "state dtype", state.dtype.name, "of real numbers")
    fine = state.ndim >= 3 and state.shape[-1] >= 4 and state.size
    check(fine, "state shape", state.shape, "(..., H, W, C) with at least 4 channels")
    rgba = np.nan_to_num(state[..., -4:], nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1)
    rgb, alpha = rgba[..., :3].astype(np.float32), rgba[..., 3:].astype(np.float32)
    rgb = rgb if premultiplied else rgb * alpha
    over = rgb + (1 - alpha) * np.asarray(background, np.float32)
    return np.rint(over.clip(0, 1) * 255).astype(np.uint8)


def checkerboard(height: int, width: int) -> np.ndarray:
    """Draw the grey checks that stand for transparency, as a `background` for `to_rgb`.

    Explained in chapter 1, "Laying it over a background".

    Args:
        height: in pixels.
        width: in pixels.

    Returns:
        float32 `(height, width, 3)`, values 0.8 and 1.
    """
    y, x = np.mgrid[:height, :width] // 4
    checks = np.where((x + y) % 2 == 0, np.float32(1), np.float32(0.8))
    return np.repeat(checks[..., None], 3, axis=-1)


def upscale(pixels: ArrayLike, zoom: int) -> np.ndarray:
    """Enlarge pixels by a whole factor, each becoming a sharp square.

    Explained in chapter 6, "A clip".

    Args:
        pixels: `(H, W, 3 or 4)`, with up to two more axes in front.
        zoom: the factor, at least 1.

    Returns:
        Pixels, with `H * zoom` and `W * zoom`.

    Raises:
        ValueError: the array is not pixels.
    """
    return as_pixels(pixels, 3, 4, 5).repeat(zoom, axis=-3).repeat(zoom, axis=-2)


def contact_sheet(images: ArrayLike, columns: int, gap: int = 2) -> np.ndarray:
    """Lay N images out in a grid, row by row; with a leading time axis, N clips as one.

    Explained in chapter 6, "A clip".

    Args:
        images: pixels `(N, H, W, 3 or 4)`, or `(T, N, H, W, 3 or 4)` for a clip of sheets.
        columns: images in a row.
        gap: pixels between two images, white in RGB and transparent in RGBA.

    Returns:
        Pixels `(H', W', 3 or 4)`, or `(T, H', W', 3 or 4)`, where
        `H' = rows * (H + gap) - gap` and `W' = columns * (W + gap) - gap`.

    Raises:
        ValueError: no images, or not pixels.
    """
    images = as_pixels(images, 4, 5)
    *lead, number, height, width, channels = images.shape
    rows, tall, wide = math.ceil(number / columns), height + gap, width + gap
    blank = np.uint8(255 if channels == 3 else 0)
    cells = np.full((*lead, rows * columns, tall, wide, channels), blank)
    cells[..., :number, :height, :width, :] = images
    grid = cells.reshape(*lead, rows, columns, tall, wide, channels).swapaxes(-4, -3)
    sheet = grid.reshape(*lead, rows * tall, columns * wide, channels)
    return sheet[..., : rows * tall - gap, : columns * wide - gap, :]


def as_pixels(images: ArrayLike, *ndims: int) -> np.ndarray:
    """Pixels with one of these numbers of axes, or a ValueError."""
    images = np.asarray(images)
    check(images.dtype == np.uint8, "dtype", images.dtype.name, "uint8, as from to_rgb")
    fine = images.ndim in ndims and images.shape[-1] in (3, 4) and images.size
    shapes = {3: "(H, W, 3 or 4)", 4: "(N, H, W, 3 or 4)", 5: "(T, N, H, W, 3 or 4)"}
    check(fine, "shape", images.shape, f"{' or '.join(shapes[n] for n in ndims)}, not empty")
    return images


def encode(frames: np.ndarray, kind: str, fps: float = 20) -> bytes:
    """Make a file, "PNG" or "WEBP", of pixels (T, H, W, 3 or 4): a picture, or a looping clip.

    Every pixel is kept. Neighbouring frames that are equal are stored once and shown for longer.
    The last frame stays for a second more.
    """
    check(isinstance(fps, int | float) and 1 <= fps <= 60, "fps", fps, "a number from 1 to 60")
    first, *others = (Image.fromarray(frame) for frame in frames)
    buffer, duration = io.BytesIO(), [round(1000 / fps)] * len(frames)  # milliseconds
    duration[-1] += 1000
    clip = {"save_all": True, "append_images": others, "duration": duration, "loop": 0}
    first.save(buffer, format=kind, lossless=True, **clip)
    return buffer.getvalue()
