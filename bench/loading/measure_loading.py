#!/usr/bin/env python3
"""How fast a checkpoint loads, and how much memory that takes beyond the weights.

    python3 bench/loading/measure_loading.py build/release/moed [--layers 8] [--folder /tmp] [MOED-FLAGS …]

writes a checkpoint of OLMoE-1B-7B's shape (configs/shapes) with random bf16 weights in files of at most 2 GB, 6.9 GB at 8
layers, and loads it with the flags given (`--quantization int8`), once with the files out of the page cache and once with
them in it. Prints seconds, GB/s, the largest resident memory and its ratio to the packed weights; beside it, how long the
files take to read, cold and warm. All of it is removed at the end.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import numpy as np

SHAPE = pathlib.Path(__file__).resolve().parents[2] / "configs/shapes/olmoe-1b-7b/config.json"
MAX_FILE_BYTES = 2_000_000_000


def tensors(config):
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    yield "model.embed_tokens.weight", (vocab, hidden)
    yield "lm_head.weight", (vocab, hidden)
    yield "model.norm.weight", (hidden,)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"):
            yield f"{prefix}.{norm}.weight", (hidden,)
        for part in "qkvo":
            yield f"{prefix}.self_attn.{part}_proj.weight", (hidden, hidden)
        yield f"{prefix}.mlp.gate.weight", (config["num_experts"], hidden)
        for expert in range(config["num_experts"]):
            for part, shape in (("gate", (inner, hidden)), ("up", (inner, hidden)), ("down", (hidden, inner))):
                yield f"{prefix}.mlp.experts.{expert}.{part}_proj.weight", shape


def num_bytes(shape):
    return 2 * int(np.prod(shape))


def write_checkpoint(folder, config):
    """bf16 bits of numbers of either sign from 0.004 to 0.016, drawn once and written over and over from other places."""
    rng = np.random.default_rng(1)
    bits = rng.integers(0x3B80, 0x3C80, 120_000_000, dtype=np.uint16) | rng.integers(0, 2, 120_000_000, dtype=np.uint16) << 15
    files, sizes = [[]], [0]
    for name, shape in tensors(config):
        if sizes[-1] + num_bytes(shape) > MAX_FILE_BYTES:
            files.append([])
            sizes.append(0)
        files[-1].append((name, shape))
        sizes[-1] += num_bytes(shape)
    weight_map = {}
    for number, entries in enumerate(files):
        file_name = f"model-{number + 1:05}-of-{len(files):05}.safetensors"
        header, end = {}, 0
        for name, shape in entries:
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + num_bytes(shape)]}
            end += num_bytes(shape)
            weight_map[name] = file_name
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(folder / file_name, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for _, shape in entries:
                first = int(rng.integers(0, 10_000_000))
                file.write(bits[first:first + num_bytes(shape) // 2])
            os.fsync(file.fileno())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config))
    return sum(sizes)


def forget(folder):
    """Takes the files out of the page cache."""
    for path in folder.glob("*.safetensors"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_files(folder):
    start = time.monotonic()
    for path in folder.glob("*.safetensors"):
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 24):
                pass
    return time.monotonic() - start


def load(moed, folder, flags):
    """Seconds of the load as the program logs them, and the largest resident memory in bytes."""
    ids, out = folder / "ids.json", folder / "logits.npy"
    ids.write_text("[[5]]")
    code = (
        "import resource, subprocess, sys, time\n"
        "start = time.monotonic()\n"
        "subprocess.run(sys.argv[1:], check=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(time.monotonic() - start, used.ru_maxrss * 1024, used.ru_utime + used.ru_stime)\n")
    command = [moed, "logits", "--model", str(folder), "--max-model-len", "16", "--ids", str(ids), "--out", str(out), *flags]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def weight_bytes(moed, folder, flags):
    done = subprocess.run([moed, "bench", "batch", "--model", str(folder), "--json", "--prompt", "1", "--generate", "1",
                           "--batch", "1", "--rounds", "1", *flags], capture_output=True, text=True, check=True)
    return int(re.search(r'"weight_bytes": (\d+)', done.stdout)[1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("moed")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--folder", default=None)
    arguments, flags = parser.parse_known_args()
    config = json.loads(SHAPE.read_text()) | {"num_hidden_layers": arguments.layers}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = pathlib.Path(name)
        size = write_checkpoint(folder, config)
        print(f"{size / 1e9:.2f} GB on disk; flags: {' '.join(flags) or 'none'}", flush=True)
        for state in ("cold", "warm"):
            if state == "cold":
                forget(folder)
            seconds = read_files(folder)
            print(f"{state}: reading takes {seconds:.1f} s, {size / seconds / 1e9:.2f} GB/s", flush=True)
            if state == "cold":
                forget(folder)
            seconds, memory, processor = load(arguments.moed, folder, flags)
            print(f"{state}: loading takes {seconds:.1f} s, {size / seconds / 1e9:.2f} GB/s, {processor:.1f} s of processor "
                  f"time, {memory / 1e9:.2f} GB resident at most", flush=True)
        weights = weight_bytes(arguments.moed, folder, flags)
        print(f"packed weights {weights / 1e9:.2f} GB: {memory / weights:.3f} of them resident at most")


if __name__ == "__main__":
    main()
