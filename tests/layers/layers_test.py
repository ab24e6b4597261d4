#!/usr/bin/env python3
"""Holds every #include to the layers: a folder may include only what its row names. Run from anywhere."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

# Folder -> what it may include beside itself. "engine/engine.h" stands for that header and what it is made of.
BELOW_ENGINE = {"base", "tensor", "request", "kernels", "comm", "kv_cache", "checkpoint", "tokenizer", "grammar", "model",
                "adapter"}
ENGINE_INTERFACE = {"engine/engine.h", "engine/step_plan.h"}
LAYERS = {
    "base": set(),
    "tensor": {"base"},
    "kernels": {"base", "tensor"},
    "comm": {"base", "tensor"},
    "kv_cache": {"base", "tensor", "kernels"},
    "checkpoint": {"base", "tensor"},
    "tokenizer": {"base"},
    "hub": {"base"},
    "grammar": {"base", "tokenizer"},
    "request": {"base"},
    "model": {"base", "tensor", "kernels", "comm", "kv_cache", "checkpoint"},
    "adapter": {"base", "tensor", "checkpoint", "model"},
    "engine": BELOW_ENGINE,
    "scheduler": {"base", "request", "kv_cache"} | ENGINE_INTERFACE,
    "serving": {"base", "request", "tokenizer", "scheduler"} | ENGINE_INTERFACE,
    "service": {"base", "request", "tokenizer", "serving", "proto"},
    "cli": None,  # wires all together
}
# The engine's interface itself may include less than the engine.
INTERFACE_MAY_INCLUDE = {"base", "tensor", "request"} | ENGINE_INTERFACE

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')


def layer_of(path):
    """The layer that a source file belongs to, or None."""
    parts = path.relative_to(ROOT).parts
    if parts[0] == "kernels":
        return "kernels"
    return parts[1] if parts[0] == "src" and len(parts) > 2 else None


def target_of(include):
    """The layer that an include names: "kernels/gemm/gemm.h" -> "kernels", "moed/v1/x.pb.h" -> "proto"."""
    first = include.split("/")[0]
    if include.endswith(".pb.h"):
        return "proto"
    return first if "/" in include else None


def allowed(path, layer, include):
    target = target_of(include)
    if target is None or target == "proto" and layer == "tokenizer":
        return True  # beside the file itself; the tokenizer's own generated reader
    name = path.relative_to(ROOT / "src").as_posix() if layer != "kernels" else ""
    if name in ENGINE_INTERFACE:
        return include in INTERFACE_MAY_INCLUDE or target in INTERFACE_MAY_INCLUDE
    rules = LAYERS[layer]
    return rules is None or target == layer or target in rules or include in rules


def violations():
    for top in ("src", "kernels"):
        for path in sorted((ROOT / top).rglob("*")):
            if path.suffix not in (".h", ".cc", ".cu", ".cuh"):
                continue
            layer = layer_of(path)
            if layer not in LAYERS:
                yield f"{path.relative_to(ROOT)}: the folder is not a layer of tests/layers/layers_test.py"
                continue
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                match = INCLUDE.match(line)
                if match and not allowed(path, layer, match[1]):
                    yield f"{path.relative_to(ROOT)}:{number}: {layer} may not include {match[1]}"


def main():
    found = list(violations())
    for line in found:
        print(line)
    print(f"layers: {len(found)} includes against the rules")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
