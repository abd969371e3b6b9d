"""`analyze` on unmodified networks of other libraries."""

import importlib

import pytest
import torch
from helpers.peers import import_or_skip
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convatlas.analysis import analyze
from convatlas.analysis.trace.shape_cache import ShapeCacheMode

NETWORKS = {
    "torchvision": (
        *("alexnet", "vgg11_bn", "googlenet", "inception_v3", "resnet50", "resnext50_32x4d"),
        *("wide_resnet50_2", "densenet121", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_large"),
        *("mnasnet1_0", "shufflenet_v2_x1_0", "efficientnet_b0", "efficientnet_v2_s"),
        *("regnet_y_400mf", "regnet_x_400mf", "convnext_tiny", "vit_b_16", "swin_t", "maxvit_t"),
    ),
    "torchvision.segmentation": ("fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"),
    "timm": (
        *("densenet121", "efficientnet_b0", "tf_efficientnet_b0", "convnext_tiny", "regnety_004"),
        *("regnetx_002", "resnest14d", "res2net50_26w_4s", "dla34", "hrnet_w18_small"),
        *("mobilenetv3_small_100", "ghostnet_100", "repvgg_a0", "rexnet_100", "cspdarknet53"),
        *("dpn68", "nfnet_l0", "skresnet18", "xception41", "inception_v4", "inception_resnet_v2"),
        *("mobileone_s0", "vit_tiny_patch16_224", "mixer_s32_224", "poolformer_s12", "levit_128s"),
    ),
    "pytorchcv": (
        *("resnet18", "preresnet18", "seresnet18", "densenet121", "squeezenet_v1_0"),
        *("mobilenet_w1", "shufflenet_g1_w1", "menet108_8x1_g3", "igcv3_w1", "mnasnet_b1"),
        *("darknet_tiny", "bninception", "xception", "polynet", "pnasnet5large", "unet_cityscapes"),
    ),
}


def create_network(library: str, name: str) -> nn.Module:
    # torchvision's RegNet computes its widths with tensors, which need values.
    with torch.device("cpu" if "regnet_" in name else "meta"):
        if library == "timm":
            model: nn.Module = import_or_skip("timm").create_model(name)
        elif library == "pytorchcv":
            import_or_skip("pytorchcv")
            model = importlib.import_module("pytorchcv.model_provider").get_model(name)
        else:
            arguments: dict[str, bool | None] = {}
            if name in ("googlenet", "inception_v3"):
                arguments["init_weights"] = False
            if library.endswith("segmentation"):
                arguments["weights_backbone"] = None
            model = import_or_skip("torchvision").models.get_model(name, weights=None, **arguments)
    return model.eval().to("meta")


SIDES = {"inception_v": 299, "xception": 299, "polynet": 331, "pnasnet": 331}  # by a part of the name


def image_side(name: str) -> int:
    return next((side for part, side in SIDES.items() if part in name), 224)


@pytest.mark.parametrize(
    ("library", "name"), [(library, name) for library, names in NETWORKS.items() for name in names]
)
def test_every_operator_of_another_librarys_network_is_supported(library: str, name: str) -> None:
    model = create_network(library, name)
    side = image_side(name)
    report = analyze(model, (3, side, side))
    assert [note for note in report.notes if "unsupported operator" in note] == []
    assert report.params == sum(p.numel() for p in model.parameters())
    with torch.device("meta"), torch.no_grad(), ShapeCacheMode(), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, side, side))
    assert 2 * report.macs == counter.get_total_flops() > 0
    assert report.training_bytes
    assert report.receptive_field("")[0].size >= 1
    assert len(report.to_markdown()) > 500
