#!/usr/bin/env python3
"""clang-tidy over source files, each in a process of its own; what passed is not read again until it changes.

    python3 tests/layers/clang_tidy.py BUILD_DIR FILE...

BUILD_DIR holds compile_commands.json; headers among the FILEs are read with the source of the same name. A file that
passed leaves a mark in BUILD_DIR/clang_tidy, named after all that its result hangs on: itself, the project's headers
that it includes, how it is compiled, the checks, and clang-tidy's version.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
INCLUDE = re.compile(rb'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
# Where the build looks for headers in quotes, after the folder of the file itself.
INCLUDE_FOLDERS = [ROOT, ROOT / "src"]


def project_files(path, seen):
    """The file and the project's headers that it includes, by whatever way, into `seen`."""
    if path in seen:
        return
    text = seen[path] = path.read_bytes()
    for name in INCLUDE.findall(text):
        for folder in [path.parent, *INCLUDE_FOLDERS]:
            header = folder / os.fsdecode(name)
            if header.is_file():
                project_files(header.resolve(), seen)
                break


class Linter:
    def __init__(self, build):
        self.build = build
        entries = json.loads((build / "compile_commands.json").read_text())
        # The first of several: a kernel's body is compiled once an instruction set.
        self.commands = {}
        for entry in entries:
            self.commands.setdefault(pathlib.Path(entry["file"]), entry["command"])
        self.marks = build / "clang_tidy"
        self.marks.mkdir(exist_ok=True)
        version = subprocess.run(["clang-tidy", "--version"], capture_output=True, check=True).stdout
        self.common = version + (ROOT / ".clang-tidy").read_bytes()

    def sources(self, files):
        """What is compiled of the files: for a header the source beside it."""
        named = {(ROOT / file).resolve().with_suffix(".cc") for file in files if pathlib.Path(file).suffix in (".cc", ".h")}
        return sorted(named & self.commands.keys())

    def mark(self, path):
        digest = hashlib.sha256(self.common + self.commands[path].encode())
        files = {}
        project_files(path, files)
        for name in sorted(files):
            digest.update(hashlib.sha256(files[name]).digest())
        return self.marks / digest.hexdigest()

    def read(self, path):
        """What clang-tidy says of the file; nothing where it passes."""
        mark = self.mark(path)
        if mark.exists():
            return ""
        result = subprocess.run(["clang-tidy", "-p", self.build, "--quiet", path], capture_output=True, text=True, cwd=ROOT)
        if result.returncode == 0:
            mark.touch()
            return ""
        return result.stdout + re.sub(r".*warnings? generated.*\n", "", result.stderr)


def main():
    linter = Linter(pathlib.Path(sys.argv[1]).resolve())
    sources = linter.sources(sys.argv[2:])
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for number, (source, findings) in enumerate(zip(sources, pool.map(linter.read, sources)), 1):
            if findings:
                failed += 1
                print(findings, flush=True)
            if sys.stderr.isatty():
                print(f"\r{number}/{len(sources)} {source.relative_to(ROOT)}\033[K", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(f"clang-tidy: {failed} of {len(sources)} files have findings")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
