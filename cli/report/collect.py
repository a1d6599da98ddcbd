"""Makes a report: runs the collectors, takes the secrets out, and puts a manifest in front.

    manifest.json   {"format": "1.0", "podlane": …, "node": …, "created": …, "seconds": …,
                     "members": [{"name", "bytes", "note"?}], "failed": [{"collector", "why"}], …}

`format` is major.minor: who knows a major number reads all archives that have it, and passes over members and keys
that a later minor number has added.
"""

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from cli.report import archive, from_files, from_kernel, from_services, gathering, secrets
from cli.report.gathering import Gathered
from cli.report.redact import Redactor
from services.common.config import Settings

FORMAT = "1.0"


async def gather(settings: Settings, conf_dir: Path) -> Gathered:
    """Return everything that could be collected, as it is: not to be shown to anybody yet."""
    gathered = Gathered()
    async with from_services.Questions(settings) as questions:
        await gathering.run(from_services.first(questions), gathered)
        parts = [
            *from_services.collectors(questions),
            *from_files.collectors(settings, conf_dir),
            *from_kernel.collectors(settings),
        ]
        await gathering.run(parts, gathered)
        await gathering.run(from_services.last(questions), gathered)
    return gathered


def build(settings: Settings, gathered: Gathered, begin: float) -> tuple[str, bytes]:
    """Return the archive's name without its suffix, and the archive. `begin` in seconds since the epoch."""
    redactor = Redactor(secrets.of(settings))
    for member in gathered.members:
        redactor.learn(member.content)
    contents = dict(_encoded(gathered, redactor))
    when = datetime.fromtimestamp(begin, UTC)
    manifest = {
        "format": FORMAT,
        "podlane": version(),
        "node": settings.node.name,
        "created": when.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "created_seconds": round(begin, 3),
        "seconds": round(time.time() - begin, 3),
        "members": [
            {"name": name, "bytes": len(content), **({"note": note} if note else {})}
            for name, (content, note) in sorted(contents.items())
        ],
        "failed": gathered.failed,
        "collectors": gathered.seconds,
    }
    head, _ = gathering.encode(gathering.Member(archive.MANIFEST, redactor.clean(manifest)))
    name = re.sub(r"[^\w.-]", "_", settings.node.name)
    root = f"podlane-bugtool-{name}-{when.strftime('%Y%m%dT%H%M%SZ')}"
    members = [(archive.MANIFEST, head), *((name, content) for name, (content, _) in sorted(contents.items()))]
    return root, archive.pack(root, members, int(begin))


def _encoded(gathered: Gathered, redactor: Redactor) -> Iterator[tuple[str, tuple[bytes, str]]]:
    left = gathering.MOST_BYTES
    for member in gathered.members:
        clean = gathering.Member(member.name, redactor.clean(member.content), member.note)
        try:
            content, note = gathering.encode(clean)
        except ValueError as error:
            gathered.fail(member.name, str(error))
            continue
        if len(content) > left:
            gathered.fail(member.name, f"left out: the archive would unpack to more than {gathering.MOST_BYTES} bytes")
            continue
        left -= len(content)
        yield member.name, (content, note)


def version() -> str:
    """Return podlane's version as it is installed."""
    try:
        return metadata.version("podlane")
    except metadata.PackageNotFoundError:
        return "unknown"
