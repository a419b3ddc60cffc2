"""Where the raw material of the mini world comes from, and how it gets onto the disk.

Emoji drawings are Iconify packages (one npm package a family, SVG inside one JSON file), names come
from the PyPI package `emoji`, synonyms from npm `emojibase-data`. Everything is fetched with the
ordinary npm client into `.cache/world/` and never committed.
"""

import io
import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "world"


@dataclass(frozen=True)
class Family:
    """One way of drawing emoji: an Iconify icon set.

    `trained` is False for the families that no training picture may come from; they measure how
    well the model knows a *thing* and not a font.
    """

    name: str
    package: str
    licence: str
    author: str
    trained: bool


FAMILIES: tuple[Family, ...] = (
    Family("noto", "@iconify-json/noto@1.2.9", "Apache-2.0", "Google", True),
    Family("noto-v1", "@iconify-json/noto-v1@1.2.5", "Apache-2.0", "Google", True),
    Family("twemoji", "@iconify-json/twemoji@1.2.5", "CC-BY-4.0", "Twitter and jdecked", True),
    Family("emojione", "@iconify-json/emojione@1.2.3", "CC-BY-4.0", "EmojiOne / EmojiTwo", True),
    Family("fxemoji", "@iconify-json/fxemoji@1.2.2", "Apache-2.0", "Mozilla", True),
    Family("openmoji", "@iconify-json/openmoji@1.2.29", "CC-BY-SA-4.0", "OpenMoji", True),
    Family("fluent-flat", "@iconify-json/fluent-emoji-flat@1.2.6", "MIT", "Microsoft", False),
    Family("fluent", "@iconify-json/fluent-emoji@1.2.7", "MIT", "Microsoft", False),
)
TRAINED = tuple(family for family in FAMILIES if family.trained)
SYNONYMS_PACKAGE = "emojibase-data@17.0.0"


def npm_package(spec: str) -> Path:
    """Folder of an unpacked npm package, fetched on first use.

    Args:
        spec: `name@version`, pinned, so that the same pictures come back on another day.

    Raises:
        RuntimeError: no npm client, or it could not fetch the package.
    """
    folder = CACHE / "npm" / spec.replace("/", "_")
    if folder.is_dir():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError("Rebuilding the mini world needs the npm client; install Node.js.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [npm, "pack", spec, "--silent"], cwd=folder.parent, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"npm could not fetch {spec}: {done.stderr.strip()[-300:]}")
    archive = folder.parent / done.stdout.strip().splitlines()[-1]
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as tar:
        tar.extractall(partial, filter="data")
    (partial / "package").rename(folder)
    shutil.rmtree(partial)
    archive.unlink()
    return folder


@cache
def icon_set(family: Family) -> dict[str, Any]:
    """The Iconify JSON of a family: `icons` (name -> body), `aliases`, `width`, `height`."""
    icons: dict[str, Any] = json.loads((npm_package(family.package) / "icons.json").read_text())
    return icons


@cache
def icon_names() -> dict[str, tuple[str, ...]]:
    """Code point sequence ("1f600", joined by "-", no variation selector) -> Iconify icon names.

    Only some sets publish this table; their names follow one scheme, so it serves all of them.
    """
    names: dict[str, list[str]] = {}
    for family in FAMILIES:
        path = npm_package(family.package) / "chars.json"
        if path.is_file():
            for code, name in json.loads(path.read_text()).items():
                names.setdefault(code.replace("-fe0f", ""), []).append(name)
    return {code: tuple(dict.fromkeys(found)) for code, found in names.items()}


def icon_svg(family: Family, code: str) -> str | None:
    """SVG document of an emoji in a family, None where the family lacks it."""
    icons = icon_set(family)
    for name in icon_names().get(code, ()):
        name = icons.get("aliases", {}).get(name, {}).get("parent", name)
        icon = icons["icons"].get(name)
        if icon is not None:
            width = icon.get("width", icons.get("width", 16))
            height = icon.get("height", icons.get("height", 16))
            left, top = icon.get("left", 0), icon.get("top", 0)
            return (
                '<svg xmlns="http://www.w3.org/2000/svg" '
                'xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
            )
    return None
