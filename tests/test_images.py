"""Arrays to pixels and files: pixels against hand calculation and Pillow, files as decoded."""

import io
import warnings

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


def test_rgba_laid_over_white_is_rgb():
    state = np.random.default_rng(1).uniform(0, 1, (8, 8, 4)).astype(np.float32)
    state[..., :3] *= state[..., 3:]
    image = Image.fromarray(images.to_rgba(state))
    white = Image.new("RGBA", image.size, "white")
    over = np.asarray(Image.alpha_composite(white, image))[..., :3].astype(int)
    assert np.abs(over - images.to_rgb(state)).max() <= 2  # two roundings to 8 bits


@pytest.mark.parametrize("premultiplied", [True, False])
def test_wild_values_render_without_warning(premultiplied):
    nan, inf = np.nan, np.inf
    state = np.float32(
        [[[nan, nan, nan, nan], [inf, -inf, 1e30, inf], [1, 1, 1, -2], [1, 1, 1, 1e-42]]]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rgba = images.to_rgba(state)
        rgb = images.to_rgb(state, (1, 1, 1), premultiplied)
    np.testing.assert_array_equal(rgba[0, :2], [[0, 0, 0, 0], [255, 0, 255, 255]])
    np.testing.assert_array_equal(rgb[0], [[255] * 3, [255, 0, 255], [255] * 3, [255] * 3])
    assert rgba[0, 2:, 3].tolist() == [0, 0]


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
    sheets = images.contact_sheet(clips, gap=1)  # by default about square
    assert sheets.shape == (3, 13, 15, 4) and not sheets[:, 6].any()  # the gap is transparent
    for sheet, pictures in zip(sheets, clips, strict=True):
        np.testing.assert_array_equal(sheet, images.contact_sheet(pictures, columns=2, gap=1))


# Files


@pytest.mark.parametrize("extension", ["webp", "png", "apng", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_clips_keep_every_pixel(tmp_path, extension, mode):
    frames = random_frames(channels=len(mode))
    frames[..., 3:] |= 1  # colour under an alpha of 0 may be dropped
    images.save_clip(tmp_path / f"growth.{extension}", frames, fps=25)
    decoded, durations, info = decode((tmp_path / f"growth.{extension}").read_bytes(), mode)
    np.testing.assert_array_equal(decoded, frames)
    assert durations == [40, 40, 40, 40, 1040] and info["loop"] == 0


@pytest.mark.parametrize("channels", [3, 4])
def test_a_picture_keeps_every_pixel(tmp_path, channels):
    image = random_frames(channels=channels)[0]
    images.save_png(tmp_path / "final.png", image)
    with Image.open(tmp_path / "final.png") as saved:
        np.testing.assert_array_equal(np.asarray(saved), image)


@pytest.mark.parametrize("name", ["a.webp", "a.png"])
def test_transparent_frames_do_not_pile_up(tmp_path, name):
    # What one frame shows and the next does not must be gone.
    frames = np.zeros((2, 4, 4, 4), np.uint8)
    frames[0, 0, 0] = frames[1, 3, 3] = 255
    images.save_clip(tmp_path / name, frames)
    decoded, _, _ = decode((tmp_path / name).read_bytes(), "RGBA")
    np.testing.assert_array_equal(decoded[..., 3], frames[..., 3])
