"""The names under which splits are published: `train`, `validation`, `test_set`, `val_images`, ..."""

import re

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "development": "val",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
    "holdout": "test",
}
# words that a folder's name may have beside the name of its split
_NEUTRAL_WORDS = {
    *("set", "data", "dataset", "split", "folder", "dir", "images", "image", "imgs", "img"),
    *("photos", "photo", "pictures", "samples", "the", "my", "jpg", "jpeg", "png"),
}
_JOINED_WORD = re.compile(rf"({'|'.join(SPLIT_NAMES)})(set|data|dataset|images|imgs|img)")


def split_name(name: str) -> str | None:
    """`train`, `val` or `test` for a name that means nothing else; None for other names."""
    words = [word for word in _words(name) if word not in _NEUTRAL_WORDS]
    return SPLIT_NAMES.get(words[0]) if len(words) == 1 else None


def looks_like_split(name: str) -> bool:
    """Whether the name of a split is one of a name's words: `seg_train`, `test_old`."""
    return any(word in SPLIT_NAMES for word in _words(name))


def _words(name: str) -> list[str]:
    """The words of a name in lower case: `TrainSet_2` -> train, set; `valimages` -> val."""
    separated = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = re.findall(r"[^\W\d_]+", separated.lower())
    return [match[1] if (match := _JOINED_WORD.fullmatch(word)) else word for word in words]
