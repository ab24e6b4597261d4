#!/usr/bin/env python3
"""Text of strangers is quoted by Quoted (base/text.h). fmt's {:?} looks the same, but in the fmt that Debian's spdlog
carries it ends the program on a character that is cut short. Run from anywhere."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DEBUG_FORMAT = re.compile(r"\{\w*:[^{}\"]*\?\}")
EXPLAINED = ROOT / "src/base/text.h"


def main():
    found = 0
    for folder in ("src", "kernels"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix not in (".h", ".cc", ".cu") or path == EXPLAINED:
                continue
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if DEBUG_FORMAT.search(line):
                    found += 1
                    print(f"{path.relative_to(ROOT)}:{number}: {{:?}} must be Quoted()")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
