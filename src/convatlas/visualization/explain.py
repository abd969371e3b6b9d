"""One image explained: the network's input, Grad-CAM for its likeliest classes, and the projection of one
feature map."""

from pathlib import Path

import torch

from convatlas.analysis import analyze
from convatlas.classifier import Classifier
from convatlas.data.images.decode import open_image
from convatlas.visualization.deconvolution import deconv_reconstruct
from convatlas.visualization.feature_maps import field_slices, forward_with_maps
from convatlas.visualization.grad_cam import grad_cam
from convatlas.visualization.plots import Explanation, TitledImage, overlay, signal_to_image, to_image

NUM_CLASSES = 3
OVERLAY_SIDE = 224  # pixels that a small image is enlarged to, about


def explain_image(
    classifier: Classifier,
    file: Path,
    layer: str,
    class_name: str = "",
    map: int | None = None,
) -> Explanation:
    """The images of one figure.

    `layer`: the path of a module whose output is feature maps. `class_name`: the class to explain, by default
    the three likeliest. `map`: the number of the projected map, by default the one with the highest
    activation. Raises UserError for a file that is no image, UsageError for a layer or a map that does not
    exist.
    """
    preprocessing = classifier.metadata.preprocessing
    image = preprocessing.transform(open_image(file))
    normalized = classifier.normalizer(image[None].to(classifier.runtime.device))
    with torch.no_grad():
        maps, logits = forward_with_maps(classifier.model, normalized, layer)
    # of a network that labels pixels, the mean over them
    probabilities = logits.softmax(1)[0].reshape(logits.shape[1], -1).mean(1).tolist()
    classes = list(classifier.metadata.classes)
    if class_name:
        labels = [classes.index(class_name)]
    else:
        labels = sorted(range(len(classes)), key=lambda i: -probabilities[i])[:NUM_CLASSES]
    overlays = []
    for label in labels:
        (cam,) = grad_cam(classifier.model, normalized, torch.tensor([label]), layer)
        remark = "" if cam.any() else ": no evidence here"
        title = f"{classes[label]} {100 * probabilities[label]:.1f} %{remark}"
        overlays.append(TitledImage(overlay(image, cam, OVERLAY_SIDE), title))
    number = int(maps[0].amax((1, 2)).argmax()) if map is None else map
    projection = deconv_reconstruct(classifier.model, normalized, layer, number)[0].cpu()
    height, width = maps.shape[2:]
    row, column = divmod(int(maps[0, number].argmax()), width)
    rows, columns = field_slices(
        analyze(classifier.model, preprocessing.shape), layer, (row, column), preprocessing.input_size
    )
    patch = image[:, rows, columns]
    size = f"{patch.shape[2]}x{patch.shape[1]} pixels"
    return Explanation(
        title=f"{layer}, maps of {width}x{height}: Grad-CAM, and the strongest activation of map {number}",
        image=TitledImage(to_image(image), f"{file.name}, the network's input"),
        overlays=overlays,
        patch=TitledImage(to_image(patch), f"receptive field of the activation, {size}"),
        projection=TitledImage(signal_to_image(projection[:, rows, columns]), "projected to these pixels"),
    )
