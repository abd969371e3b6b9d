"""Unusual properties of image files that can still be read: worth knowing, none of them an error."""

from pathlib import PurePath

from convatlas.data.images.decode import EXTENSIONS, EncodedImage, Pixels, is_grayscale

_EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
_DEEP_MODES = ("I", "F")  # the first letter of Pillow's modes of 16 and 32 bits
_PNG_DEPTH_OFFSET = 24  # the byte of a PNG's header with the bits per channel


def image_warnings(image: EncodedImage, pixels: Pixels, channels: int) -> list[str]:
    """List the warnings about an image, decoded to `pixels`, in a data set of `channels` channels."""
    try:
        return [*_file_warnings(image), *_color_warnings(image, pixels, channels)]
    except Exception:  # decoders raise all kinds of exceptions, here about data that no training reads
        return ["damaged headers, or damaged data after its first frame; its pixels can be read"]


def _file_warnings(image: EncodedImage) -> list[str]:
    messages = []
    pil_image = image.pil_image
    image_format = {"MPO": "JPEG"}.get(pil_image.format or "", pil_image.format or "")
    extension = PurePath(image.name).suffix.lower()
    if extension in EXTENSIONS and extension not in _EXTENSIONS[image_format]:
        messages.append(f"{image_format} called {extension}")
    if image.orientation != 1:
        messages.append("rotated or flipped as its EXIF orientation says")
    if getattr(pil_image, "is_animated", False):
        messages.append("several frames or pages: the first is used")
    if image_format == "JPEG":
        if pil_image.info.get("progressive"):
            messages.append("progressive JPEG: takes longer to read")
        # Pillow empties `tile` when it decodes, which it does only if libjpeg-turbo could not
        if image.uses_libjpeg_turbo and not getattr(pil_image, "tile", None):
            messages.append("stray bytes in its JPEG data: part of it may be damaged, look at it")
        if not image.data.rstrip(b"\0").endswith(b"\xff\xd9"):
            messages.append("bytes after the end of its JPEG data: ignored")
    return messages


def _color_warnings(image: EncodedImage, pixels: Pixels, channels: int) -> list[str]:
    messages = []
    pil_image = image.pil_image
    is_deep_png = pil_image.format == "PNG" and image.data[_PNG_DEPTH_OFFSET] == 16
    if pil_image.mode == "P":
        messages.append("colours from a palette")
    elif pil_image.mode.startswith(_DEEP_MODES) or is_deep_png:
        messages.append("more than 8 bits a channel: reduced to 8")
    elif pil_image.mode in ("CMYK", "YCbCr", "LAB", "HSV") and not image.uses_libjpeg_turbo:
        messages.append(f"{pil_image.mode}: converted to RGB")
    if pil_image.has_transparency_data:
        messages.append("transparency: composited on white")
    if channels == 3 and is_grayscale(image):
        messages.append("grey in a set of colour images")
    # the first row alone rules out most images quickly
    if (pixels[0] == pixels[0, 0]).all() and (pixels == pixels[0, 0]).all():
        messages.append("one colour all over")
    return messages
