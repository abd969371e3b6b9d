"""A short script beside an export: an image file in, its class out, without ConvAtlas.

It does what `Preprocessing` does with an image, in Pillow and NumPy.
"""

import json
from collections.abc import Sequence

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


def onnx_script(preprocessing: Preprocessing, file_name: str) -> str:
    """For an ONNX file with the name `file_name` in the script's folder."""
    return _script(
        preprocessing,
        "onnxruntime",
        [
            f"session = onnxruntime.InferenceSession(str(Path(__file__).parent / {json.dumps(file_name)}))",
            'classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])',
        ],
        'session.run(["logits"], {"images": pixels})[0][0]',
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
        "network(pixels)[0][0]",
    )


def _script(preprocessing: Preprocessing, library: str, load: Sequence[str], run: str) -> str:
    before, after = preprocessing.resize_size, preprocessing.input_size
    channels = preprocessing.channels
    top, left = ((before[0] - after[0]) // 2, (before[1] - after[1]) // 2)
    if preprocessing.mode == "pad":
        top, left = -((after[0] - before[0]) // 2), -((after[1] - before[1]) // 2)
    return (
        f'"""Classify an image file by the network beside it. Needs numpy, pillow and {library}."""\n\n'
        "import json\nimport sys\nfrom pathlib import Path\n\n"
        f"import numpy as np\nimport {library}\nfrom PIL import Image, ImageOps\n\n"
        + "\n".join(load)
        + "\n"
        + _READ.format(mode="L" if channels == 1 else "RGB")
        + _RESIZE.format(height=before[0], width=before[1])
        + _FIT[preprocessing.mode].format(height=after[0], width=after[1], top=top, left=left)
        + _CLASSIFY.format(height=after[0], width=after[1], channels=channels, run=run)
    )
