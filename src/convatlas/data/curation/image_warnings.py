"""What is odd about an image file that can be read all the same: things to know, none of them an error."""

from pathlib import PurePath

from convatlas.data.images.decode import EXTENSIONS, EncodedImage, Pixels, is_grayscale

_EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
}
_DEEP = ("I", "F")  # Pillow's modes of 16 and 32 bits begin with these
_PNG_DEPTH = 24  # where the header of a PNG says how many bits a channel has


def image_warnings(image: EncodedImage, pixels: Pixels, channels: int) -> list[str]:
    """Of an image that has been decoded to `pixels`, in a data set of so many channels."""
    try:
        return [*_file(image), *_colours(image, pixels, channels)]
    except Exception:  # decoders raise whatever they like, here about what no training reads
        return ["what follows its first frame, or its headers, are damaged; its pixels can be read"]


def _file(image: EncodedImage) -> list[str]:
    found, opened = [], image.opened
    kind = {"MPO": "JPEG"}.get(opened.format or "", opened.format or "")
    extension = PurePath(image.name).suffix.lower()
    if extension in EXTENSIONS and extension not in _EXTENSIONS[kind]:
        found.append(f"{kind} called {extension}")
    if image.orientation != 1:
        found.append("turned as its EXIF says")
    if getattr(opened, "is_animated", False):
        found.append("several frames or pages: the first is taken")
    if kind == "JPEG":
        if opened.info.get("progressive"):
            found.append("progressive JPEG: takes longer to read")
        if image.jpeg and not getattr(opened, "tile", None):  # Pillow empties the list when it decodes
            found.append("stray bytes in its JPEG data: part of it may be damaged, look at it")
        if not image.data.rstrip(b"\0").endswith(b"\xff\xd9"):
            found.append("bytes after the end of its JPEG data: passed over")
    return found


def _colours(image: EncodedImage, pixels: Pixels, channels: int) -> list[str]:
    found, opened = [], image.opened
    if opened.mode == "P":
        found.append("colours from a palette")
    elif opened.mode.startswith(_DEEP) or (opened.format == "PNG" and image.data[_PNG_DEPTH] == 16):
        found.append("more than 8 bits a channel: reduced to 8")
    elif opened.mode in ("CMYK", "YCbCr", "LAB", "HSV") and not image.jpeg:
        found.append(f"{opened.mode}: turned to RGB")
    if opened.has_transparency_data:
        found.append("transparency: laid on white")
    if channels == 3 and is_grayscale(image):
        found.append("grey in a set of colour images")
    if (pixels[0] == pixels[0, 0]).all() and (pixels == pixels[0, 0]).all():  # the first row alone tells most
        found.append("one colour all over")
    return found
