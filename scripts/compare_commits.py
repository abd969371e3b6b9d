"""Check that a refactoring changes no number: three short trainings, their evaluations and their plans, at two commits.

    python scripts/compare_commits.py BASE [--keep FOLDER]

BASE is a commit; the other side is the working tree. Both run with the packages of the interpreter that runs this script:
LeNet-5, a ResNet-20 that is stopped and resumed, and a small Inception-v3 on two ranks, all on digits in fp32. The script
compares metrics.jsonl line by line, a SHA-256 of the tensors of model.safetensors, and the documents of `eval` and `plan`;
it prints every difference and exits with 1 when there is one. Keys that were renamed since BASE stand in RENAMED.
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
INCEPTION = ("inception_v3", "--recipe", "small", "--epochs", "0.5", "--batch", "32")
SETTINGS = ("--data", "digits", "--workers", "0", "--set", "precision=fp32", "log_every=1", "save_every=20", "compile=false")
RENAMED: dict[str, str] = {}  # keys of documents and log lines: at BASE -> now
# Paths, and what follows from measured times: a plan measures this machine
IGNORED = {"environment", "cached", "reused", "weights", "out", "step", "asked", "requested", "device_hours", "limited_by"}
IGNORED |= {"efficiency", "step_seconds", "compute_seconds", "epoch_seconds", "seconds", "images_per_second_needed"}
IGNORED |= {"loader_images_per_second", "loaders", "meets", "machines_needed", "sufficient"}


def convatlas(source: Path, *words: str, ranks: int = 1) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    environment = os.environ | {"PYTHONPATH": str(source / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "convatlas", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(process: subprocess.Popen[str]) -> str:
    stdout, stderr = process.communicate(timeout=1800)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, process.args))}\n{stderr}")  # type: ignore[arg-type]
    return stdout


def train_and_stop(source: Path, folder: Path, words: Sequence[str], step: int) -> None:
    """Start a training, send SIGINT after `step` steps, and wait for its end."""
    process = convatlas(source, "train", *words, "--out", str(folder))
    log = folder / "metrics.jsonl"
    while process.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < step):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=600)
    if process.returncode != 130:
        raise SystemExit(f"the stopped training ended with {process.returncode} instead of 130")


def tensors_sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with safe_open(file, "pt") as tensors:
        for name in sorted(tensors.keys()):
            tensor = tensors.get_tensor(name)
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def record(source: Path, folder: Path) -> dict[str, Any]:
    """What the commands of one source tree give, by run."""
    runs = {"lenet5": folder / "lenet5", "resnet20": folder / "resnet20", "inception_v3": folder / "inception_v3"}
    output(convatlas(source, "train", *LENET, *SETTINGS, "--out", str(runs["lenet5"])))
    train_and_stop(source, runs["resnet20"], [*RESNET, *SETTINGS], 12)
    output(convatlas(source, "train", "--resume", str(runs["resnet20"])))
    output(convatlas(source, "train", *INCEPTION, *SETTINGS, "--out", str(runs["inception_v3"]), ranks=2))
    return {name: run_record(source, out) for name, out in runs.items()}


def run_record(source: Path, out: Path) -> dict[str, Any]:
    evaluations = {crops: json.loads(output(convatlas(source, "eval", str(out), "--crops", crops, "--json"))) for crops in ("center", "10")}
    return {
        "tensors": tensors_sha256(out / "model.safetensors"),
        "metrics": [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()],
        "eval": evaluations,
        "plan": json.loads(output(convatlas(source, "plan", str(out), "--device", "a100-80gb", "--json"))),
    }


def renamed(value: Any) -> Any:
    if isinstance(value, dict):
        return {RENAMED.get(key, key): renamed(item) for key, item in value.items()}
    return [renamed(item) for item in value] if isinstance(value, list) else value


def differences(before: Any, after: Any, path: str = "$") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        line_of_log = "epoch" in before  # whose step counts
        keys = [key for key in dict.fromkeys([*before, *after]) if key not in IGNORED or (line_of_log and key == "step")]
        return [line for key in keys for line in differences(before.get(key, "missing"), after.get(key, "missing"), f"{path}.{key}")]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [line for i, pair in enumerate(zip(before, after, strict=True)) for line in differences(*pair, f"{path}[{i}]")]
    return [] if before == after else [f"{path}: {str(before)[:200]} -> {str(after)[:200]}"]


def base_record(commit: str, folder: Path) -> dict[str, Any]:
    """The record of BASE, from the folder when it has been made before."""
    file = folder / f"{commit}.json"
    if not file.exists():
        source = folder / "source"
        shutil.rmtree(source, ignore_errors=True)
        subprocess.run(["git", "clone", "-q", str(ROOT), str(source)], check=True)
        subprocess.run(["git", "-C", str(source), "checkout", "-q", commit], check=True)
        file.write_text(json.dumps(record(source, Path(tempfile.mkdtemp(dir=folder)))))
    document: dict[str, Any] = json.loads(file.read_text())
    return document


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="a commit")
    parser.add_argument("--keep", type=Path, help="a folder for the record of BASE, to use it again")
    arguments = parser.parse_args()
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", arguments.base], check=True, capture_output=True, text=True
    ).stdout.strip()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        before = base_record(commit, folder)
        after = record(ROOT, Path(scratch, "after"))
    lines = differences(renamed(before), after)
    for name, run in after.items():
        print(f"{name}: {len(run['metrics'])} log lines, tensors {run['tensors'][:16]}, {len(run['eval'])} evaluations, a plan")
    print("\n".join(lines) if lines else f"no difference from {commit[:12]}")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
