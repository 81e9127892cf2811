"""Arrays to pixels and files: pixels against hand calculation and Pillow, files as decoded."""

import io

import numpy as np
import pytest
from PIL import Image, ImageSequence

from nca_lib.lab import images


def random_frames(number=5, height=6, width=7, channels=3, seed=0):
    shape = (number, height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def decode(data, mode="RGB"):
    """All frames of an encoded clip, and the time in milliseconds that each is shown."""
    with Image.open(io.BytesIO(data)) as image:
        frames, durations = [], []
        for frame in ImageSequence.Iterator(image):
            frames.append(np.asarray(frame.convert(mode)))
            durations.append(image.info.get("duration"))
        return np.stack(frames), durations, image.info


# States to pixels


@pytest.mark.parametrize(
    ("pixel", "background", "premultiplied", "expected"),
    [
        # (0.2, 0.1, 0) at half alpha over (1, 0.4, 0): 0.2 + 0.5, 0.1 + 0.2, 0.
        ([9.0, -9.0, 0.2, 0.1, 0.0, 0.5], (1.0, 0.4, 0.0), True, [0.7, 0.3, 0.0]),
        # (0.8, 0.4, 1) at alpha 0.25 over black: a quarter of each.
        ([0.8, 0.4, 1.0, 0.25], (0, 0, 0), False, [0.2, 0.1, 0.25]),
    ],
)
def test_to_rgb_composites(pixel, background, premultiplied, expected):
    rgb = images.to_rgb(np.float32([[pixel]]), background, premultiplied)
    np.testing.assert_array_equal(rgb, [[[round(255 * value) for value in expected]]])


@pytest.mark.parametrize("premultiplied", [True, False])
def test_wild_values_render_without_warning(premultiplied):
    nan, inf = np.nan, np.inf
    pixels = [[nan, nan, nan, nan], [inf, -inf, 1e30, inf], [1, 1, 1, -2], [1, 1, 1, 1e-42]]
    rgb = images.to_rgb(np.float32([pixels]), (1, 1, 1), premultiplied)
    np.testing.assert_array_equal(rgb[0], [[255] * 3, [255, 0, 255], [255] * 3, [255] * 3])


def test_checkerboard_shows_where_it_is_transparent():
    board = images.checkerboard(8, 6)
    rows = [[255, 255, 255, 255, 204, 204]] * 4 + [[204, 204, 204, 204, 255, 255]] * 4
    np.testing.assert_array_equal(images.to_rgb(np.zeros((8, 6, 4)), board)[..., 1], rows)
    assert not images.to_rgb(np.ones((8, 6, 4)) * [0, 0, 0, 1], board).any()


# Pixels to pixels


def test_upscale_repeats_each_pixel():
    frames = random_frames()
    large = images.upscale(frames, 3)
    assert large.shape == (5, 18, 21, 3)
    for dy, dx in np.ndindex(3, 3):
        np.testing.assert_array_equal(large[:, dy::3, dx::3], frames)


def test_contact_sheet_lays_pictures_out_row_by_row():
    pictures = random_frames(5, 6, 7)
    sheet = images.contact_sheet(pictures, columns=3, gap=2)
    assert sheet.shape == (2 * 8 - 2, 3 * 9 - 2, 3)
    seen = np.zeros(sheet.shape[:2], bool)
    for i, picture in enumerate(pictures):
        y, x = i // 3 * 8, i % 3 * 9
        np.testing.assert_array_equal(sheet[y : y + 6, x : x + 7], picture)
        seen[y : y + 6, x : x + 7] = True
    assert (sheet[~seen] == 255).all()


def test_contact_sheet_of_clips_is_a_clip_of_sheets():
    clips = random_frames(12, channels=4).reshape(3, 4, 6, 7, 4)
    sheets = images.contact_sheet(clips, columns=2, gap=1)
    assert sheets.shape == (3, 13, 15, 4) and not sheets[:, 6].any()  # the gap is transparent
    for sheet, pictures in zip(sheets, clips, strict=True):
        np.testing.assert_array_equal(sheet, images.contact_sheet(pictures, columns=2, gap=1))


# Files


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_clips_and_pictures_keep_every_pixel(mode):
    frames = random_frames(channels=len(mode))
    frames[..., 3:] |= 1  # colour under an alpha of 0 may be dropped
    frames[1, :3, :3, 3:] = frames[2, 3:, 3:, 3:] = 0  # what was there before must be gone
    shown = (frames[..., 3:] > 0).all(axis=-1, keepdims=True)
    for kind in ("WEBP", "PNG"):
        decoded, durations, info = decode(images.encode(frames, kind, fps=25), mode)
        np.testing.assert_array_equal(decoded * shown, frames * shown)
        np.testing.assert_array_equal(decoded[..., 3:], frames[..., 3:])
        assert durations == [40, 40, 40, 40, 1040] and info["loop"] == 0
    with Image.open(io.BytesIO(images.encode(frames[:1], "PNG"))) as saved:
        np.testing.assert_array_equal(np.asarray(saved), frames[0])
