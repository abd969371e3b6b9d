"""A short script beside an export: an image file in, its class out, without ConvAtlas.

It does what `Preprocessing` does with an image, in Pillow and NumPy.
"""

import json
from collections.abc import Sequence

from convatlas.data.mask_pictures import OKABE_ITO, palette
from convatlas.data.transforms.preprocessing import Preprocessing

_READ = """\
image = ImageOps.exif_transpose(Image.open(sys.argv[1]))
if image.has_transparency_data:
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
image = image.convert("{mode}")
"""
_RESIZE = """\
# resize so that the image just covers {height}x{width} (height x width), and crop the centre
scale = max({height} / image.height, {width} / image.width)
size = max({width}, int(image.width * scale)), max({height}, int(image.height * scale))
left, top = round((size[0] - {width}) / 2), round((size[1] - {height}) / 2)
image = image.resize(size, Image.Resampling.BILINEAR).crop((left, top, left + {width}, top + {height}))
"""
_FIT = {
    "none": "",
    "resize": "image = image.resize(({width}, {height}), Image.Resampling.BILINEAR)\n",
    "crop": "image = image.crop(({left}, {top}, {left} + {width}, {top} + {height}))  # the centre\n",
    # a crop beyond the image is black there
    "pad": "image = image.crop(({left}, {top}, {left} + {width}, {top} + {height}))  # zeros around it\n",
}
_CLASSIFY = """\
pixels = np.asarray(image).reshape({height}, {width}, {channels}).transpose(2, 0, 1)[None]
# the network itself subtracts the mean and divides by the standard deviation
logits = {run}
probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
print(f"{{classes[probabilities.argmax()]}} {{100 * probabilities.max():.2f}} %")
"""


_SCALE = """\
width, height = image.size
# the network sees the image at {scale} times its size
size = max(1, round({scale} * width)), max(1, round({scale} * height))
image = image.resize(size, Image.Resampling.BILINEAR)
"""
_LABEL = """\
pixels = np.asarray(image).reshape(image.height, image.width, {channels})
mask = np.empty(pixels.shape[:2], np.uint8)


def mirror(positions, size):
    positions = positions % max(2 * (size - 1), 1)
    return np.where(positions < size, positions, max(2 * (size - 1), 1) - positions)


# tiles of {height}x{width} pixels (height x width), of which the network labels what is {margin} inside;
# beyond the image lies its mirror image
for top in range(0, image.height, {step_y}):
    for left in range(0, image.width, {step_x}):
        rows = mirror(np.arange({height}) + top - {margin}, image.height)
        columns = mirror(np.arange({width}) + left - {margin}, image.width)
        tile = np.ascontiguousarray(pixels[rows[:, None], columns].transpose(2, 0, 1)[None])
        # the network itself subtracts the mean and divides by the standard deviation
        logits = {run}
        target = mask[top : top + logits.shape[1], left : left + logits.shape[2]]
        target[:] = logits.argmax(0)[: target.shape[0], : target.shape[1]]

result = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
result.putpalette({palette})
result.save(sys.argv[2])
shares = np.bincount(mask.ravel(), minlength=len(classes)) / mask.size
print(", ".join(f"{{classes[i]}} {{100 * shares[i]:.1f}} %" for i in np.argsort(-shares) if shares[i]))
"""


def onnx_script(preprocessing: Preprocessing, file_name: str) -> str:
    """For an ONNX file with the name `file_name` in the script's folder."""
    return _script(
        preprocessing,
        "onnxruntime",
        [
            f"session = onnxruntime.InferenceSession(str(Path(__file__).parent / {json.dumps(file_name)}))",
            'classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])',
        ],
        'session.run(["logits"], {"images": IMAGES})[0][0]',
    )


def openvino_script(preprocessing: Preprocessing) -> str:
    """For the folder of an OpenVINO model, in which the script stands."""
    return _script(
        preprocessing,
        "openvino",
        [
            'model = openvino.Core().read_model(Path(__file__).parent / "model.xml")',
            'classes = json.loads(model.get_rt_info("classes").astype(str))',
            'network = openvino.compile_model(model, "CPU")',
        ],
        "network(IMAGES)[0][0]",
    )


def _script(preprocessing: Preprocessing, library: str, load: Sequence[str], run: str) -> str:
    if preprocessing.mode == "tiles":
        return _mask_script(preprocessing, library, load, run.replace("IMAGES", "tile"))
    before, after = preprocessing.resize_size, preprocessing.input_size
    channels = preprocessing.channels
    top, left = ((before[0] - after[0]) // 2, (before[1] - after[1]) // 2)
    if preprocessing.mode == "pad":
        top, left = -((after[0] - before[0]) // 2), -((after[1] - before[1]) // 2)
    return (
        _head("Classify an image file by the network beside it", library, load)
        + _READ.format(mode="L" if channels == 1 else "RGB")
        + _RESIZE.format(height=before[0], width=before[1])
        + _FIT[preprocessing.mode].format(height=after[0], width=after[1], top=top, left=left)
        + _CLASSIFY.format(
            height=after[0], width=after[1], channels=channels, run=run.replace("IMAGES", "pixels")
        )
    )


def _mask_script(preprocessing: Preprocessing, library: str, load: Sequence[str], run: str) -> str:
    height, width = preprocessing.input_size
    margin, stride = preprocessing.margin, preprocessing.stride
    step_y, step_x = (side // stride * stride for side in preprocessing.output_size)
    colors = palette()[: len(OKABE_ITO) + 1].ravel().tolist()
    return (
        _head("Write the mask of an image file, by the network beside it: IMAGE MASK.png", library, load)
        + _READ.format(mode="L" if preprocessing.channels == 1 else "RGB")
        + _SCALE.format(scale=preprocessing.scale)
        + _LABEL.format(
            height=height,
            width=width,
            channels=preprocessing.channels,
            margin=margin,
            step_y=step_y,
            step_x=step_x,
            run=run,
            palette=colors,
        )
    )


def _head(purpose: str, library: str, load: Sequence[str]) -> str:
    return (
        f'"""{purpose}. Needs numpy, pillow and {library}."""\n\n'
        "import json\nimport sys\nfrom pathlib import Path\n\n"
        f"import numpy as np\nimport {library}\nfrom PIL import Image, ImageOps\n\n" + "\n".join(load) + "\n"
    )
