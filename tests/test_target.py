"""Pictures as targets: bundled, from files, and from a server that stands in for Noto's."""

import hashlib
import http.server
import io
import json
import socket
import struct
import threading
import zlib
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pooch
import pytest
from PIL import Image

from nca_lib import target
from nca_lib.target import DATA, list_emoji, load_emoji, load_image

MANIFEST = json.loads((DATA / "manifest.json").read_text(encoding="utf-8"))
OTHER = "🦖"  # an emoji that is not bundled


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


RED = encoded(Image.new("RGBA", (128, 128), "red"))


def load_saved(image, path, size=16, **options):
    image.save(path, **options)
    return load_image(path, size, padding=0)


# Bundled emoji


def test_bundled_files_are_the_manifest_and_nothing_else():
    names = {"manifest.json", MANIFEST["licence_file"], *(e["file"] for e in MANIFEST["emoji"])}
    assert {path.name for path in DATA.iterdir()} == names
    assert "SIL OPEN FONT LICENSE Version 1.1" in (DATA / MANIFEST["licence_file"]).read_text()


@pytest.mark.parametrize("entry", MANIFEST["emoji"], ids=lambda entry: entry["name"])
def test_bundled_emoji(entry, noto):
    assert hashlib.sha256((DATA / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
    pixels = load_emoji(entry["emoji"])
    assert (pixels.shape, pixels.dtype) == ((48, 48, 4), np.float32)
    assert pixels.min() == 0 and 0.9 < pixels[..., 3].max() <= 1
    assert (pixels[..., :3] <= pixels[..., 3:]).all()  # premultiplied
    assert 0.15 < (pixels[4:-4, 4:-4, 3] > 0.5).mean() < 0.95  # a shape, not a blot or a speck
    assert noto.asked == []


def test_list_emoji_starts_with_the_lizard_which_is_the_default():
    assert list_emoji() == ["🦎", *dict.fromkeys(e["emoji"] for e in MANIFEST["emoji"][1:])]
    np.testing.assert_array_equal(load_emoji(), load_emoji("🦎", np.int64(40), np.uint8(4), True))
    np.testing.assert_array_equal(load_emoji("❤️"), load_emoji("❤"))  # no variation selector


@pytest.mark.parametrize(("size", "padding"), [(40, 4), (24, 4), (1, 0), (128, 0), (512, 256)])
def test_straight_alpha_is_the_plain_pillow_pipeline(size, padding):
    with Image.open(DATA / "emoji_u1f98e.png") as image:
        plain = image.resize((size, size), resample=Image.Resampling.LANCZOS)
    plain = np.array(plain, np.float32) / 255.0
    plain = np.pad(plain, ((padding, padding), (padding, padding), (0, 0)))
    np.testing.assert_array_equal(load_emoji("🦎", size, padding, premultiply=False), plain)
    plain[..., :3] *= plain[..., 3:]
    np.testing.assert_array_equal(load_emoji("🦎", size, padding), plain)
    np.testing.assert_array_equal(load_image(DATA / "emoji_u1f98e.png", size, padding), plain)


# Images


SHAPES = [(60, 30, np.s_[5:15, :]), (30, 60, np.s_[:, 5:15]), (1, 500, np.s_[:, 9:10])]


@pytest.mark.parametrize(("width", "height", "inside"), SHAPES)
def test_proportions_are_kept_and_the_picture_is_centred(tmp_path, width, height, inside):
    expected = np.zeros((20, 20, 4), np.float32)
    expected[inside] = (1, 0, 0.2, 1)
    flat = Image.new("RGB", (width, height), (255, 0, 51))
    np.testing.assert_allclose(load_saved(flat, tmp_path / "x.png", 20), expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_modes(tmp_path, mode):
    grey = np.zeros((16, 16), np.uint8)
    grey[:, 8:] = 255
    path = tmp_path / ("x.tiff" if mode == "CMYK" else "x.png")
    pixels = load_saved(Image.fromarray(grey).convert(mode), path)
    assert (pixels[..., 3] == 1).all()
    np.testing.assert_array_equal(pixels[..., :3], np.repeat(grey[..., None] / 255, 3, -1))


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    pixels = load_saved(Image.fromarray(ramp), tmp_path / "x.png", 8)
    np.testing.assert_allclose(pixels[..., 0], ramp / 65535, atol=0.5 / 255 + 1e-6)


def test_transparent_palette_colour(tmp_path):
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 16, 8))
    pixels = load_saved(image, tmp_path / "x.png", transparency=0)
    assert not pixels[:8].any() and (pixels[8:] == [0, 0, 1, 1]).all()


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_first_frame_of_an_animation(tmp_path, suffix):
    red, blue = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    frames = {"save_all": True, "append_images": [blue], "duration": 9, "lossless": True}
    assert (load_saved(red, tmp_path / f"x.{suffix}", **frames) == [1, 0, 0, 1]).all()


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_camera_orientation_is_applied(tmp_path, suffix):
    image = Image.new("RGB", (32, 16), "white")
    image.paste("black", (0, 0, 16, 16))  # on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # show it turned a quarter clockwise: black at the top
    pixels = load_saved(image, tmp_path / f"x.{suffix}", 32, exif=exif)
    assert not pixels[:, :8].any() and not pixels[:, 24:].any()
    assert pixels[:14, 9:23, :3].max() < 0.1 and pixels[18:, 9:23, :3].min() > 0.9


def grey_png(bits):
    """Four black and four white pixels, of which black is transparent."""
    row = bytes(1) + (2 ** (4 * bits) - 1).to_bytes(bits)
    parts = {b"IHDR": struct.pack(">IIBBBBB", 8, 1, bits, 0, 0, 0, 0), b"tRNS": bytes(2)}
    parts |= {b"IDAT": zlib.compress(row), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts.items()
    )


def test_a_grey_that_is_transparent_is_so_or_is_refused(tmp_path):
    for bits in (1, 2, 4, 8, 16):
        (tmp_path / "x.png").write_bytes(grey_png(bits))
        if bits in (1, 8):
            alpha = load_image(tmp_path / "x.png", 8, 0)[..., 3]
            assert alpha[3:5].sum(axis=0).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
        else:
            with pytest.raises(ValueError, match="a colour of other than 8 bits is transparent"):
                load_image(tmp_path / "x.png")


SHORTS = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
BLACK_IS_0, WHITE_IS_0 = (struct.pack("<HHIH", 262, 3, 1, kind) for kind in (1, 0))
NO_RANGE = {
    "int32": encoded(Image.fromarray(np.int32(SHORTS)), "TIFF"),
    "white is 0": encoded(Image.fromarray(SHORTS), "TIFF").replace(BLACK_IS_0, WHITE_IS_0),
    "int8": encoded(Image.fromarray(np.uint8(SHORTS // 512)), "TIFF", tiffinfo={339: (2,)}),
    "int16": encoded(Image.fromarray(SHORTS // 2), "TIFF", tiffinfo={339: (2,)}),
    "floats": encoded(Image.fromarray(np.float32(SHORTS)), "TIFF"),
}


@pytest.mark.parametrize("name", NO_RANGE)
def test_numbers_without_an_agreed_range_are_refused(tmp_path, name):
    (tmp_path / "x.tiff").write_bytes(NO_RANGE[name])
    with pytest.raises(ValueError, match="no agreed range"):
        load_image(tmp_path / "x.tiff")


def bomb(side):
    """A BMP whose header promises more pixels than the file holds."""
    data = encoded(Image.new("RGB", (8, 8)), "BMP")
    return data[:18] + struct.pack("<ii", side, side) + data[26:]


BROKEN = {
    "empty": b"",
    "text": b"not an image",
    "cut": RED[:-40],
    "ppm": encoded(Image.new("RGB", (8, 8)), "PPM"),  # Pillow would read it
    "long": encoded(Image.new("1", (65_536, 1))),
    "decompression bomb": bomb(10_000),  # Pillow warns
    "decompression bomb DOS": bomb(20_000),  # Pillow refuses
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_image_is_refused_by_name(tmp_path, name):
    (tmp_path / "broken.png").write_bytes(BROKEN[name])
    with pytest.raises(ValueError, match=r"cannot read the image .*broken\.png") as error:
        load_image(tmp_path / "broken.png")
    assert name in str(error.value) or "bomb" not in name


# Downloads


FLAG_OF_ENGLAND = "🏴" + "".join(chr(0xE0000 + ord(char)) for char in "gbeng\x7f")
PATHS = {
    "#️⃣": "png/128/emoji_u0023_20e3.png",
    "👨‍👩‍👧": "png/128/emoji_u1f468_200d_1f469_200d_1f467.png",
    "🏴": "png/128/emoji_u1f3f4.png",
    "🏴GB": "png/128/emoji_u1f3f4_0047_0042.png",
    "🇫🇷": "third_party/region-flags/png/FR.png",
    FLAG_OF_ENGLAND: "third_party/region-flags/png/GB-ENG.png",
    "🏴" + "\U000e002f" * 3 + "\U000e007f": "png/128/emoji_u1f3f4_e002f_e002f_e002f_e007f.png",
    "\ud83d/../é": "png/128/emoji_ud83d_002f_002e_002e_002f_00e9.png",
}


GOOD = 200, ("Content-Type", "image/png"), RED


@pytest.fixture
def noto(tmp_path, monkeypatch):
    """A server: `answer` is its status, header and body to all, `asked` lists the paths."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path[1:])
            status, header, body = self.server.answer
            self.send_response(status)
            self.send_header(*header)
            self.end_headers()
            self.wfile.write(body)

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / project)
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setattr(target, "NOTO_URL", f"http://127.0.0.1:{server.server_port}/")
        server.answer, server.asked = GOOD, []
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("emoji", PATHS, ids=ascii)
def test_a_picture_is_fetched_once(noto, emoji, tmp_path, caplog, monkeypatch):
    pooch.get_logger().setLevel("NOTSET")
    monkeypatch.setattr(pooch.get_logger(), "handlers", [caplog.handler])
    for _ in range(2):
        assert (load_emoji(emoji, 16, 0) == [1, 0, 0, 1]).all()
    assert noto.asked == [PATHS[emoji]]
    names = [path.name for path in (tmp_path / "nca_lib").glob("*/*")]  # and nothing temporary
    assert names == [PATHS[emoji].split("/")[-1]]
    assert not caplog.records  # pooch would tell the notebook


@pytest.mark.parametrize("home", [Path("~nobody-of-that-name"), Path("file"), RuntimeError])
def test_without_a_cache_the_picture_is_fetched_each_time(noto, home, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pooch, "os_cache", Mock(side_effect=[home, home]))  # RuntimeError: raised
    for _ in range(2):
        assert (load_emoji(OTHER, 16, 0) == [1, 0, 0, 1]).all()
    assert len(noto.asked) == 2 and [path.name for path in tmp_path.iterdir()] == ["file"]


def refused(emoji):
    with pytest.raises(ValueError, match=f"cannot load the emoji '{emoji}'") as error:
        load_emoji(emoji)
    assert all(emoji in str(error.value) for emoji in list_emoji())
    assert error.value.__cause__ is None and error.value.__suppress_context__  # no chain


ANSWERS = {
    "missing": (404, *GOOD[1:]),
    "redirect": (302, ("Location", "/moved.png"), b""),
    "interrupted": (200, ("Content-Length", str(len(RED) + 1)), RED),
} | {name: (*GOOD[:2], body) for name, body in BROKEN.items()}


@pytest.mark.parametrize("name", ANSWERS)
def test_failed_downloads_are_named_and_not_kept(noto, name, tmp_path):
    noto.answer = ANSWERS[name]
    refused(OTHER)
    assert set(noto.asked) == {"png/128/emoji_u1f996.png"}
    noto.answer = GOOD
    assert load_emoji(OTHER).any()
    assert [path.read_bytes() for path in (tmp_path / "nca_lib").glob("*/*")] == [RED]


def test_no_connection_and_no_answer(noto, monkeypatch):
    monkeypatch.setattr(target, "TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for port in (1, silent.getsockname()[1]):  # nobody listens at the first
            monkeypatch.setattr(target, "NOTO_URL", f"http://127.0.0.1:{port}/")
            refused(OTHER)
