import hashlib
import http.server
import io
import json
import re
import socket
import struct
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import zlib
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from platformdirs import user_cache_dir

from nca_lib import target
from nca_lib.target import list_emoji, load_emoji, load_image

DATA = Path(str(files("nca_lib") / "data" / "emoji"))
MANIFEST = json.loads((DATA / "manifest.json").read_text(encoding="utf-8"))
OTHER = "🦖"  # an emoji that is not bundled
OTHER_PATH = "/png/128/emoji_u1f996.png"


def png(width=128, height=128, colour=(200, 40, 10, 255)):
    buffer = io.BytesIO()
    Image.new("RGBA", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def save(image, path, **options):
    image.save(path, **options)
    return path


# Bundled emoji


def test_bundled_files_are_the_manifest_and_nothing_else():
    assert len(MANIFEST["emoji"]) >= 14
    assert {path.name for path in DATA.iterdir()} == {
        "manifest.json",
        MANIFEST["licence_file"],
        *(entry["file"] for entry in MANIFEST["emoji"]),
    }
    assert "SIL OPEN FONT LICENSE Version 1.1" in (DATA / MANIFEST["licence_file"]).read_text()
    for key in ("origin", "font", "font_version", "font_sha256", "copyright", "licence"):
        assert MANIFEST[key]


@pytest.mark.parametrize("entry", MANIFEST["emoji"], ids=lambda entry: entry["name"])
def test_bundled_emoji(entry, monkeypatch):
    monkeypatch.setattr(target, "_fetch", lambda url: pytest.fail(f"downloads {url}"))
    file = DATA / entry["file"]
    assert hashlib.sha256(file.read_bytes()).hexdigest() == entry["sha256"]
    with Image.open(file) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGBA", (128, 128))
    pixels = load_emoji(entry["emoji"])
    assert pixels.shape == (48, 48, 4)
    assert pixels.dtype == np.float32
    assert pixels.min() == 0
    assert 0.9 < pixels[..., 3].max() <= 1
    assert (pixels[..., :3] <= pixels[..., 3:]).all()  # premultiplied
    assert 0.15 < (pixels[4:-4, 4:-4, 3] > 0.5).mean() < 0.95  # a shape, not a blot or a speck


def test_list_emoji_starts_with_the_lizard_which_is_the_default():
    assert list_emoji() == [entry["emoji"] for entry in MANIFEST["emoji"]]
    assert list_emoji()[0] == "🦎"
    assert len(set(list_emoji())) == len(list_emoji())
    np.testing.assert_array_equal(load_emoji(), load_emoji("🦎", 40, 4, True))


def test_variation_selector_makes_no_difference():
    np.testing.assert_array_equal(load_emoji("❤️"), load_emoji("❤"))


@pytest.mark.parametrize(("size", "padding"), [(40, 4), (24, 4), (1, 0), (128, 0), (512, 256)])
def test_straight_alpha_is_the_plain_pillow_pipeline(size, padding):
    with Image.open(DATA / "emoji_u1f98e.png") as image:
        plain = image.resize((size, size), resample=Image.Resampling.LANCZOS)
    plain = np.array(plain, np.float32) / 255.0
    plain = np.pad(plain, ((padding, padding), (padding, padding), (0, 0)))
    straight = load_emoji("🦎", size, padding, premultiply=False)
    np.testing.assert_array_equal(straight, plain)
    assert straight.dtype == np.float32
    premultiplied = load_emoji("🦎", size, padding)
    np.testing.assert_array_equal(premultiplied[..., :3], plain[..., :3] * plain[..., 3:])
    np.testing.assert_array_equal(premultiplied[..., 3], plain[..., 3])


def test_padding_is_empty():
    pixels = load_emoji(size=20, padding=5, premultiply=False)
    assert pixels.shape == (30, 30, 4)
    pixels[5:-5, 5:-5] = 0
    assert not pixels.any()


def test_every_call_returns_its_own_array():
    first = load_emoji()
    first[:] = 7
    assert load_emoji().max() <= 1


# Arguments


@pytest.mark.parametrize(
    "emoji",
    [
        "",
        "ab",
        "a",
        "5",
        "#",
        " ",
        5,
        None,
        b"x",
        ["🦎"],
        "🦎🦎",
        "🦎 ",
        "🦎x",
        "🇫",
        "🇫🇷🇩🇪",
        "🇫🇷\u200d🦎",
        "\u200d🦎",
        "🦎\u200d",
        "👋🏽🏽",
        "🏽",
        "\ufe0f",
        "❤️️",
        "../x",
        "🏴\U000e0067",
        "🏴\U000e002f" * 3,
    ],
    ids=ascii,
)
def test_emoji_must_be_one_emoji(emoji, monkeypatch):
    monkeypatch.setattr(target, "_fetch", lambda url: pytest.fail(f"downloads {url}"))
    with pytest.raises(ValueError, match="exactly one emoji") as error:
        load_emoji(emoji)
    assert repr(emoji) in str(error.value)


@pytest.mark.parametrize("load", [load_emoji, load_image])
@pytest.mark.parametrize(
    ("name", "value"),
    [("size", value) for value in (0, -1, 513, 40.0, "40", None, True, [40], float("nan"))]
    + [("padding", value) for value in (-1, 257, 4.0, "4", None, False)]
    + [("premultiply", value) for value in (1, 0, None, "yes", np.array([True, False]))],
)
def test_layout_is_checked_before_anything_is_read(load, name, value):
    first = "🦖" if load is load_emoji else "missing.png"
    with pytest.raises(ValueError, match=f"^{name} must be ") as error:
        load(first, **{name: value})
    assert repr(value) in str(error.value)


def test_numpy_integers_are_integers():
    np.testing.assert_array_equal(
        load_emoji(size=np.int64(9), padding=np.uint8(2)), load_emoji("🦎", 9, 2)
    )


@pytest.mark.parametrize("path", [None, 5, b"x.png", ["x.png"], io.BytesIO(png())], ids=repr)
def test_path_must_be_a_path(path):
    with pytest.raises(ValueError, match="path must be the path of an image file"):
        load_image(path)


# Images


def test_image_equals_emoji():
    path = DATA / "emoji_u1f98e.png"
    np.testing.assert_array_equal(load_image(path), load_emoji())
    np.testing.assert_array_equal(load_image(str(path), 24, 4), load_emoji("🦎", 24, 4))


@pytest.mark.parametrize(
    ("width", "height", "inside"),
    [
        (60, 30, np.s_[5:15, :]),
        (30, 60, np.s_[:, 5:15]),
        (500, 1, np.s_[9:10, :]),
        (1, 500, np.s_[:, 9:10]),
        (1, 1, np.s_[:, :]),
    ],
)
def test_proportions_are_kept_and_the_picture_is_centred(tmp_path, width, height, inside):
    path = save(Image.new("RGB", (width, height), (255, 0, 51)), tmp_path / "flat.png")
    expected = np.zeros((20, 20, 4), np.float32)
    expected[inside] = (1, 0, 0.2, 1)
    np.testing.assert_allclose(load_image(path, size=20, padding=0), expected, atol=1e-6)


def test_hidden_colours_leave_no_fringe(tmp_path):
    pixels = np.zeros((80, 80, 4), np.uint8)
    pixels[..., 1] = 255  # green where nothing is seen
    pixels[20:60, 20:60] = (255, 0, 0, 255)
    path = save(Image.fromarray(pixels), tmp_path / "square.png")
    assert load_image(path, premultiply=True)[..., 1].max() == 0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_png_modes(tmp_path, mode):
    grey = np.full((32, 32), 255, np.uint8)
    grey[:, :16] = 0
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
        assert image.mode == mode
    else:
        image = Image.fromarray(grey).convert(mode)
    pixels = load_image(save(image, tmp_path / "x.png"), size=32, padding=0)
    assert (pixels[..., 3] == 1).all()
    np.testing.assert_array_equal(pixels[..., :3], np.repeat(grey[..., None] / 255, 3, -1))


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    pixels = load_image(save(Image.fromarray(ramp), tmp_path / "x.png"), size=8, padding=0)
    np.testing.assert_allclose(pixels[..., 0], ramp / 65535, atol=0.5 / 255 + 1e-6)


def test_floats_have_no_agreed_range(tmp_path):
    path = save(Image.fromarray(np.full((8, 8), 0.5, np.float32)), tmp_path / "x.tiff")
    with pytest.raises(ValueError, match="floats, which have no agreed range"):
        load_image(path)


def test_transparent_palette_colour(tmp_path):
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 16, 8))
    pixels = load_image(save(image, tmp_path / "x.png", transparency=0), size=16, padding=0)
    assert not pixels[:8].any()
    np.testing.assert_array_equal(pixels[8:], np.broadcast_to([0, 0, 1, 1], (8, 16, 4)))


def test_cmyk(tmp_path):
    image = Image.new("RGB", (32, 32), (255, 0, 0)).convert("CMYK")
    pixels = load_image(save(image, tmp_path / "x.jpg", quality=100), size=32, padding=0)
    np.testing.assert_allclose(pixels, np.broadcast_to([1, 0, 0, 1], (32, 32, 4)), atol=0.02)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_first_frame_of_an_animation(tmp_path, suffix):
    red, blue = (Image.new("RGB", (16, 16), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    options = {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"x.{suffix}"
    save(red, path, save_all=True, append_images=[blue], duration=100, **options)
    with Image.open(path) as image:
        assert image.n_frames == 2
    pixels = load_image(path, size=16, padding=0)
    np.testing.assert_array_equal(pixels, np.broadcast_to([1, 0, 0, 1], (16, 16, 4)))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_camera_orientation_is_applied(tmp_path, suffix):
    image = Image.new("RGB", (32, 16), (255, 255, 255))
    image.paste((0, 0, 0), (0, 0, 16, 16))  # black on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # show it turned a quarter clockwise: black at the top
    pixels = load_image(save(image, tmp_path / f"x.{suffix}", exif=exif), size=32, padding=0)
    assert not pixels[:, :8].any() and not pixels[:, 24:].any()
    assert pixels[:14, 9:23, :3].max() < 0.1
    assert pixels[18:, 9:23, :3].min() > 0.9


def huge_png(width, height):
    """A PNG whose header promises more pixels than the file holds."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(b""))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")


BROKEN = {
    "empty": b"",
    "text": b"not an image",
    "truncated": png()[:-40],
    "header only": png()[:20],
    "bomb warned of by Pillow": huge_png(10_000, 10_000),
    "bomb refused by Pillow": huge_png(50_000, 50_000),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_broken_image_is_refused_by_name(tmp_path, content):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read the image .*broken\.png"):
        load_image(path)


def test_bomb_is_named_as_such(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(BROKEN["bomb warned of by Pillow"])
    with pytest.raises(ValueError, match="decompression bomb"):
        load_image(path)


@pytest.mark.parametrize("name", ["missing.png", ".", "a\0b.png", ""])
def test_missing_image_is_refused_by_name(tmp_path, name):
    path = f"{tmp_path}/{name}"
    with pytest.raises(ValueError, match="cannot read the image") as error:
        load_image(path)
    assert repr(path.removesuffix("/"))[1:-1] in str(error.value)


# Downloads: a real HTTP server on this machine stands in for Noto's repository.


@pytest.mark.parametrize(
    ("emoji", "path"),
    [
        ("🦖", "png/128/emoji_u1f996.png"),
        ("☎️", "png/128/emoji_u260e.png"),
        ("©️", "png/128/emoji_u00a9.png"),
        ("#️⃣", "png/128/emoji_u0023_20e3.png"),
        ("👋🏽", "png/128/emoji_u1f44b_1f3fd.png"),
        ("🏳️‍🌈", "png/128/emoji_u1f3f3_200d_1f308.png"),
        ("👨‍👩‍👧", "png/128/emoji_u1f468_200d_1f469_200d_1f467.png"),
        ("🧑🏽‍🚀", "png/128/emoji_u1f9d1_1f3fd_200d_1f680.png"),
        ("🏴", "png/128/emoji_u1f3f4.png"),
        ("🇫🇷", "third_party/region-flags/png/FR.png"),
        ("🇺🇲", "third_party/region-flags/png/US.png"),
        (
            "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
            "third_party/region-flags/png/GB-ENG.png",
        ),
    ],
    ids=ascii,
)
def test_sequences_have_the_names_that_noto_gives_them(emoji, path, cache, monkeypatch):
    asked = []
    monkeypatch.setattr(target, "_fetch", lambda url: asked.append(url) or png(60, 30))
    pixels = load_emoji(emoji, size=20, padding=0)
    assert asked == [target.NOTO_URL + path]
    assert pixels[5:15, :, 3].all() and not pixels[:5].any() and not pixels[15:].any()


def test_the_repository_is_reached_over_https_at_a_fixed_version():
    assert re.fullmatch(
        r"https://raw\.githubusercontent\.com/googlefonts/noto-emoji/v\d+\.\d+/", target.NOTO_URL
    )


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder; the path at which OTHER would be kept."""
    monkeypatch.setattr(target, "user_cache_dir", lambda *args, **kwargs: str(tmp_path / "cache"))
    return tmp_path / "cache" / f"noto-{target.NOTO_VERSION}" / "emoji_u1f996.png"


@pytest.fixture
def noto(cache, monkeypatch):
    """A server; `answers` maps a path to (status, headers, body), `asked` lists what was asked."""
    release = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
            status, headers, body = self.server.answers.get(self.path, (404, {}, b"no"))
            if body is None:  # never answer
                release.wait()
                return
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            try:
                body(self.wfile) if callable(body) else self.wfile.write(body)
            except OSError:  # the client has hung up, as it may
                self.server.hung_up.set()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answers, server.asked, server.hung_up = {}, [], threading.Event()
    server.release = release
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setattr(target, "NOTO_URL", f"http://127.0.0.1:{server.server_port}/")
    yield server
    release.set()
    server.shutdown()
    thread.join()
    server.server_close()


def refused(noto, cache):
    """The one error of a failed download; nothing may stay in the cache."""
    with pytest.raises(ValueError, match=f"cannot load the emoji '{OTHER}'") as error:
        load_emoji(OTHER)
    assert all(emoji in str(error.value) for emoji in list_emoji())
    assert "\n" not in str(error.value)
    # One error, not a chain of them.
    assert error.value.__cause__ is None and error.value.__suppress_context__
    assert not cache.exists()
    return str(error.value)


def test_download_is_verified_cached_and_used_again(noto, cache):
    noto.answers[OTHER_PATH] = (200, {}, png(colour=(255, 0, 0, 255)))
    first = load_emoji(OTHER, size=16, padding=1)
    np.testing.assert_array_equal(first[1:-1, 1:-1], np.broadcast_to([1, 0, 0, 1], (16, 16, 4)))
    assert cache.read_bytes() == png(colour=(255, 0, 0, 255))
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]  # nothing temporary
    noto.answers.clear()
    np.testing.assert_array_equal(load_emoji(OTHER, size=16, padding=1), first)
    assert noto.asked == [OTHER_PATH]


def test_cache_lies_in_the_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where the platform heeds it
    if Path(user_cache_dir()).resolve() != tmp_path.resolve():
        pytest.skip("this platform's cache folder is not set by XDG_CACHE_HOME")
    monkeypatch.setattr(target, "_fetch", lambda url: png())
    load_emoji(OTHER)
    assert [path.name for path in tmp_path.rglob("*.png")] == ["emoji_u1f996.png"]
    assert (tmp_path / "nca_lib").is_dir()


CACHED = {"empty": b"", "junk": b"junk", "truncated": png()[:50], "small": png(2, 2)}
CACHED["long"] = png() + bytes(1_000_000)


@pytest.mark.parametrize("content", CACHED.values(), ids=CACHED.keys())
def test_damaged_cache_is_renewed(noto, cache, content):
    cache.parent.mkdir(parents=True)
    cache.write_bytes(content)
    noto.answers[OTHER_PATH] = (200, {}, png())
    load_emoji(OTHER)
    assert cache.read_bytes() == png()


def test_interrupted_write_leaves_no_half_file(noto, cache, monkeypatch):
    noto.answers[OTHER_PATH] = (200, {}, png())

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert load_emoji(OTHER).any()  # the picture is used all the same
    assert list(cache.parent.iterdir()) == []


def test_unwritable_cache_is_no_obstacle(noto, cache):
    cache.parent.parent.write_text("a file where the folder should be")
    noto.answers[OTHER_PATH] = (200, {}, png())
    assert load_emoji(OTHER).any()


def test_unknown_emoji(noto, cache):
    assert "404" in refused(noto, cache)
    assert noto.asked == [OTHER_PATH]


def test_offline(cache, monkeypatch):
    with socket.socket() as unused:  # bound, not listening: connections are refused
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(target, "NOTO_URL", f"http://127.0.0.1:{unused.getsockname()[1]}/")
        refused(None, cache)


def test_server_that_does_not_answer(noto, cache, monkeypatch):
    monkeypatch.setattr(target, "TIMEOUT", 0.05)
    noto.answers[OTHER_PATH] = (200, {}, None)
    assert "timed out" in refused(noto, cache)


def jpeg():
    buffer = io.BytesIO()
    Image.new("RGB", (128, 128)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not a readable image"),
        (b"<html>sign in</html>", "not a readable image"),
        (png()[:-30], "not a readable image"),
        (jpeg(), "not a readable image"),
        (huge_png(10_000, 10_000), "decompression bomb"),
        (png(4, 4), "4 x 4 pixels"),
        (png(5000, 20), "5000 x 20 pixels"),
        (png() + b"\0" * 1_000_000, "more than 1000000 bytes"),
    ],
    ids=["empty", "page", "truncated", "jpeg", "bomb", "small", "wide", "long"],
)
def test_download_that_is_not_a_picture_of_noto(noto, cache, body, reason):
    noto.answers[OTHER_PATH] = (200, {}, body)
    assert reason in refused(noto, cache)


def test_download_stops_at_the_limit(noto, cache):
    noto.answers[OTHER_PATH] = (200, {}, bytes(64_000_000))  # far more than sockets buffer
    refused(noto, cache)
    assert noto.hung_up.wait(10)


def drip(noto):
    def write(file):
        while not noto.release.wait(0.01):  # a byte now and then, for ever
            file.write(b"a")
            file.flush()

    return write


@pytest.mark.parametrize("part", ["body", "headers"])
def test_a_server_that_drips_cannot_hold_it(noto, cache, monkeypatch, part):
    """Each byte comes in time, and all of them never."""
    monkeypatch.setattr(target, "DEADLINE", 0.3)
    if part == "headers":
        monkeypatch.setattr(noto.RequestHandlerClass, "end_headers", lambda self: None)
    noto.answers[OTHER_PATH] = (200, {}, drip(noto))
    assert "not complete after 0.3 seconds" in refused(noto, cache)
    noto.release.set()


LOAD = """
import sys
from nca_lib import target
target.NOTO_URL, folder, emoji = sys.argv[1:]
target.TIMEOUT = target.DEADLINE = 200.0  # for the last of them to have asked
target.user_cache_dir = lambda *args, **kwargs: folder
print(target.load_emoji(emoji, 8, 0).tobytes().hex())
"""


def test_many_processes_at_once_agree(noto, cache):
    """All have asked before any is answered, so all of them write the cache."""
    everyone = threading.Barrier(8)

    def write(file):
        everyone.wait(120)
        file.write(png())

    noto.answers[OTHER_PATH] = (200, {}, write)
    command = [sys.executable, "-c", LOAD, target.NOTO_URL, str(cache.parents[1]), OTHER]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipe) for _ in range(8)]
    outputs = [process.communicate(timeout=240) for process in processes]
    assert {process.returncode for process in processes} == {0}, outputs
    assert {said for said, _ in outputs} == {f"{load_emoji(OTHER, 8, 0).tobytes().hex()}\n"}
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]
    assert cache.read_bytes() == png() and len(noto.asked) == 8


def test_redirect_within_the_host_is_followed(noto, cache):
    noto.answers[OTHER_PATH] = (302, {"Location": "/moved.png"}, b"")
    noto.answers["/moved.png"] = (200, {}, png())
    load_emoji(OTHER)
    assert noto.asked == [OTHER_PATH, "/moved.png"]
    assert cache.exists()


def test_redirect_to_another_host_is_refused(noto, cache):
    noto.answers[OTHER_PATH] = (
        302,
        {"Location": f"http://localhost:{noto.server_port}/moved.png"},
        b"",
    )
    noto.answers["/moved.png"] = (200, {}, png())
    assert "redirect refused" in refused(noto, cache)
    assert noto.asked == [OTHER_PATH]


@pytest.mark.parametrize("url", ["http://a.org/x", "https://b.org/x", "https://a.org:444/x"])
def test_redirect_keeps_scheme_host_and_port(url):
    request = urllib.request.Request("https://a.org/y")
    handler = target._SameOrigin()
    with pytest.raises(urllib.error.HTTPError, match="redirect refused") as error:
        handler.redirect_request(request, io.BytesIO(), 302, "Found", {}, url)
    error.value.close()
    assert handler.redirect_request(request, None, 302, "Found", {}, "https://a.org/x") is not None
