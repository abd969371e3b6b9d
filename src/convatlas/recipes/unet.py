"""U-Net. Ronneberger, Fischer, Brox 2015, arXiv:1505.04597, sec. 3.

Run: convatlas train unet --data folder:PATH --recipe paper, with PATH/train/images and PATH/train/masks.
"""

from convatlas.data.transforms.elastic import ElasticTransform
from convatlas.data.transforms.normalize import ChannelMeanStd, PixelRange
from convatlas.data.transforms.random_tile import RandomTile
from convatlas.optim.clipping import ClipNorm
from convatlas.optim.losses import PixelCrossEntropy
from convatlas.optim.optimizers import SGD, Adam
from convatlas.optim.schedules import Constant, OneCycle
from convatlas.recipes.recipe import Epochs, Iterations, Recipe

UNET = Recipe(
    name="unet",
    source="arXiv:1505.04597, sec. 3 and 3.1",
    batch=1,
    batch_rule=None,
    budget=Iterations(60_000),
    optimizer=SGD(lr=1e-3, momentum=0.99),
    schedule=Constant(),
    loss=PixelCrossEntropy(ignore=255, border_weight=10.0, border_sigma=5.0),
    class_weights="balanced",  # w_c of eq. 2
    normalize=PixelRange(low=0.0, high=1.0),
    crop=RandomTile(elastic=ElasticTransform(std=10.0, grid=3)),
    unstated=(
        "learning rate (ours: 1e-3)",
        "budget (ours: 60,000 steps, about the 10 hours of sec. 5)",
        "normalize (ours: 0 to 1)",
        "where a tile lies in an image (ours: at a random place)",
        "whether the loss is the sum or the mean over pixels (ours: the weighted mean)",
        "how a displaced image is interpolated (ours: bilinearly), and how displacements are, beyond bicubic "
        "(ours: by Keys' convolution with a = -0.75, the grid's border repeated)",
    ),
)

UNET_SMALL = UNET.replace(
    name="unet_small",
    batch=4,
    batch_rule="linear",
    budget=Epochs(3),
    optimizer=Adam(lr=2e-3),
    schedule=OneCycle(),
    class_weights="none",
    loss=PixelCrossEntropy(ignore=255),
    clip=ClipNorm(norm=1.0),
    normalize=ChannelMeanStd(),
    crop=RandomTile(scale=0.5, hflip=True, elastic=ElasticTransform(std=5.0, grid=3)),
    network={"width": 0.125, "image_size": (316, 348), "dropout": 0.0},
    reduced={
        "width": "an eighth of the channels",
        "image": "half its size, in tiles of 348x316; and so half the elastic displacements",
        "schedule": "3 epochs of batches of 4, one cycle of Adam, in place of 60,000 images at a momentum of "
        "0.99: in so short a time SGD does not leave the constant prediction",
        "dropout": "none: it would drop half of 64 channels",
        "loss": "without the weights of borders and classes: the images of the small sets have one object",
    },
    unstated=(),
)
