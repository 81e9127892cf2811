"""Render the emoji that ship with nca_lib from the Noto Color Emoji bitmap font.

Run from the root of the repository, on a machine with Debian's ``fonts-noto-color-emoji``:

    python book/experiments/make_emoji.py [--font NotoColorEmoji.ttf] [--out nca_lib/data/emoji]

It writes one 128x128 straight-alpha PNG per emoji and ``manifest.json`` (name, file, SHA-256,
origin, licence). The same font and the same Pillow give the same bytes. ``OFL.txt``, beside
them, is the licence of the font and is kept by hand.
"""

import argparse
import hashlib
import json
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_SHA256 = (  # of fonts-noto-color-emoji 2.042-0+deb12u1, the version the manifest names
    "e5899ed38b8ed83e08bd3ac5de09791e9d19d288333a796de1d35ad17396f1ec"
)
OUT = Path(__file__).resolve().parents[2] / "nca_lib" / "data" / "emoji"
STRIKE = 109  # pixels per em of the font's only bitmap strike
GLYPH = (136, 128)  # width and height of its bitmaps: the artwork and 4 empty columns a side
SIDE = 128

# The lizard first; then shapes that are hard in different ways.
EMOJI = {
    "🦎": "lizard",
    "🦋": "butterfly",
    "🐙": "octopus",
    "🐠": "tropical fish",
    "🐢": "turtle",
    "🐝": "honeybee",
    "🐞": "lady beetle",
    "🕷️": "spider",
    "🦀": "crab",
    "🦩": "flamingo",
    "🌵": "cactus",
    "🍄": "mushroom",
    "🌸": "cherry blossom",
    "🍩": "doughnut",
    "⭐": "star",
    "❤️": "red heart",
    "🌍": "globe showing Europe and Africa",
    "❄️": "snowflake",
}


def code_points(emoji: str) -> list[str]:
    """Code points in Noto's spelling: hexadecimal, variation selector 16 left out."""
    return [f"{ord(char):04x}" for char in emoji if char != "\ufe0f"]


def render(emoji: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Draw one glyph at its native size into a transparent square of 128x128, straight alpha."""
    text = emoji.replace("\ufe0f", "")
    left, top, right, bottom = font.getbbox(text)
    if (right - left, bottom - top) != GLYPH:
        raise SystemExit(f"{emoji}: glyph box {left, top, right, bottom}, expected {GLYPH}")
    canvas = Image.new("RGBA", GLYPH)
    ImageDraw.Draw(canvas).text((-left, -top), text, font=font, embedded_color=True)
    # Drawing over transparent black multiplies the colours by their alpha: undo that.
    glyph = Image.frombytes("RGBa", GLYPH, canvas.tobytes()).convert("RGBA")
    margin = (GLYPH[0] - SIDE) // 2
    square = glyph.crop((margin, 0, margin + SIDE, SIDE))
    if sum(square.getchannel("A").histogram()[1:]) != sum(glyph.getchannel("A").histogram()[1:]):
        raise SystemExit(f"{emoji}: the margin of the glyph is not empty")
    return square


def main() -> None:
    """Write the PNGs and the manifest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--font", type=Path, default=FONT)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    if hashlib.sha256(args.font.read_bytes()).hexdigest() != FONT_SHA256:
        raise SystemExit(f"{args.font} is not version 2.042 of Debian's Noto Color Emoji")
    font = ImageFont.truetype(args.font, STRIKE, layout_engine=ImageFont.Layout.BASIC)
    args.out.mkdir(parents=True, exist_ok=True)
    entries = []
    for emoji, name in EMOJI.items():
        path = args.out / f"emoji_u{'_'.join(code_points(emoji))}.png"
        render(emoji, font).save(path, optimize=True)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        entries.append({"emoji": emoji, "name": name, "file": path.name, "sha256": digest})
    manifest = {
        "origin": "https://github.com/googlefonts/noto-emoji",
        "font": "Noto Color Emoji",
        "font_version": "2.042",
        "font_package": "Debian fonts-noto-color-emoji 2.042-0+deb12u1",
        "font_sha256": FONT_SHA256,
        "copyright": "Copyright 2022 Google Inc.",
        "licence": "SIL Open Font License 1.1",
        "licence_file": "OFL.txt",
        "emoji": entries,
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (args.out / "manifest.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
