"""Write the index of the networks' tensor names, by which `import` finds the network of a file.

    python scripts/tensor_names.py

To be run after a network, an edition or a mapping to another library's names is added.
"""

import json
from pathlib import Path

from convatlas import models
from convatlas.interop import tensor_names

TARGET = Path(tensor_names.__file__).with_name(tensor_names.INDEX)


def main() -> None:
    index = tensor_names.build_index(models.list_models())
    rows = [f"  {json.dumps(key)}: {json.dumps(variants)}" for key, variants in index.items()]
    TARGET.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
    print(f"wrote {TARGET}")


if __name__ == "__main__":
    main()
