"""`hf:` and `torchvision:`: fetched only when named so, checked, cached, recorded. Servers on this machine
stand in for the Hub and for torchvision's address."""

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from helpers.file_server import COMMIT, FileServer, HubHandler, serve
from helpers.peers import import_or_skip

from convatlas import models
from convatlas.classifier import write_model_file
from convatlas.classifier.model_file import read_model_file
from convatlas.cli.main import main
from convatlas.errors import UsageError, UserError
from convatlas.interop import hub_cache, import_classifier, torchvision_weights
from convatlas.interop.load_weights import to_library_state_dict
from convatlas.interop.torchvision_weights import MIRROR_VARIABLE, WEIGHTS, Weights, find_weights

REPOSITORY = "/someone/net/"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return tmp_path / "cache"


@pytest.fixture
def torchvision_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    with serve() as server:
        monkeypatch.setenv(MIRROR_VARIABLE, f"{server.url}/models/")
        yield server


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    pytest.importorskip("huggingface_hub")
    with serve(HubHandler) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def state_dict(**arguments: Any) -> dict[str, torch.Tensor]:
    model = models.create_model("resnet18", edition="torchvision", width=0.25, **arguments)
    return {key: value.contiguous() for key, value in to_library_state_dict(model, "torchvision").items()}


def publish(server: FileServer, monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> str:
    """Small weights at the place of torchvision's resnet18. Returns their SHA-256."""
    buffer = io.BytesIO()
    torch.save(state_dict(**arguments), buffer)
    sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
    weights = Weights(f"resnet18-{sha256[:8]}.pth", 232)
    monkeypatch.setitem(torchvision_weights.WEIGHTS, "resnet18", {"IMAGENET1K_V1": weights})
    server.files[f"/models/{weights.file}"] = buffer.getvalue()
    return sha256


# torchvision


def test_a_published_file_becomes_a_classifier_and_is_fetched_once(
    torchvision_server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = publish(torchvision_server, monkeypatch)
    for name in ("torchvision:resnet18", "torchvision:resnet18.IMAGENET1K_V1"):
        metadata = import_classifier(name).metadata
        assert metadata.network.edition == "torchvision"
        assert metadata.preprocessing.resize_size == (232, 232)
        assert metadata.preprocessing.input_size == (224, 224)
        assert metadata.classes[0] == "tench"
        assert metadata.provenance["imported"] == "torchvision:resnet18.IMAGENET1K_V1"
        assert metadata.provenance["sha256"] == sha256
        assert metadata.provenance["address"].startswith("https://download.pytorch.org/models/resnet18-")
        assert not any("size" in assumption for assumption in metadata.provenance["assumed"])
    assert len(torchvision_server.requests) == 1


def test_a_file_whose_hash_is_not_the_one_in_its_name_is_refused(
    torchvision_server: FileServer, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    publish(torchvision_server, monkeypatch)
    path = next(iter(torchvision_server.files))
    content = torchvision_server.files[path]
    torchvision_server.files[path] = content[:-1] + b"?"
    with pytest.raises(UserError, match=r"has a SHA-256 that begins with .*, expected .*: nothing was kept"):
        import_classifier("torchvision:resnet18")
    torchvision_server.files[path] = content
    import_classifier("torchvision:resnet18")
    (cached,) = (cache / "torchvision").glob("*.pth")
    cached.write_bytes(content[:-1] + b"?")  # damaged on the disk: fetched again
    import_classifier("torchvision:resnet18")
    assert len(torchvision_server.requests) == 3


def test_without_a_connection_the_sentence_says_what_else_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MIRROR_VARIABLE, "http://127.0.0.1:9")
    with pytest.raises(UserError, match=f"import the file, or name a mirror in {MIRROR_VARIABLE}") as error:
        import_classifier("torchvision:resnet50")
    assert "\n" not in str(error.value)
    assert "resnet50-11ad3fa6.pth" in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:resnet51", "unknown network of torchvision 'resnet51': the nearest is 'resnet50'"),
        ("torchvision:resnet50.V3", "no weights 'V3' of resnet50: known are IMAGENET1K_V1, IMAGENET1K_V2"),
        ("torchvision:", "names no weights: expected hf:REPO"),
        ("hf:", "names no weights: expected hf:REPO"),
        ("hf:a/b/c", "names no repository: expected hf:OWNER/NAME"),
        ("hf:a/b@", "names no repository"),
        ("hf:../../etc", "names no repository"),
    ],
)
def test_a_name_that_does_not_exist_is_refused_without_the_network(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        import_classifier(name)


def test_the_table_is_torchvisions_own() -> None:
    """Files, default versions and sizes, against the library's records."""
    library = import_or_skip("torchvision").models
    for name, versions in WEIGHTS.items():
        published = library.get_model_weights(name)
        for version, weights in versions.items():
            record = published[version]
            assert record.url == torchvision_weights.ADDRESS + weights.file
            transforms = record.transforms()
            assert transforms.resize_size == [weights.resize_size]
            assert transforms.crop_size == [weights.input_size]
        assert find_weights(name)[0] == f"{name}.{published.DEFAULT.name}"


# Hugging Face


def put(hub: FileServer, files: dict[str, Any]) -> None:
    for name, content in files.items():
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        hub.files[REPOSITORY + name] = data


def test_timms_repository_brings_size_and_statistics(hub: FileServer) -> None:
    config = {
        "architecture": "resnet18",
        "num_classes": 3,
        "label_names": ["cat", "dog", "owl"],
        "pretrained_cfg": {
            "input_size": [3, 160, 160],
            "crop_pct": 0.8,
            "mean": [0.1, 0.2, 0.3],
            "std": [0.4, 0.5, 0.6],
        },
    }
    weights = safetensors.torch.save(state_dict(num_classes=3))
    put(hub, {"model.safetensors": weights, "config.json": config, "README.md": b"# net"})
    classifier = import_classifier("hf:someone/net")
    metadata = classifier.metadata
    assert metadata.classes == ("cat", "dog", "owl")
    assert metadata.preprocessing.input_size == (160, 160)
    assert metadata.preprocessing.resize_size == (200, 200)
    torch.testing.assert_close(classifier.normalizer.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(classifier.normalizer.std.flatten(), torch.tensor([0.4, 0.5, 0.6]))
    assert metadata.provenance["assumed"] == []
    assert metadata.provenance["repository"] == "someone/net"
    assert metadata.provenance["revision"] == COMMIT
    assert metadata.provenance["sha256"] == hashlib.sha256(weights).hexdigest()


def test_transformers_configuration_is_read_at_a_revision(hub: FileServer) -> None:
    put(
        hub,
        {
            "model.safetensors": safetensors.torch.save(state_dict(num_classes=2)),
            "config.json": {"architectures": ["SomeNet"], "id2label": {"0": "cat", "1": "dog"}},
            "preprocessor_config.json": {
                "size": {"shortest_edge": 96},
                "crop_pct": 0.75,
                "image_mean": [0.5, 0.5, 0.5],
                "image_std": [0.25, 0.25, 0.25],
            },
        },
    )
    metadata = import_classifier("hf:someone/net@v1").metadata
    assert metadata.classes == ("cat", "dog")
    assert (metadata.preprocessing.resize_size, metadata.preprocessing.input_size) == ((128, 128), (96, 96))


def test_what_the_user_says_comes_before_the_configuration(hub: FileServer, tmp_path: Path) -> None:
    config = {"id2label": {"0": "cat", "1": "dog"}, "image_size": 96}
    put(hub, {"model.safetensors": safetensors.torch.save(state_dict(num_classes=2)), "config.json": config})
    (tmp_path / "classes.txt").write_text("tabby\nhound\n")
    metadata = import_classifier("hf:someone/net", size=64, classes=tmp_path / "classes.txt").metadata
    assert metadata.classes == ("tabby", "hound")
    assert metadata.preprocessing.input_size == (64, 64)


def test_a_network_that_only_looks_like_one_of_the_atlas_is_refused(hub: FileServer) -> None:
    config = {"architecture": "resnetblur18", "pretrained_cfg": {}}
    put(hub, {"model.safetensors": safetensors.torch.save(state_dict()), "config.json": config})
    with pytest.raises(UserError, match="names the network resnetblur18, which the atlas does not have"):
        import_classifier("hf:someone/net")


def test_a_classifier_of_convatlas_is_taken_as_it_is(hub: FileServer, tmp_path: Path) -> None:
    put(hub, {"model.safetensors": safetensors.torch.save(state_dict(num_classes=2))})
    exported = import_classifier("hf:someone/net")
    write_model_file(tmp_path / "m.safetensors", exported.metadata, exported.model, exported.normalizer)
    hub.files["/someone/ours/model.safetensors"] = (tmp_path / "m.safetensors").read_bytes()
    metadata = import_classifier("hf:someone/ours").metadata
    assert metadata.network == exported.metadata.network
    assert metadata.provenance["source"] == "convatlas"


def test_a_cached_file_that_is_not_the_hubs_is_refused_once(hub: FileServer, cache: Path) -> None:
    put(hub, {"model.safetensors": safetensors.torch.save(state_dict(num_classes=2))})
    import_classifier("hf:someone/net")
    (cached,) = (file.resolve() for file in cache.rglob("model.safetensors"))
    cached.write_bytes(cached.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match="does not have the SHA-256 that the Hub lists: it was deleted"):
        import_classifier("hf:someone/net")
    import_classifier("hf:someone/net")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"pytorch_model.bin": b"x"}, "holds pytorch_model.bin: expected one file of safetensors"),
        (
            {"a-1.safetensors": b"x", "a-2.safetensors": b"y"},
            "holds a-1.safetensors, a-2.safetensors: expected one",
        ),
        ({"README.md": b"x"}, "holds no weights: expected one file of safetensors"),
        ({"model.safetensors": b"x" * 99}, "is a text file, not weights"),
        ({"model.safetensors": b"x" * 99, "config.json": b"{"}, "config.json is no JSON"),
        (
            {"model.safetensors": b"x", "config.json": {"id2label": {"1": "a"}}},
            "does not name the classes from 0",
        ),
    ],
)
def test_a_repository_that_cannot_be_used_is_refused(
    files: dict[str, Any], message: str, hub: FileServer
) -> None:
    put(hub, files)
    with pytest.raises(UserError, match=message) as error:
        import_classifier("hf:someone/net")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["hf:someone/else", "hf:someone/net@nowhere"])
def test_what_does_not_exist_on_the_hub_is_one_sentence(name: str, hub: FileServer) -> None:
    put(hub, {"model.safetensors": b"x"})
    with pytest.raises(UserError, match=r"cannot fetch .*it does not exist.*check the name") as error:
        import_classifier(name)
    assert "\n" not in str(error.value)


def test_without_the_hub_the_error_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"cannot fetch hf:someone/net .*import a file that is on") as error:
        import_classifier("hf:someone/net")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("fetched", ["hf:someone/net", "hf:someone/net@v1"])
def test_without_a_connection_a_revision_that_was_fetched_is_used_and_said(
    fetched: str, hub: FileServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"id2label": {"0": "cat", "1": "dog"}, "image_size": 96}
    put(hub, {"model.safetensors": safetensors.torch.save(state_dict(num_classes=2)), "config.json": config})
    online = import_classifier(fetched).metadata
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in (fetched, f"hf:someone/net@{COMMIT}"):
        assert import_classifier(name).metadata == online
        assert capsys.readouterr().err == (
            f"convatlas: no connection to the Hub: the cached revision {COMMIT} of hf:someone/net is used\n"
        )
    (other,) = {"hf:someone/net", "hf:someone/net@v1"} - {fetched}
    for name in (other, f"hf:someone/net@{COMMIT[:-1]}0", f"hf:someone/net@{COMMIT[:7]}", "hf:someone/other"):
        with pytest.raises(UserError, match=f"cannot fetch {name} "):
            import_classifier(name)


def test_without_a_connection_a_cached_file_that_is_damaged_is_refused(
    hub: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub, {"model.safetensors": safetensors.torch.save(state_dict(num_classes=2))})
    import_classifier("hf:someone/net")
    (cached,) = (file.resolve() for file in cache.rglob("model.safetensors"))
    cached.write_bytes(cached.read_bytes()[:-1] + b"?")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="does not have the SHA-256 that the Hub lists: it was deleted"):
        import_classifier("hf:someone/net")
    with pytest.raises(UserError, match="cannot fetch hf:someone/net "):
        import_classifier("hf:someone/net")


def test_what_the_hub_no_longer_has_is_not_taken_from_the_cache(hub: FileServer) -> None:
    put(hub, {"model.safetensors": safetensors.torch.save(state_dict(num_classes=2))})
    import_classifier("hf:someone/net")
    hub.files.clear()
    with pytest.raises(UserError, match=r"cannot fetch hf:someone/net \(it does not exist"):
        import_classifier("hf:someone/net")


@pytest.mark.parametrize("revision", ["../../../precious", "/etc/passwd", "a\0b", "x" * 1000])
def test_a_revision_leads_nowhere_outside_the_cache(revision: str, cache: Path) -> None:
    (cache / "hub").mkdir(parents=True)
    (cache / "precious").write_text(COMMIT)
    hub_cache.store_ref("someone/net", revision, COMMIT)
    assert [path for path in cache.rglob("*") if path.is_file()] == [cache / "precious"]
    assert hub_cache.cached_snapshot("someone/net", revision) is None


def test_nothing_is_fetched_for_a_file(
    hub: FileServer, torchvision_server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(state_dict(), tmp_path / "w.pth")
    assert main(["import", str(tmp_path / "w.pth"), "--out", str(tmp_path / "out")]) == 0
    assert hub.requests == torchvision_server.requests == []
    assert "assumed" in capsys.readouterr().out
    assert read_model_file(tmp_path / "out" / "model.safetensors").metadata.provenance["imported"] == "w.pth"
