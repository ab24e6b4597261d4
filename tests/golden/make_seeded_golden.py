#!/usr/bin/env python3
"""Makes the goldens of seeded/: what transformers computes with checkpoints whose weights are a function of a seed.

    python3 tests/golden/make_seeded_golden.py [NAME …]

writes tests/golden/seeded/NAME/ for each checkpoint of seeded_checkpoints.py (or those named) and seeded/manifest.json.
No weight is stored: tensors.txt names each tensor as save_pretrained writes it, with its type, shape, mean and scale,
and the tests make the same numbers (tests/support/seeded_checkpoint.h). A seed whose choices hang on the last bits of
fp32 is passed over (`decides_clearly`).
"""

import argparse
import importlib.metadata
import json
import math
import pathlib
import platform
import shutil
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from seeded_checkpoints import CHECKPOINTS

SEEDED = pathlib.Path(__file__).resolve().parent / "seeded"
PROMPT_TOKENS = 100
GREEDY_TOKENS = 32
# What is kept: these rows of the prompt, of each but the last only some columns.
ROWS = [*range(0, PROMPT_TOKENS, 8), PROMPT_TOKENS - 1]
COLUMN_STEP = 9
MAX_SEEDS = 100
# Mean and scale of a tensor are whole numbers of 1 / UNIT, so that its values are exact in every language.
UNIT = 4096
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def fnv1a(text):
    """FNV-1a, 64 bits."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def values(seed, name, count, mean, scale):
    """(mean + scale * u) / UNIT with u uniform in [-1, 1): SplitMix64 over the elements, begun at (seed, name)."""
    with np.errstate(over="ignore"):
        z = np.uint64((fnv1a(name) + seed) % 2**64) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(
            0x9E3779B97F4A7C15
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    steps = (z >> np.uint64(40)).astype(np.int64) - 2**23
    return ((mean * 2**23 + scale * steps) / (UNIT * 2.0**23)).astype(np.float32)


def mean_and_scale(spec, name, shape):
    """Weights that keep activations near 1 and make logits, attention and router decisive."""
    for part, scale in spec.scales.items():
        if part in name:
            return 0.0, scale
    tied = spec.config.get_text_config().tie_word_embeddings
    fan_in = shape[-2] if len(shape) == 3 and spec.transposed_experts else shape[-1]
    # A uniform variable in [-s, s] has the deviation s / sqrt(3).
    unit = math.sqrt(3.0 / fan_in)
    if "norm" in name and name.endswith("weight"):
        # The last norm before a tied head has both signs, or every token would answer with itself.
        return (0.0, 1.5) if tied and name == "model.norm.weight" else (1.0, 0.5)
    if "bias" in name:
        return 0.0, 0.35
    if "sinks" in name:
        return 0.0, 2.0
    if "embed_tokens" in name:
        return 0.0, 0.5 if tied else 1.75
    if "router" in name or name.endswith(".gate.weight") or "gate.wg" in name or "lm_head" in name:
        return 0.0, 2.0 * unit
    return 0.0, unit


class Manifest:
    """tensors.txt: the seed, then a line for each tensor."""

    def __init__(self, spec, seed, folder):
        self.seed = seed
        self.tensors = []  # (type, shape, mean, scale, name)
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                for name in file.keys():
                    entry = file.get_slice(name)
                    shape = entry.get_shape()
                    numbers = (round(x * UNIT) for x in mean_and_scale(spec, name, shape))
                    self.tensors.append((entry.get_dtype(), shape, *numbers, name))

    def text(self):
        lines = [f"seed {self.seed}"]
        for dtype, shape, mean, scale, name in self.tensors:
            lines.append(f"{dtype} {'x'.join(map(str, shape))} {mean} {scale} {name}")
        return "\n".join(lines) + "\n"

    def weights(self):
        return {
            name: torch.from_numpy(values(self.seed, name, math.prod(shape), mean, scale))
            .reshape(shape)
            .to(DTYPES[dtype])
            for dtype, shape, mean, scale, name in self.tensors
        }


def write_checkpoint(spec, seed, folder):
    """The checkpoint as transformers writes it, but with the seed's weights. Returns its manifest."""
    model = transformers.AutoModelForCausalLM.from_config(spec.config).to(spec.dtype)
    model.save_pretrained(folder)
    manifest = Manifest(spec, seed, folder)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    save_torch_file(manifest.weights(), folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    spec.respell(config)
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    return manifest


def load(folder, dtype):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager", output_loading_info=True
    )
    for problem, names in info.items():
        if names:
            sys.exit(f"{folder}: transformers reports {problem}: {names}")
    return model.eval()


@torch.no_grad()
def logits(model, ids):
    """[tokens, vocab] in fp32, of one text, without a cache that could be wrong."""
    return model(torch.tensor([ids]), use_cache=False).logits[0].float()


def greedy(model, prompt):
    """The continuation, and the smallest gap between best and second logit relative to the largest logit."""
    ids, margin = list(prompt), math.inf
    for _ in range(GREEDY_TOKENS):
        last = logits(model, ids)[-1]
        best, second = last.topk(2).values.tolist()
        margin = min(margin, (best - second) / last.abs().max().item())
        ids.append(int(last.argmax()))
        if margin < 3e-4:
            break  # this seed is passed over anyway
    return ids[len(prompt):], margin


def sensitivity(folder, text, expected):
    """How much the logits move when every weight moves by a few units of fp32's last place: a choice of experts that
    falls the other way shows as a jump."""
    worst = 0.0
    for attempt in range(3):
        model = load(folder, torch.float32)
        generator = torch.Generator().manual_seed(attempt)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 1e-6 * torch.randn(parameter.shape, generator=generator))
        difference = (logits(model, text) - expected).abs().max()
        worst = max(worst, (difference / expected.abs().max()).item())
    return worst


def make(spec):
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        for seed in range(1, MAX_SEEDS):
            manifest = write_checkpoint(spec, seed, folder)
            model = load(folder, torch.float32)
            vocab_size = model.config.get_text_config().vocab_size
            prompt = np.random.default_rng(seed).integers(4, vocab_size, PROMPT_TOKENS).tolist()
            continuation, margin = greedy(model, prompt)
            if margin < 3e-4 or len(set(continuation)) < 8:
                print(f"{spec.name}: seed {seed}: margin {margin:.1e}, {len(set(continuation))} tokens", flush=True)
                continue
            expected = logits(model, prompt + continuation)
            moved = sensitivity(folder, prompt + continuation, expected)
            if moved < 3e-5:
                break
            print(f"{spec.name}: seed {seed} decides too narrowly: logits move by {moved:.1e}", flush=True)
        else:
            sys.exit(f"{spec.name}: no seed below {MAX_SEEDS} decides clearly")
        bf16 = logits(load(folder, torch.bfloat16), prompt)
        config = (folder / "config.json").read_text()
    expected = expected[:PROMPT_TOKENS]
    columns = list(range(seed % COLUMN_STEP, vocab_size, COLUMN_STEP))
    tensors = {
        "ids": np.array(prompt, dtype=np.int32),
        "greedy": np.array(continuation, dtype=np.int32),
        "rows": np.array(ROWS, dtype=np.int32),
        "columns": np.array(columns, dtype=np.int32),
        "logits": expected[ROWS][:, columns].numpy(),
        "largest": expected[ROWS].abs().max(dim=-1).values.numpy(),
        "last": expected[-1].numpy(),
        "bf16_error": np.array([((bf16 - expected).norm() / expected.norm()).item()], dtype=np.float32),
    }
    out = SEEDED / spec.name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / "config.json").write_text(config)
    (out / "tensors.txt").write_text(manifest.text())
    save_file(tensors, out / "golden.safetensors", metadata={"max_model_len": str(spec.max_model_len)})
    (out / "golden.safetensors").chmod(0o644)
    size = sum(path.stat().st_size for path in out.iterdir())
    summary = {
        "note": spec.note,
        "seed": seed,
        "bytes": size,
        "greedy_margin": round(margin, 6),
        "distinct_greedy_tokens": len(set(continuation)),
        "logits_move_by": float(f"{moved:.1e}"),
        "bf16_error": round(float(tensors["bf16_error"][0]), 5),
    }
    print(f"{spec.name}: {summary}", flush=True)
    return summary


def update_manifest(name, entry):
    """manifest.json after each checkpoint, so that a run of some of them keeps the others."""
    path = SEEDED / "manifest.json"
    manifest = json.loads(path.read_text()) if path.exists() else {"checkpoints": {}}
    packages = ("torch", "transformers", "safetensors", "numpy")
    manifest["made_with"] = {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in packages}
    manifest["checkpoints"][name] = entry
    path.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="checkpoints to make; all when none is given")
    names = parser.parse_args().names
    unknown = set(names) - {spec.name for spec in CHECKPOINTS}
    if unknown:
        parser.error(f"unknown checkpoints {sorted(unknown)}; known are {[spec.name for spec in CHECKPOINTS]}")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    for spec in CHECKPOINTS:
        if not names or spec.name in names:
            update_manifest(spec.name, make(spec))


if __name__ == "__main__":
    main()
