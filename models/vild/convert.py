"""`python -m models.vild.convert BUNDLE_OR_TARGZ --out FILE`: a released ViLD to our safetensors.

Reads TensorFlow's checkpoint (the archive, its folder, or its `.index`) without TensorFlow; prints
what it was; exits with 1 and one sentence when it cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from models.errors import AtelierError
from models.vild.checkpoints import convert
from models.weights import MB


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m models.vild.convert", description=__doc__)
    parser.add_argument(
        "source", type=Path, metavar="BUNDLE_OR_TARGZ", help="resnet50_vild.tar.gz or the like"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", required=True, help="a .safetensors file"
    )
    options = parser.parse_args(arguments)
    if options.out.suffix != ".safetensors":
        parser.error(f"{options.out} must end with .safetensors")
    try:
        config = convert(options.source, options.out)
    except AtelierError as error:
        print(error, file=sys.stderr)
        return 1
    size = options.out.stat().st_size / MB
    print(f"{options.out}: {config.name}, {size:.1f} MB, teacher {config.teacher}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
