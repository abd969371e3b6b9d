"""Read 10,000 hostile files: each is either read or refused in one sentence; none may crash, hang, or take
much memory.

    make fuzz                                       # all of them
    python -m helpers.fuzz_campaign FIRST END       # some of them (in tests/)
    python -m helpers.fuzz_campaign --case 1234     # one, with its traceback; its file is left as case-1234

The cases run in a child of this process, which has imported everything. A case that kills the child is
recorded as failed, and the next child continues after it.
"""

import faulthandler
import json
import os
import resource
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from convatlas import classifier, interop, models
from convatlas.data.curation.image_warnings import image_warnings
from convatlas.data.images import decode
from convatlas.data.transforms.preprocessing import center_crop_preprocessing
from convatlas.errors import UserError, printable
from helpers.damage import encode
from helpers.hostile_files import CASES, MAX_PIXELS, Case, make_case

MAX_SECONDS = 8.0  # CPU time of one file
MAX_MEMORY = 1 << 30  # additional resident bytes: a valid image of the most pixels that are read takes 700 MB
MAX_ADDRESS_SPACE = 8 << 30  # additional bytes
MAX_MESSAGE = 2000  # characters
MAX_INPUT_PIXELS = 256 * 256  # a classifier with a larger input does not predict here


class Outcome(NamedTuple):
    number: int
    reader: str
    change: str
    result: str  # "read", "refused: " and the message, or what went wrong
    seconds: float
    memory: int  # bytes, at the peak

    @property
    def passed(self) -> bool:
        return self.result == "read" or self.result.startswith("refused: ")


def read(case: Case, file: Path) -> None:
    """Do what a user does with such a file. Raises UserError where it cannot be used."""
    if case.reader == "model":
        model = classifier.load(file)
        _, height, width = model.metadata.preprocessing.shape
        if height * width <= MAX_INPUT_PIXELS:
            sample = Path(file).with_name("sample.png")
            (prediction,) = model.predict([sample], engine="eager")
            assert {name for name, _ in prediction} <= set(model.metadata.classes)
    elif case.reader == "weights":
        interop.load_weights(models.create_model("lenet5", width=0.5), file)
    else:
        image = decode.open_image(file)
        assert image.height * image.width <= 4 * MAX_PIXELS  # larger ones are decoded at reduced scale
        for channels in (3, 1):
            assert center_crop_preprocessing(channels, (32, 32)).transform(image).shape == (channels, 32, 32)
        pixels = image.decode(3, (1 << 16, 1 << 16))  # in full resolution
        if image.height * image.width <= MAX_PIXELS:
            assert pixels.shape == (image.height, image.width, 3)
        assert pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS
        image_warnings(image, pixels, 3)


def run_cases(numbers: Sequence[int]) -> Generator[Outcome]:
    """The outcomes of the cases, in order."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "sample.png").write_bytes(encode("PNG"))
        remaining = list(numbers)
        while remaining:
            remaining = yield from _run_child(remaining, Path(folder))


def _run_child(numbers: list[int], folder: Path) -> Generator[Outcome, None, list[int]]:
    """Yield outcomes until the child ends, by itself or not; returns the numbers that remain."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        status = 1
        try:
            _read_cases(numbers, folder, sending)
            status = 0
        finally:
            os._exit(status)
    os.close(sending)
    done = 0
    try:
        with os.fdopen(receiving, "rb") as stream:
            while len(header := stream.read(4)) == 4:
                (length,) = struct.unpack("<I", header)
                yield Outcome(*json.loads(stream.read(length)))
                done += 1
    except GeneratorExit:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(child, 0)
    if done == len(numbers):
        return []
    killed_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    seconds = 0.0
    if killed_by == signal.SIGPROF:
        result = "hangs"
        seconds = MAX_SECONDS
    elif killed_by:
        result = f"crashes: {signal.Signals(killed_by).name}"
    else:
        result = "ends the process"
    case = make_case(numbers[done])
    yield Outcome(numbers[done], case.reader, case.change, result, seconds, 0)
    return numbers[done + 1 :]


def _read_cases(numbers: list[int], folder: Path, sending: int) -> None:
    """In the child: read the cases one by one, and send each outcome at once."""
    faulthandler.disable()
    devnull = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # decoders print to them
        os.dup2(devnull, descriptor)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    address_space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = address_space + MAX_ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in numbers:
        case = make_case(number)
        file = folder / "file"
        file.write_bytes(case.data)
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak, VmHWM
        memory_before = _memory_status("VmRSS")
        start = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
        try:
            result = _try_to_read(case, file)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        seconds = time.process_time() - start
        memory = max(0, _memory_status("VmHWM") - memory_before)
        if memory > MAX_MEMORY:
            result = f"takes {memory >> 20:,} MB"
        outcome = Outcome(number, case.reader, case.change, result, seconds, memory)
        content = json.dumps(outcome).encode()
        os.write(sending, struct.pack("<I", len(content)) + content)


def _try_to_read(case: Case, file: Path) -> str:
    try:
        read(case, file)
    except UserError as error:
        cause: BaseException | None = error
        while cause is not None:  # running out of memory is a failure, also where it is handled
            if isinstance(cause, MemoryError) or "not enough memory" in str(cause):
                return f"asks for too much memory: {printable(cause)}"
            cause = cause.__context__
        message = str(error)
        if not message or len(message) > MAX_MESSAGE or "\n" in message:
            return f"says too much: {printable(message)[:300]}"
        return f"refused: {message}"
    except BaseException as error:
        return f"raises {type(error).__name__}: {printable(error)[:300]}"
    return "read"


def _memory_status(key: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) << 10


def _read_one(number: int) -> None:
    case = make_case(number)
    file = Path(f"case-{number}")
    file.write_bytes(case.data)
    print(f"case {number}: {case.reader}, {case.change}, {len(case.data):,} bytes in {file}")
    read(case, file)
    print("read")


def main() -> int:
    torch.set_num_threads(1)
    if "--case" in sys.argv:
        _read_one(int(sys.argv[sys.argv.index("--case") + 1]))
        return 0
    first, end = (int(sys.argv[1]), int(sys.argv[2])) if len(sys.argv) > 2 else (0, CASES)
    start = time.monotonic()
    outcomes: list[Outcome] = []
    for outcome in run_cases(range(first, end)):
        outcomes.append(outcome)
        if not outcome.passed:
            command = f"python -m helpers.fuzz_campaign --case {outcome.number}"
            description = f"case {outcome.number} ({outcome.reader}, {outcome.change})"
            print(f"{description} {outcome.result}; again: {command}", flush=True)
    counts = Counter(f"{o.reader} {o.result.partition(':')[0] if o.passed else 'failed'}" for o in outcomes)
    summary = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))
    print(f"{end - first:,} cases in {time.monotonic() - start:.0f} s: {summary}")
    slowest = max(outcomes, key=lambda outcome: outcome.seconds)
    print(f"slowest: case {slowest.number} ({slowest.change}), {slowest.seconds:.2f} s of a core")
    largest = max(outcomes, key=lambda outcome: outcome.memory)
    print(f"largest: case {largest.number} ({largest.change}), {largest.memory >> 20:,} MB")
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
