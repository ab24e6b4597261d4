"""The released folder's logits in transformers, in this trainer and in moed, over held-out text."""

import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch

from .corpus import LANGUAGES
from .release import load_released


@torch.no_grad()
def transformers_logits(model_dir: Path, ids, dtype):
    """ids by language -> logits [tokens, vocabulary] by language, in fp32 whatever they were computed in."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype).eval()
    return {language: model(torch.from_numpy(row)[None]).logits[0].float().numpy() for language, row in ids.items()}


def trainer_logits(model_dir: Path, ids):
    model = load_released(model_dir)
    return {language: model.logits(torch.from_numpy(row)[None])[0].numpy() for language, row in ids.items()}


def moed_logits(moed: Path, model_dir: Path, ids, dtype: str):
    with tempfile.TemporaryDirectory() as folder:
        prompts, out = Path(folder) / "ids.json", Path(folder) / "logits.npy"
        prompts.write_text(json.dumps([row.tolist() for row in ids.values()]))
        subprocess.run([moed, "logits", "--model", model_dir, "--dtype", dtype, "--ids", prompts, "--out", out], check=True)
        rows = np.split(np.load(out), np.cumsum([len(row) for row in ids.values()])[:-1])
    return dict(zip(ids, rows))


def worst_logit(actual, expected):
    """Over the largest logit of all."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def relative_error(actual, expected):
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def agreement(model_dir: Path, data_dir: Path, moed: Path | None, length: int = 512):
    """By language, against transformers in fp32: the worst logit of fp32 runs, the relative L2 error of bf16 runs."""
    ids = {
        language: np.load(data_dir / f"{language}.test.npy")[:length].astype(np.int64) for language in LANGUAGES
    }
    expected = transformers_logits(model_dir, ids, torch.float32)
    fp32 = {"trainer": trainer_logits(model_dir, ids)}
    bf16 = {"transformers": transformers_logits(model_dir, ids, torch.bfloat16)}
    if moed:
        fp32["moed"], bf16["moed"] = (moed_logits(moed, model_dir, ids, dtype) for dtype in ("fp32", "bf16"))
    return {
        language: {
            "tokens": length,
            "largest_logit": float(np.abs(expected[language]).max()),
            "fp32_worst_logit": {who: worst_logit(rows[language], expected[language]) for who, rows in fp32.items()},
            "fp32_same_argmax": {
                who: int((rows[language].argmax(-1) == expected[language].argmax(-1)).sum()) for who, rows in fp32.items()
            },
            "bf16_relative_error": {who: relative_error(rows[language], expected[language]) for who, rows in bf16.items()},
        }
        for language in LANGUAGES
    }
