#!/usr/bin/env python3
"""Objects compiled for an instruction set that not every machine has must not define weak functions that others could
share: of all copies of an inline function or a template's instance the linker keeps one, and were it the AVX-512 one,
a machine without AVX-512 would die in std::sort. Bodies therefore live in the namespace of their instruction set, and
so do the instances that they make; what else is weak is a leak. Reads the objects of a build with nm.

  isa_symbols_test.py BUILD_DIR [NM]

Exits with 77 (skipped) where the build has no such object."""

import json
import pathlib
import re
import subprocess
import sys

# Flags that go beyond x86-64's baseline; -DMOED_ISA names the namespace (cmake/MoedTargets.cmake).
ISA_FLAG = re.compile(r"\s-m(?:avx|fma|f16c|bmi|arch=)\S*")
NAMESPACE = re.compile(r"-DMOED_ISA=(\w+)")
OUTPUT = re.compile(r"\s-o\s+(\S+)")
# W: a weak function, defined here. Weak data (V, u) runs no instruction.
WEAK_FUNCTION = re.compile(r"^[0-9a-f]+ W (\S+)$")
SKIPPED = 77


def isa_objects(build_dir):
    """Yields (object file, namespace or "") of all that was compiled beyond the baseline and is there."""
    for entry in json.loads((build_dir / "compile_commands.json").read_text(encoding="utf-8")):
        command = entry["command"]
        if not ISA_FLAG.search(command):
            continue
        path = pathlib.Path(entry["directory"]) / OUTPUT.search(command)[1]
        namespace = NAMESPACE.search(command)
        if path.exists():
            yield path, namespace[1] if namespace else ""


def leaks(nm_output, namespace):
    """Mangled names of the weak functions that are not made of something in `namespace`."""
    own = f"{len(namespace)}{namespace}" if namespace else None
    for line in nm_output.splitlines():
        match = WEAK_FUNCTION.match(line.strip())
        if match and not (own and re.search(rf"(?<!\d){own}", match[1])):
            yield match[1]


def self_test():
    listing = """
0000000000000000 W _ZSt4sortIPfEvT_S1_
0000000000000000 W _ZN4absl12lts_202206236StatusD2Ev
0000000000000000 W _ZNSt6vectorIN4moed7kernels6avx5124TileESaIS3_EED2Ev
0000000000000000 V DW.ref.__gxx_personality_v0
0000000000000040 T _ZN4moed7kernels6avx5124GemmEv
0000000000000040 t _ZN4moed5LocalEv
                 w _ITM_registerTMCloneTable
                 U _ZSt4sortIPdEvT_S1_
0000000000000000 W _ZN4moed7kernels11avx512_bf163DotEv
"""
    expected = ["_ZSt4sortIPfEvT_S1_", "_ZN4absl12lts_202206236StatusD2Ev", "_ZN4moed7kernels11avx512_bf163DotEv"]
    return list(leaks(listing, "avx512")) == expected


def main(build_dir, nm="nm"):
    if not self_test():
        print("self-test: the leaks of a known listing were not found")
        return 1
    objects = list(isa_objects(pathlib.Path(build_dir)))
    if not objects:
        print("isa symbols: no object of this build is compiled beyond the baseline")
        return SKIPPED
    found = 0
    for path, namespace in objects:
        listing = subprocess.run([nm, "--defined-only", str(path)], check=True, capture_output=True, text=True).stdout
        for name in leaks(listing, namespace):
            print(f"{path}: weak function outside of namespace {namespace or '(none)'}: {name}")
            found += 1
    print(f"isa symbols: {found} leaks in {len(objects)} objects")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
