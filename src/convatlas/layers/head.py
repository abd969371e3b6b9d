"""The three fully connected layers that end AlexNet, ZFNet and VGG."""

from collections import OrderedDict

from torch import nn


def fully_connected_head(
    c_in: int, units: int, num_classes: int, dropout: float
) -> OrderedDict[str, nn.Module]:
    """fc6 and fc7, each with ReLU and dropout on its output, and fc8. Krizhevsky 2012, sec. 3.5 and 4.2."""
    return OrderedDict(
        flatten=nn.Flatten(),
        fc6=nn.Linear(c_in, units),
        relu6=nn.ReLU(inplace=True),
        drop6=nn.Dropout(dropout),
        fc7=nn.Linear(units, units),
        relu7=nn.ReLU(inplace=True),
        drop7=nn.Dropout(dropout),
        fc8=nn.Linear(units, num_classes),
    )
