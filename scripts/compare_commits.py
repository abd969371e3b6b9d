"""Check that a refactoring keeps every number: three short trainings, their evaluations and their plans at
two commits.

    python scripts/compare_commits.py BASE [--keep FOLDER]

BASE is a commit; the other side is the working tree. Both run with the packages of the interpreter that runs
this script. The trainings are LeNet-5, a ResNet-20 that is stopped and resumed, and a small Inception-v3 on
two ranks, all on digits in fp32. The script compares metrics.jsonl line by line, a SHA-256 of the tensors of
model.safetensors, and the documents of `eval` and `plan`. It prints every difference, and exits with 1 when
there is one. Keys that were renamed since BASE are listed in RENAMED_KEYS: now those since 80d50d5, whose
record of a checkpoint also was a line of the split "save".
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

ROOT = Path(__file__).parent.parent
LENET = ("lenet5", "--epochs", "3")
RESNET = ("resnet20_cifar", "--epochs", "2")
STOP_AT_LINE = 12  # lines of metrics.jsonl after which the ResNet-20 is stopped
INCEPTION = ("inception_v3", "--recipe", "small", "--epochs", "0.5", "--batch", "32")
RUN_FIELDS = ("precision=fp32", "log_every=1", "save_every=20", "compile=false")
OPTIONS = ("--data", "digits", "--workers", "0", "--set", *RUN_FIELDS)
RENAMED_KEYS = {  # by the key that holds the object ("" for any): a key at BASE -> now
    "": {
        "says": "label",
        "unread": "unreadable",
        "against_best": "versus_best",
        "asked": "requested",
        "meets": "sufficient",
        "loaders": "machines_needed",
        "rest": "reserved",
        "copies": "weight_copies",
        "passing": "activation_gradients",
        "arithmetic": "extrapolated",
        "working": "busy_devices",
    },
    "members": {"reused": "cached", "windows": "views", "views": "multi_crop"},
    "device": {
        "rest": "reserved_bytes",
        "link": "intra_node_bandwidth",
        "network": "inter_node_bandwidth",
        "per_server": "devices_per_node",
    },
}
PATH_KEYS = {"environment", "cached", "weights", "out"}
HASH_KEYS = {"hash", "weights_sha256", "run", "run_id"}  # they include names that have changed
TIME_KEYS = {  # a plan measures this machine; all of these follow from measured times
    *("step", "asked", "requested", "device_hours", "limited_by", "efficiency", "step_seconds"),
    "images_per_second",
    *("compute_seconds", "epoch_seconds", "seconds", "images_per_second_needed"),
    *("loader_images_per_second", "loaders", "meets", "machines_needed", "sufficient"),
}
IGNORED_KEYS = PATH_KEYS | HASH_KEYS | TIME_KEYS


def start_convatlas(source: Path, *arguments: str, world_size: int = 1) -> subprocess.Popen[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world_size)]
    launcher = torchrun if world_size > 1 else []
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "convatlas", *arguments],
        env=os.environ | {"PYTHONPATH": str(source / "src"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_convatlas(source: Path, *arguments: str, world_size: int = 1) -> str:
    """Run a command to its end and return its stdout. Raises SystemExit with its stderr when it fails."""
    process = start_convatlas(source, *arguments, world_size=world_size)
    stdout, stderr = process.communicate(timeout=1800)
    if process.returncode:
        raise SystemExit(f"convatlas {' '.join(arguments)}\n{stderr}")
    return stdout


def train_and_stop(source: Path, folder: Path, arguments: Sequence[str], num_lines: int) -> None:
    """Start a training, send SIGINT when its log has `num_lines` lines, and wait for its end."""
    process = start_convatlas(source, "train", *arguments, "--out", str(folder))
    log = folder / "metrics.jsonl"
    while process.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < num_lines):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=600)
    if process.returncode != 130:
        raise SystemExit(f"the stopped training ended with {process.returncode} instead of 130")


def hash_tensors(file: Path) -> str:
    digest = hashlib.sha256()
    with safe_open(file, "pt") as tensors:
        for name in sorted(tensors.keys()):
            tensor = tensors.get_tensor(name)
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def record_runs(source: Path, folder: Path) -> dict[str, Any]:
    """Train the three runs with one source tree, and return their records by name."""
    lenet, resnet, inception = folder / "lenet5", folder / "resnet20", folder / "inception_v3"
    run_convatlas(source, "train", *LENET, *OPTIONS, "--out", str(lenet))
    train_and_stop(source, resnet, [*RESNET, *OPTIONS], STOP_AT_LINE)
    run_convatlas(source, "train", "--resume", str(resnet))
    run_convatlas(source, "train", *INCEPTION, *OPTIONS, "--out", str(inception), world_size=2)
    return {out.name: record_run(source, out) for out in (lenet, resnet, inception)}


def record_run(source: Path, out: Path) -> dict[str, Any]:
    evaluations = {
        crops: json.loads(run_convatlas(source, "eval", str(out), "--crops", crops, "--json"))
        for crops in ("center", "10")
    }
    plan = run_convatlas(source, "plan", str(out), "--device", "a100-80gb", "--json")
    return {
        "tensors": hash_tensors(out / "model.safetensors"),
        "metrics": [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()],
        "eval": evaluations,
        "plan": json.loads(plan),
    }


def rename_keys(value: Any, holder: str = "") -> Any:
    """A value at BASE with the keys of now; `holder` is the key of the object that it is in."""
    if isinstance(value, dict):
        if value.get("split") == "save":
            value = {"event": "checkpoint"} | {key: item for key, item in value.items() if key != "split"}
        names = RENAMED_KEYS[""] | RENAMED_KEYS.get(holder, {})
        return {names.get(key, key): rename_keys(item, key) for key, item in value.items()}
    return [rename_keys(item, holder) for item in value] if isinstance(value, list) else value


def differences(before: Any, after: Any, path: str = "$") -> list[str]:
    """The differences of two JSON values, a line for each, with the path of the value."""
    if isinstance(before, dict) and isinstance(after, dict):
        # `step` is a measured time in a plan, but a number of steps in a line of the log
        ignored = IGNORED_KEYS - {"step"} if "epoch" in before else IGNORED_KEYS
        keys = [key for key in dict.fromkeys([*before, *after]) if key not in ignored]
        pairs = [(f"{path}.{key}", before.get(key, "missing"), after.get(key, "missing")) for key in keys]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = [(f"{path}[{i}]", *items) for i, items in enumerate(zip(before, after, strict=True))]
    else:
        return [] if before == after else [f"{path}: {str(before)[:200]} -> {str(after)[:200]}"]
    return [line for item_path, old, new in pairs for line in differences(old, new, item_path)]


def base_record(commit: str, folder: Path) -> dict[str, Any]:
    """The record of BASE, from the folder when it was made before."""
    file = folder / f"{commit}.json"
    if not file.exists():
        source = folder / "source"
        shutil.rmtree(source, ignore_errors=True)
        subprocess.run(["git", "clone", "-q", str(ROOT), str(source)], check=True)
        subprocess.run(["git", "-C", str(source), "checkout", "-q", commit], check=True)
        file.write_text(json.dumps(record_runs(source, Path(tempfile.mkdtemp(dir=folder)))))
    document: dict[str, Any] = json.loads(file.read_text())
    return document


def resolve_commit(name: str) -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", name]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", help="a commit")
    parser.add_argument("--keep", type=Path, help="a folder that keeps the record of BASE for another call")
    arguments = parser.parse_args()
    commit = resolve_commit(arguments.base)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        before = base_record(commit, folder)
        after = record_runs(ROOT, Path(scratch, "after"))
    lines = differences(rename_keys(before), after)
    for name, run in after.items():
        tensors, num_lines = run["tensors"][:16], len(run["metrics"])
        print(f"{name}: {num_lines} log lines, tensors {tensors}, {len(run['eval'])} evaluations, a plan")
    print("\n".join(lines) if lines else f"no difference from {commit[:12]}")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
