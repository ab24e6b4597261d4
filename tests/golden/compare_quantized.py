#!/usr/bin/env python3
"""Whether transformers, with the compressed-tensors package, reads what `moed quantize` writes as moed itself does.

    python3 tests/golden/compare_quantized.py build/release/moed models/demo --to int4 --group-size 32

quantises the model with the flags given, computes the logits of random prompts in fp32 with both programs, and prints the
worst error over the largest logit; it fails above 1e-4. The groups must divide the inputs: the package asks for that.
"""

import importlib.metadata
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers

PROMPTS, LENGTH = 4, 48


def main():
    moed, model, *flags = sys.argv[1:]
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        quantised, ids_file, logits_file = (f"{folder}/{name}" for name in ("model", "ids.json", "logits.npy"))
        subprocess.run([moed, "quantize", "--model", model, *flags, "--out", quantised], check=True)
        vocab = json.loads(pathlib.Path(quantised, "config.json").read_text())["vocab_size"]
        ids = np.random.default_rng(1).integers(3, vocab, (PROMPTS, LENGTH))
        pathlib.Path(ids_file).write_text(json.dumps(ids.tolist()))
        subprocess.run([moed, "logits", "--model", quantised, "--dtype", "fp32", "--quantization", "none", "--ids", ids_file,
                        "--out", logits_file], check=True)
        actual = np.load(logits_file).reshape(PROMPTS, LENGTH, vocab)
        reference = transformers.AutoModelForCausalLM.from_pretrained(
            quantised, dtype=torch.float32, experts_implementation="eager").eval()
        with torch.no_grad():
            expected = reference(torch.from_numpy(ids), use_cache=False).logits.float().numpy()
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("transformers", "compressed-tensors"))
    print(f"worst error {error:.2e} of the largest logit ({versions})")
    sys.exit(0 if error < 1e-4 else 1)


if __name__ == "__main__":
    main()
