"""Hugging Face transformers' ResNets: its names, its folders, and where its configuration puts the stride."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from helpers.networks import randomize_weights
from torch import Tensor

from convatlas import interop, models
from convatlas.errors import UserError
from convatlas.interop.load_weights import load_weights, to_library_state_dict
from convatlas.models import Network

StateDict = dict[str, Tensor]

# Names of microsoft/resnet-50's tensors, as transformers prints them
NAMES = {
    "resnet.embedder.embedder.convolution.weight": (64, 3, 7, 7),
    "resnet.embedder.embedder.normalization.running_var": (64,),
    "resnet.encoder.stages.0.layers.0.shortcut.convolution.weight": (256, 64, 1, 1),
    "resnet.encoder.stages.0.layers.0.layer.0.convolution.weight": (64, 64, 1, 1),
    "resnet.encoder.stages.1.layers.0.shortcut.normalization.bias": (512,),
    "resnet.encoder.stages.3.layers.2.layer.2.convolution.weight": (2048, 512, 1, 1),
    "resnet.encoder.stages.3.layers.2.layer.1.normalization.num_batches_tracked": (),
    "classifier.1.weight": (1000, 2048),
    "classifier.1.bias": (1000,),
}


def resnet50(edition: str) -> Network:
    return models.create_model("resnet50", edition=edition, width=0.25, num_classes=5)


def write_folder(folder: Path, state: StateDict, **config: Any) -> Path:
    safetensors.torch.save_file(state, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(
        json.dumps({"architectures": ["ResNetForImageClassification"]} | config)
    )
    return folder


@pytest.fixture
def state() -> StateDict:
    model = resnet50("torchvision")
    randomize_weights(model)
    return {key: value.clone() for key, value in to_library_state_dict(model, "huggingface").items()}


def test_the_names_are_those_of_transformers() -> None:
    with torch.device("meta"):
        model = models.create_model("resnet50", edition="torchvision")
    state = to_library_state_dict(model, "huggingface")
    assert len(state) == 320
    assert {name: tuple(state[name].shape) for name in NAMES} == NAMES


def test_a_folder_with_config_and_weights_loads(state: StateDict, tmp_path: Path) -> None:
    model = resnet50("torchvision")
    assert load_weights(model, write_folder(tmp_path, state)).source == "huggingface"
    assert torch.equal(model.get_parameter("fc.weight"), state["classifier.1.weight"])


def test_the_configuration_decides_where_the_stride_is(state: StateDict, tmp_path: Path) -> None:
    write_folder(tmp_path, state, downsample_in_bottleneck=True)
    assert load_weights(resnet50("paper"), tmp_path).source == "huggingface"
    with pytest.raises(UserError, match="it fits resnet50 built with edition='paper'"):
        load_weights(resnet50("torchvision"), tmp_path)
    write_folder(tmp_path, state, downsample_in_bottleneck=False)
    with pytest.raises(UserError, match="it fits resnet50 built with edition='torchvision'"):
        load_weights(resnet50("paper"), tmp_path)


def test_the_model_without_its_classifier_loads_with_a_new_head(state: StateDict) -> None:
    base = {k.removeprefix("resnet."): v for k, v in state.items() if not k.startswith("classifier")}
    loaded = load_weights(resnet50("torchvision"), base, head="new")
    assert (loaded.source, loaded.new) == ("huggingface", ("fc.weight", "fc.bias"))


def test_shards_are_read_by_their_index(state: StateDict, tmp_path: Path) -> None:
    names = sorted(state)
    parts = {"model-00001-of-00002.safetensors": names[:100], "model-00002-of-00002.safetensors": names[100:]}
    for file, members in parts.items():
        safetensors.torch.save_file({name: state[name] for name in members}, tmp_path / file)
    weight_map = {name: file for file, members in parts.items() for name in members}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for path in (tmp_path, index):
        model = resnet50("torchvision")
        load_weights(model, path)
        assert torch.equal(model.get_parameter("fc.weight"), state["classifier.1.weight"])
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"cannot read .*model-00002-of-00002\.safetensors"):
        load_weights(resnet50("torchvision"), tmp_path)
    index.write_text(json.dumps({"weight_map": {names[0]: "../../secret.safetensors"}}))
    with pytest.raises(UserError, match="expected a file beside the index"):
        load_weights(resnet50("torchvision"), tmp_path)


def test_import_takes_the_folder(tmp_path: Path) -> None:
    model = models.create_model("resnet18", edition="torchvision", num_classes=5)
    state = {key: value.clone() for key, value in to_library_state_dict(model, "huggingface").items()}
    classifier = interop.import_classifier(write_folder(tmp_path, state), "resnet18")
    assert classifier.metadata.provenance["source"] == "huggingface"
    assert len(classifier.metadata.classes) == 5
