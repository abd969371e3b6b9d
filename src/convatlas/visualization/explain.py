"""One image explained: the network's input, Grad-CAM for its likeliest classes, and the projection of one
feature map."""

from pathlib import Path

import torch

from convatlas.classifier import Classifier
from convatlas.data.images.decode import open_image
from convatlas.visualization.deconvolution import deconv_reconstruct
from convatlas.visualization.feature_maps import forward_with_maps
from convatlas.visualization.grad_cam import grad_cam
from convatlas.visualization.plots import TitledImage, overlay, signal_to_image, to_image

NUM_CLASSES = 3


def explain_image(
    classifier: Classifier,
    file: Path,
    layer: str,
    class_name: str = "",
    map: int | None = None,
) -> list[TitledImage]:
    """Images with titles, for one row of a figure.

    `layer`: the path of a module whose output is feature maps. `class_name`: the class to explain, by default
    the three likeliest. `map`: the number of the projected map, by default the one with the highest
    activation. Raises UserError for a file that is no image, UsageError for a layer or a map that does not
    exist.
    """
    image = classifier.metadata.preprocessing.transform(open_image(file))
    normalized = classifier.normalizer(image[None].to(classifier.runtime.device))
    with torch.no_grad():
        maps, logits = forward_with_maps(classifier.model, normalized, layer)
    probabilities = logits.softmax(1)[0].tolist()
    classes = list(classifier.metadata.classes)
    if class_name:
        labels = [classes.index(class_name)]
    else:
        labels = sorted(range(len(classes)), key=lambda i: -probabilities[i])[:NUM_CLASSES]
    images = [TitledImage(to_image(image), f"{file.name}, the network's input")]
    for label in labels:
        (cam,) = grad_cam(classifier.model, normalized, torch.tensor([label]), layer)
        remark = "" if cam.any() else ": no evidence here"
        title = f"{classes[label]} {100 * probabilities[label]:.1f} %{remark}"
        images.append(TitledImage(overlay(image, cam), title))
    number = int(maps[0].amax((1, 2)).argmax()) if map is None else map
    projection = deconv_reconstruct(classifier.model, normalized, layer, number)[0].cpu()
    return [*images, TitledImage(signal_to_image(projection), f"map {number} of {layer}, projected down")]
