"""Read 10,000 hostile files: each is either read or refused in one sentence; none may crash, hang, or ask for much memory.

    make fuzz                                  # all of them; python tests/fuzz/fuzz.py FIRST END is some
    python tests/fuzz/fuzz.py --case 1234      # one again, with its traceback; its file stays as case-1234

Each case runs in a child of this process, which has imported everything: what kills the child is charged to the case, and the next
child goes on behind it.
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

from convatlas import interop, models
from convatlas.classifier import classifier
from convatlas.data.curation.image_warnings import image_warnings
from convatlas.data.images import decode
from convatlas.data.transforms.preprocessing import center_crop_preprocessing
from convatlas.errors import UserError, printable
from helpers.hostile_files import CASES, MOST_PIXELS, Case, case

SECONDS = 8.0  # of a core, for one file
MEMORY = 1 << 30  # more than before, resident: a sound image of the most pixels that are read takes 700 MB
ADDRESSES = 8 << 30  # more than before, asked for
LONGEST = 2000  # characters of a message
LARGEST_SEEN = 256 * 256  # pixels of an image that a classifier which was read is asked about


class Outcome(NamedTuple):
    number: int
    reader: str
    what: str
    said: str  # read, refused and why, or what was wrong
    seconds: float
    memory: int  # bytes, at the most

    @property
    def good(self) -> bool:
        return self.said == "read" or self.said.startswith("refused: ")


def read(one: Case, file: Path) -> None:
    """What a user does with such a file. Raises UserError where it cannot be used."""
    if one.reader == "model":
        found = classifier.load(file)
        shape = found.metadata.preprocessing.shape
        if shape[1] * shape[2] <= LARGEST_SEEN:
            sample = Path(file).with_name("sample.png")
            (answer,) = found.predict([sample])
            assert {name for name, _ in answer} <= set(found.metadata.classes)
    elif one.reader == "weights":
        model = models.create_model("lenet5", width=0.5)
        interop.load_weights(model, file)
    else:
        image = decode.open_image(file)
        assert image.height * image.width <= MOST_PIXELS
        for channels in (3, 1):
            assert center_crop_preprocessing(channels, (32, 32)).transform(image).shape == (channels, 32, 32)
        pixels = image.decode(3, (1 << 16, 1 << 16))  # all of them
        assert pixels.shape == (image.height, image.width, 3)
        image_warnings(image, pixels, 3)


def run(numbers: Sequence[int]) -> Generator[Outcome]:
    """The outcomes of the cases, in order."""
    with tempfile.TemporaryDirectory() as folder:
        from helpers.damage import encode

        Path(folder, "sample.png").write_bytes(encode("PNG"))
        rest = list(numbers)
        while rest:
            rest = yield from _child(rest, Path(folder))


def _child(numbers: list[int], folder: Path) -> Generator[Outcome, None, list[int]]:
    """Outcomes until the child ends, by itself or not; returns what is left to do."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        status = 1
        try:
            _work(numbers, folder, sending)
            status = 0
        finally:
            os._exit(status)
    os.close(sending)
    done = 0
    try:
        with os.fdopen(receiving, "rb") as stream:
            while len(header := stream.read(4)) == 4:
                seconds, memory, reader, what, said = json.loads(stream.read(struct.unpack("<I", header)[0]))
                yield Outcome(numbers[done], reader, what, said, seconds, memory)
                done += 1
    except GeneratorExit:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(child, 0)
    if done == len(numbers):
        return []
    ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    said = "hangs" if ended == signal.SIGPROF else f"crashes: {signal.Signals(ended).name}" if ended else "ends the process"
    one = case(numbers[done])
    yield Outcome(numbers[done], one.reader, one.what, said, SECONDS if said == "hangs" else 0.0, 0)
    return numbers[done + 1 :]


def _work(numbers: list[int], folder: Path, sending: int) -> None:
    """In the child: the cases one by one, each outcome sent as soon as it is there."""
    faulthandler.disable()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # decoders write to them as they like
        os.dup2(nowhere, stream)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    addresses = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (addresses + ADDRESSES, addresses + ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in numbers:
        one = case(number)
        file = folder / "file"
        file.write_bytes(one.data)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _resident("VmRSS")
        began = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            said = _tried(one, file)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        seconds, memory = time.process_time() - began, max(0, _resident("VmHWM") - before)
        if memory > MEMORY:
            said = f"takes {memory >> 20:,} MB"
        content = json.dumps((seconds, memory, one.reader, one.what, said)).encode()
        os.write(sending, struct.pack("<I", len(content)) + content)


def _tried(one: Case, file: Path) -> str:
    try:
        read(one, file)
    except UserError as error:
        cause: BaseException | None = error
        while cause is not None:  # whoever runs out of memory has asked for too much, whatever is made of it
            if isinstance(cause, MemoryError) or "not enough memory" in str(cause):
                return f"asks for too much memory: {printable(cause)}"
            cause = cause.__context__
        text = str(error)
        return f"refused: {text}" if text and len(text) <= LONGEST and "\n" not in text else f"says too much: {printable(text)[:300]}"
    except BaseException as error:
        return f"raises {type(error).__name__}: {printable(error)[:300]}"
    return "read"


def _resident(what: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) << 10


def main() -> int:
    torch.set_num_threads(1)
    if "--case" in sys.argv:
        number = int(sys.argv[sys.argv.index("--case") + 1])
        one, file = case(number), Path(f"case-{number}")
        file.write_bytes(one.data)
        print(f"case {number}: {one.reader}, {one.what}, {len(one.data):,} bytes in {file}")
        read(one, file)
        print("read")
        return 0
    first, last = (int(sys.argv[1]), int(sys.argv[2])) if len(sys.argv) > 2 else (0, CASES)
    began, tally, worst, failed = time.monotonic(), Counter[str](), dict[str, Outcome](), 0
    for outcome in run(range(first, last)):
        tally[f"{outcome.reader} {outcome.said.partition(':')[0] if outcome.good else 'failed'}"] += 1
        for key, value in (("slowest", outcome.seconds), ("largest", outcome.memory)):
            if key not in worst or value > (worst[key].seconds if key == "slowest" else worst[key].memory):
                worst[key] = outcome
        if not outcome.good:
            failed += 1
            again = f"python tests/fuzz/fuzz.py --case {outcome.number}"
            print(f"case {outcome.number} ({outcome.reader}, {outcome.what}) {outcome.said}; again: {again}", flush=True)
    print(f"{last - first:,} cases in {time.monotonic() - began:.0f} s: " + ", ".join(f"{n:,} {what}" for what, n in sorted(tally.items())))
    slow, large = worst["slowest"], worst["largest"]
    print(f"slowest: case {slow.number} ({slow.what}), {slow.seconds:.2f} s of a core")
    print(f"largest: case {large.number} ({large.what}), {large.memory >> 20:,} MB")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
