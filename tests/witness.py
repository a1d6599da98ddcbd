"""A CNI plugin that writes down how it is called, and stands for another one or for none: what libcni really does.

A list's entry for it: `type` is `witness`, `as` its name in the record, `wraps` the plugin that it runs (none: it
passes prevResult on), `record` a file of one JSON line per call; what else is there is the wrapped plugin's. While
there is a file `<record>.fail` an ADD of one that wraps nothing fails.
"""

import json
import sys
from pathlib import Path
from typing import Any

SCRIPT = """\
#!{python} -ISB
import json, os, subprocess, sys
conf = json.load(sys.stdin)
verb = os.environ["CNI_COMMAND"]
if verb == "VERSION":
    print(json.dumps({{"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]}}))
    sys.exit()
name, wraps, record = (conf.pop(key) for key in ("as", "wraps", "record"))
with open(record, "a") as file:
    file.write(json.dumps([verb, name, conf.get("prevResult")]) + "\\n")
if wraps:
    conf["type"] = os.path.basename(wraps)
    sys.exit(subprocess.run([wraps], input=json.dumps(conf).encode()).returncode)
if verb == "ADD":
    if os.path.exists(record + ".fail"):
        print(json.dumps({{"cniVersion": conf["cniVersion"], "code": 100, "msg": "the witness refuses"}}))
        sys.exit(1)
    print(json.dumps(conf["prevResult"]))
"""


class Witness:
    """The plugin in a directory of plugins, and its record."""

    def __init__(self, bin_dir: Path, record: Path) -> None:
        """Install it."""
        self._bin_dir, self._record = bin_dir, record
        plugin = bin_dir / "witness"
        plugin.write_text(SCRIPT.format(python=Path(sys.executable).resolve()))
        plugin.chmod(0o755)

    def entry(self, plugin: dict[str, Any] | None = None, name: str = "") -> dict[str, Any]:
        """Return the list's entry of one that runs `plugin`, or of one that only watches."""
        wraps = str(self._bin_dir / plugin["type"]) if plugin else ""
        called = name or (plugin or {}).get("type", "")
        return {**(plugin or {}), "type": "witness", "as": called, "wraps": wraps, "record": str(self._record)}

    def calls(self) -> list[tuple[str, str, Any]]:
        """Return and forget the calls so far: verb, name, prevResult."""
        if not self._record.exists():
            return []
        lines = self._record.read_text().splitlines()
        self._record.unlink()
        return [tuple(json.loads(line)) for line in lines]

    def refuse(self, *, on: bool) -> None:
        """Have ADDs of those that only watch fail, or not any more."""
        mark = Path(f"{self._record}.fail")
        if on:
            mark.touch()
        else:
            mark.unlink()
