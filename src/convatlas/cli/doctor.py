"""`doctor`: versions, devices, extras and caches."""

from dataclasses import dataclass
from typing import Any

from convatlas.cli.arguments import Json
from convatlas.cli.output import paragraph, print_json, print_table
from convatlas.errors import printable
from convatlas.formatting import format_si


@dataclass
class Doctor:
    """Show versions, devices and their units, what each extra gives, and the caches.

    The exit code is 1 where something does not work.
    """

    json: Json = False

    def __call__(self) -> int:
        from convatlas.runtime.diagnostics import diagnose
        from convatlas.storage.cache import cache_dir

        document = diagnose(cache_dir())
        if self.json:
            print_json(document)
        else:
            print_diagnosis(document)
        return 1 if document["problems"] else 0


def print_diagnosis(document: dict[str, Any]) -> None:
    """Print the document of `doctor`."""
    packages = [f"{name} {version or 'missing'}" for name, version in document["packages"].items()]
    lines = {
        "convatlas": f"{document['convatlas']}, in {document['folder']}",
        "python": f"{document['python']}, {document['executable']}",
        "platform": document["platform"],
        "packages": ", ".join(packages),
        "memory": format_si(document["memory"], "B"),
        "compiler": "torch.compile works on the CPU" if document["compiler"] else "none",
    }
    for name, text in lines.items():
        paragraph(f"{name:<10} {printable(text)}", 11)
    for device in document["devices"]:
        if device["kind"] == "cpu":
            units = ", ".join(device["units"]) or "no vector units reported"
            text = f"{device['name']}: {device['cores']} cores, {device['threads']} threads ({units})"
        else:
            text = f"{device['name']}: {format_si(device['memory'], 'B')}"
        paragraph(f"{'device':<10} {printable(text)}; trains in {device['precision']}", 11)
    cache = document["cache"]
    parts = ", ".join(
        f"{name} {format_si(part['bytes'], 'B')}" for name, part in cache["parts"].items() if part["bytes"]
    )
    paragraph(f"{'cache':<10} {printable(cache['folder'])}: {printable(parts) or 'empty'}", 11)
    print()
    rows = [
        (extra["name"], "yes" if extra["installed"] else extra["install"], extra["gives"])
        for extra in document["extras"]
    ]
    print_table(("extra", "installed", "what for"), rows)
    for problem in document["problems"]:
        paragraph(f"problem: {printable(problem)}", 9)
