"""`python -m models.stylegan.convert IN OUT [--half]`: any generator file to our safetensors.

Prints what was found in IN; exits with 1 and one sentence when it cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from models.errors import AtelierError
from models.stylegan.checkpoints import read_generator, save_generator
from models.weights import MB


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m models.stylegan.convert", description=__doc__)
    parser.add_argument("source", type=Path, metavar="IN", help=".pt, .pkl or .safetensors")
    parser.add_argument("target", type=Path, metavar="OUT", help="a .safetensors file")
    parser.add_argument("--half", action="store_true", help="float16 weights, half the size")
    options = parser.parse_args(arguments)
    if options.target.suffix != ".safetensors":
        parser.error(f"{options.target} must end with .safetensors")
    try:
        found = read_generator(options.source)
        print(found)
        save_generator(found.generator, options.target, half=options.half)
    except AtelierError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{options.target}: {options.target.stat().st_size / MB:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
