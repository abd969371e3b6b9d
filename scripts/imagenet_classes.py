"""Write the names of ImageNet's 1,000 classes, from torchvision and timm (make peers).

    python scripts/imagenet_classes.py

The ids of WordNet are those of timm's list `imagenet_synsets.txt`, in their order; the names are those that
torchvision gives with its weights. A name of two classes ("crane", "maillot") has its id appended to each, so
that every class keeps a name of its own.
"""

from collections import Counter
from importlib.resources import files
from pathlib import Path

from convatlas.benchmark.peers import import_peer

TARGET = Path(__file__).parents[1] / "src" / "convatlas" / "data" / "sources" / "imagenet_classes.txt"
HEADER = """\
# ImageNet's 1,000 classes (ILSVRC 2012): WordNet's id and a name, in the order of the ids, which is the usual
# order of the outputs. The names are torchvision's, with the id appended where two classes share one.
# Written by scripts/imagenet_classes.py.
"""


def main() -> None:
    names = import_peer("torchvision.models._meta")._IMAGENET_CATEGORIES
    import_peer("timm")
    wnids = files("timm.data").joinpath("_info", "imagenet_synsets.txt").read_text().split()
    occurrences = Counter(names)
    lines = [
        f"{wnid} {name} ({wnid})" if occurrences[name] > 1 else f"{wnid} {name}"
        for wnid, name in zip(wnids, names, strict=True)
    ]
    if len(set(lines)) != 1000 or wnids != sorted(wnids):
        raise SystemExit("the libraries' lists are not those of ILSVRC 2012: 1,000 classes by ascending id")
    TARGET.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"wrote {TARGET}")


if __name__ == "__main__":
    main()
