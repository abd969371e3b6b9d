"""Damaged image files, and files that are unusual but readable. All of them show the same image."""

import io
import pickle
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 60, 80


def unreadable_files() -> dict[str, bytes]:
    """Files that no training can read."""
    jpeg, png, gif, webp, bmp, tiff = map(encode, ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"))
    progressive = encode("JPEG", progressive=True)
    scan = jpeg.index(b"\xff\xda")
    scan_length = len(jpeg) - scan
    return {
        "empty.jpg": b"",
        "one_byte.png": b"\x89",
        "text.jpg": b"this was to be a photograph\n",
        "page.png": b"<!doctype html>\n<html><body>404 Not Found</body></html>\n",
        "zeros.jpg": bytes(5000),
        "noise.jpg": np.random.default_rng(0).bytes(5000),
        "object.jpg": pickle.dumps({"not": "an image"}),
        "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
        "layers.png": _psd(),
        "truncated.jpg": jpeg[: scan + scan_length // 2],
        "last_bytes_lost.jpg": jpeg[:-40],
        "header_only.jpg": jpeg[:scan],
        "no_scan_data.jpg": jpeg[: scan + 14],
        "zeroed_middle.jpg": _zeroed(jpeg, scan + scan_length // 3, scan_length // 3),
        "foreign_middle.jpg": _overwritten(
            jpeg, scan + scan_length // 2, b"\xff\xd9 some page of another file " * 4
        ),
        "huffman_table.jpg": _zeroed(jpeg, jpeg.index(b"\xff\xc4") + 5, 28),
        "no_quantisation_table.jpg": _without_segment(jpeg, 0xDB),
        "no_size.jpg": _zeroed(jpeg, jpeg.index(b"\xff\xc0") + 5, 4),
        "truncated_progressive.jpg": progressive[: len(progressive) // 2],
        "truncated.png": png[: len(png) // 2],
        "checksum.png": _zeroed(png, png.index(b"IDAT") + 100, 8),
        "header_checksum.png": _zeroed(png, png.index(b"IHDR") + 17, 4),
        "no_data.png": png[: png.index(b"IDAT") - 4] + _png_chunk(b"IEND", b""),
        "bomb.png": _decompression_bomb(),
        "truncated.gif": gif[: len(gif) // 2],
        "truncated.webp": webp[: len(webp) // 2],
        "truncated.bmp": bmp[: len(bmp) // 2],
        "huge_header.bmp": bmp[:18] + struct.pack("<ii", 60_000, 60_000) + bmp[26:],
        "truncated.tif": tiff[: len(tiff) // 2],
        "directory_beyond_the_end.tif": tiff[:4] + struct.pack("<I", len(tiff) + 1000) + tiff[8:],
    }


def unusual_files() -> dict[str, bytes]:
    """Files that every training can read, and that a check should report."""
    image = color_image()
    gray = image.convert("L")
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    transparent = image.convert("RGBA")
    transparent.putalpha(gray)
    jpeg = encode("JPEG")
    return {
        "cmyk.jpg": encode("JPEG", image.convert("CMYK")),
        "sixteen_bits.png": encode("PNG", deep),
        "turned.jpg": encode("JPEG", exif=exif),
        "palette.png": encode("PNG", image.convert("P")),
        "alpha.png": encode("PNG", transparent),
        "animated.gif": encode("GIF", save_all=True, append_images=[gray]),
        "pages.tif": encode("TIFF", save_all=True, append_images=[image]),
        "in_fact_png.jpg": encode("PNG"),
        "in_fact_jpeg.png": jpeg,
        "grey.jpg": encode("JPEG", gray),
        "progressive.jpg": encode("JPEG", progressive=True),
        "bytes_after.jpg": jpeg + b"bytes that a camera added",
        "bytes_before_the_end.jpg": jpeg[:-2] + b"bytes that a program added" + jpeg[-2:],
        "one_colour.png": encode("PNG", Image.new("RGB", (WIDTH, HEIGHT), (200, 30, 60))),
    }


def color_image() -> Image.Image:
    """A smooth image in colour, so that every format loses something of it."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [128 + 100 * np.sin(y / a + x / b) for a, b in ((7, 5), (4, 11), (13, 6))]
    noise = np.random.default_rng(1).integers(-20, 20, size=(HEIGHT, WIDTH, 3))
    return Image.fromarray((np.stack(waves, axis=2) + noise).clip(0, 255).astype(np.uint8))


def encode(image_format: str, image: Image.Image | None = None, **options: Any) -> bytes:
    """The file of an image, by default of `color_image`."""
    buffer = io.BytesIO()
    (image or color_image()).save(buffer, image_format, **options)
    return buffer.getvalue()


def _zeroed(data: bytes, start: int, length: int) -> bytes:
    return data[:start] + bytes(length) + data[start + length :]


def _overwritten(data: bytes, start: int, replacement: bytes) -> bytes:
    return data[:start] + replacement + data[start + len(replacement) :]


def _without_segment(jpeg: bytes, marker: int) -> bytes:
    """Leave out all segments with a marker (ITU-T T.81, B.1.1.4)."""
    remaining = jpeg[:2]
    position = 2
    while jpeg[position + 1] != 0xDA:
        end = position + 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
        if jpeg[position + 1] != marker:
            remaining += jpeg[position:end]
        position = end
    return remaining + jpeg[position:]


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _decompression_bomb() -> bytes:
    """400 million pixels of one bit in a few kilobytes."""
    rows = zlib.compress(bytes(20_000 * 2501), 9)
    header = _png_chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _png_chunk(b"IDAT", rows) + _png_chunk(b"IEND", b"")


def _psd() -> bytes:
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 4, 4, 8, 3)
    return header + bytes(12) + struct.pack(">H", 0) + bytes(48)
