"""What a bug report needs: this program, Python, the machine, and the libraries at hand; none of them is imported."""

from __future__ import annotations

import platform
import re
from importlib import metadata

from vaeprobe._version import __version__


def versions() -> str:
    """Return four lines: program; Python and machine; libraries that are needed; extras that are installed."""
    needed: dict[str, str | None] = {}
    extras: dict[str, str | None] = {}
    for requirement in metadata.requires("vaeprobe") or ():
        name = re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0]
        extra = requirement.rpartition("extra ==")[2] if "extra ==" in requirement else None
        if extra is None:
            needed[name] = _installed(name)
        elif "dev" not in extra:
            extras[name] = _installed(name)
    libraries = ", ".join(f"{name} {version or 'MISSING'}" for name, version in sorted(needed.items()))
    more = ", ".join(f"{name} {version}" for name, version in sorted(extras.items()) if version)
    return "\n".join(
        [
            f"vaeprobe {__version__}",
            f"python {platform.python_version()} ({platform.python_implementation()}), {platform.platform()}",
            libraries,
            f"extras: {more or 'none'}",
        ]
    )


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
