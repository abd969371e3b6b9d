"""`data pack`: a data set in a few large files."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from convatlas.cli.arguments import Json, arg, check_workers
from convatlas.cli.data.tables import DataName, data_notes
from convatlas.cli.output import print_json
from convatlas.errors import UsageError, printable

MAX_SIDE = 1 << 14


@dataclass
class Pack:
    """Write a data set into a few large files that are mapped into memory: docs/packed.md.

    An interrupted one is continued. Under torchrun the ranks share the work.
    """

    data: DataName
    out: Annotated[Path, arg(metavar="FOLDER", help="The store; train --data packed:FOLDER reads it.")]
    side: Annotated[
        int, arg(metavar="N", help="The shorter side of the stored pixels; smaller images stay as they are.")
    ] = 256
    files: Annotated[bool, arg(help="Store the image files themselves, and decode them in training.")] = False
    workers: Annotated[int | None, arg(metavar="N", help="Processes; default as many as cores.")] = None
    json: Json = False

    def __call__(self) -> int:
        check_workers(self.workers, 1)
        if not 1 <= self.side <= MAX_SIDE:
            raise UsageError(f"--side should be 1 to {MAX_SIDE:,} pixels, not {self.side:,}")
        from convatlas.data import open_dataset
        from convatlas.data.curation.pack import pack
        from convatlas.runtime.distributed.rendezvous import init_ranks

        with init_ranks() as ranks:
            dataset = open_dataset(self.data)
            for text in data_notes(dataset) if ranks.rank == 0 else ():
                print(f"convatlas: {text}", file=sys.stderr)
            result = pack(dataset, self.out, self.side, self.files, self.workers, ranks)
        exit_code = 1 if result.unreadable else 0
        if ranks.rank:
            return exit_code
        for sample in result.unreadable:
            print(f"convatlas: left out: {printable(sample.file)}: {sample.reason}", file=sys.stderr)
        if self.json:
            unreadable = [{"file": sample.file, "reason": sample.reason} for sample in result.unreadable]
            document = {
                "out": str(result.path),
                "n": result.samples,
                "bytes": result.size,
                "unreadable": unreadable,
            }
            print_json(document)
        else:
            path = printable(result.path)
            print(f"packed {result.samples:,} images, {result.size / 1e6:,.1f} MB, into {path}")
            print(f"next: convatlas train MODEL --data packed:{path}")
        return exit_code
