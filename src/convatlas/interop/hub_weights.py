"""Weights of the Hugging Face Hub: one file of safetensors, with the configuration beside it."""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from convatlas.errors import UsageError, UserError, printable
from convatlas.interop.hub_cache import cached_snapshot, hub_cache_dir, sha256_in_cache, store_ref
from convatlas.interop.hub_config import CONFIG, PREPROCESSOR, WeightsConfig, read_weights_config
from convatlas.runtime.progress import is_main_process
from convatlas.storage.cache import file_sha256

WEIGHTS = "model.safetensors"
_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class HubRepository:
    """The files of a repository at one commit, in the user's cache."""

    name: str
    commit: str
    file: Path  # of the weights
    config: WeightsConfig | None


def fetch_repository(reference: str) -> HubRepository:
    """Fetch `REPO` or `REPO@REVISION` (a branch, a tag or a commit) into the user's cache.

    Without a connection the revision is taken from the cache, if it is there, and a line on stderr says so.
    Raises UsageError for an impossible name, UserError without huggingface_hub, for a repository that cannot
    be reached or does not exist, and for one without a single file of safetensors.
    """
    name, _, revision = reference.partition("@")
    if not _REPOSITORY.fullmatch(name) or reference.endswith("@"):
        raise UsageError(
            f"hf:{printable(reference)} names no repository: expected hf:OWNER/NAME or hf:OWNER/NAME@REVISION"
        )
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is its own client's
            HFValidationError,
            HTTPError,
        )
    except ImportError:
        raise UserError("import from hf: needs huggingface_hub: pip install 'convatlas[hf]'") from None
    endpoint = os.environ.get("HF_ENDPOINT") or None
    api = HfApi(endpoint=endpoint, library_name="convatlas")
    try:
        info = api.model_info(name, revision=revision or None, files_metadata=True)
        commit = str(info.sha)
        sizes = {sibling.rfilename: sibling for sibling in info.siblings or []}
        weights = _choose_weights(list(sizes), name)
        for file in (CONFIG, PREPROCESSOR):
            if file in sizes:
                _fetch_file(name, file, commit, endpoint)
        path = _fetch_file(name, weights, commit, endpoint)
    except HFValidationError as error:
        raise UsageError(f"hf:{printable(reference)} names no repository: {_sentence(error)}") from None
    except (HTTPError, OSError, ValueError) as error:
        has_reply = getattr(error, "response", None) is not None
        is_offline = isinstance(error, HTTPError | ConnectionError) and not has_reply
        if is_offline and (snapshot := cached_snapshot(name, revision or "main")):
            return _open_cached(name, snapshot)
        raise UserError(
            f"cannot fetch hf:{printable(reference)} ({_sentence(error)}): check the name and the "
            "connection, or import a file that is on this machine"
        ) from None
    lfs = sizes[weights].lfs
    _check_sha256(path, lfs.sha256 if lfs is not None else None, name)
    store_ref(name, revision or "main", commit)
    return HubRepository(name, commit, path, read_weights_config(path.parent))


def _open_cached(name: str, snapshot: Path) -> HubRepository:
    """The repository at a commit as the cache has it. Raises UserError like `fetch_repository`."""
    commit = snapshot.name
    if is_main_process():
        print(
            f"convatlas: no connection to the Hub: the cached revision {commit} of hf:{name} is used",
            file=sys.stderr,
        )
    path = snapshot / _choose_weights([file.name for file in snapshot.iterdir()], name)
    _check_sha256(path, sha256_in_cache(path), name)
    return HubRepository(name, commit, path, read_weights_config(snapshot))


def _fetch_file(name: str, file: str, commit: str, endpoint: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(name, file, revision=commit, cache_dir=hub_cache_dir(), endpoint=endpoint))


def _choose_weights(names: list[str], repository: str) -> str:
    """`model.safetensors`, or the only file of safetensors at the top. Raises UserError without one."""
    candidates = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    if WEIGHTS in candidates:
        return WEIGHTS
    if len(candidates) == 1:
        return candidates[0]
    others = [name for name in names if name.endswith((".bin", ".pth", ".pt", ".h5", ".msgpack", ".ckpt"))]
    listed = ", ".join(map(printable, (candidates or others)[:4])) or "no weights"
    raise UserError(
        f"hf:{repository} holds {listed}: expected one file of safetensors, {WEIGHTS}; fetch another file "
        "yourself and import it"
    )


def _check_sha256(path: Path, expected: str | None, name: str) -> None:
    """Raise UserError for a file whose hash is not the one that the Hub lists; it is deleted."""
    if expected is not None and file_sha256(path) != expected:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise UserError(
            f"{path.name} of hf:{name} does not have the SHA-256 that the Hub lists: it was deleted, try "
            "again"
        )


def _sentence(error: Exception) -> str:
    """The first sentence of an error of the Hub, which may have several lines."""
    response = getattr(error, "response", None)
    if response is not None:
        reasons = {401: "it does not exist, or is private", 403: "it is private", 404: "it does not exist"}
        return reasons.get(response.status_code, f"the Hub answers {response.status_code}")
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return printable(lines[0].split(". ")[0].rstrip("."))
