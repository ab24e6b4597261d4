#!/usr/bin/env python3
"""Makes small random checkpoints with transformers, and what transformers computes with them.

    python3 tests/golden/make_golden.py [NAME …]

writes tests/golden/NAME/ for each checkpoint of CHECKPOINTS (or those named) and manifest.json. README.md describes the
files. The weights are random but scaled so that the model behaves like one: logits are spread, tokens vary, experts are
chosen clearly. A seed whose choices hang on the last bits of fp32 is passed over (Margins).
"""

import argparse
import dataclasses
import importlib.metadata
import json
import pathlib
import platform
import shutil
import sys

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

GOLDEN = pathlib.Path(__file__).resolve().parent
PROMPT_LENGTHS = (1, 7, 33, 100)
# Rows of each prompt whose logits are kept: enough to see every kind of position, few enough to be small.
LOGIT_ROWS = ((0,), (0, 3, 6), (0, 8, 15, 16, 32), (0, 15, 31, 47, 63, 64, 80, 98, 99))
GREEDY_PROMPTS = (1, 3)
GREEDY_TOKENS = 64
MAX_SEEDS = 200


@dataclasses.dataclass
class Checkpoint:
    """One small model: its configuration, how its files are written, and what it is there to exercise."""

    name: str
    note: str
    config: transformers.PretrainedConfig
    dtype: torch.dtype = torch.bfloat16
    max_shard_size: str = "1GB"
    # Spell config.json as transformers 4 did: rope_theta, torch_dtype, num_experts.
    old_spelling: bool = False


def mixtral(**fields):
    fields = dict(hidden_act="silu", bos_token_id=1, eos_token_id=2, max_position_embeddings=512) | fields
    theta = fields.pop("rope_theta")
    return transformers.MixtralConfig(rope_parameters={"rope_type": "default", "rope_theta": theta}, **fields)


def qwen3_moe(**fields):
    fields = dict(hidden_act="silu", bos_token_id=1, eos_token_id=[2, 3], max_position_embeddings=512) | fields
    theta = fields.pop("rope_theta")
    return transformers.Qwen3MoeConfig(rope_parameters={"rope_type": "default", "rope_theta": theta}, **fields)


CHECKPOINTS = [
    Checkpoint(
        "mixtral_plain",
        "grouped-query attention 4:2, 5 experts, top-2, bf16, config.json in the older spelling without head_dim",
        mixtral(
            vocab_size=1000, hidden_size=64, intermediate_size=32, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, num_local_experts=5, num_experts_per_tok=2, rope_theta=1e6, rms_norm_eps=1e-5,
        ),
        old_spelling=True,
    ),
    Checkpoint(
        "mixtral_tied",
        "tied embeddings, head_dim 24 of hidden 48, heads 6:3, 7 experts, top-3, fp16",
        mixtral(
            vocab_size=1003, hidden_size=48, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6,
            num_key_value_heads=3, head_dim=24, num_local_experts=7, num_experts_per_tok=3, rope_theta=1e4,
            rms_norm_eps=1e-6, tie_word_embeddings=True,
        ),
        dtype=torch.float16,
    ),
    Checkpoint(
        "qwen3_moe_sharded",
        "one KV head, head_dim 32, 7 experts, top-2 renormalised, layer 1 dense by mlp_only_layers, bf16 in two shards",
        qwen3_moe(
            vocab_size=1024, hidden_size=64, intermediate_size=56, moe_intermediate_size=32, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=1, head_dim=32, num_experts=7, num_experts_per_tok=2,
            norm_topk_prob=True, mlp_only_layers=[1], rope_theta=1e6, rms_norm_eps=1e-6,
        ),
        max_shard_size="320KB",
    ),
    Checkpoint(
        "qwen3_moe_biased",
        "attention biases, tied embeddings, 5 experts, top-3 not renormalised, every other layer dense by "
        "decoder_sparse_step, fp32, config.json in the older spelling",
        qwen3_moe(
            vocab_size=1100, hidden_size=48, intermediate_size=64, moe_intermediate_size=24, num_hidden_layers=4,
            num_attention_heads=6, num_key_value_heads=2, head_dim=16, num_experts=5, num_experts_per_tok=3,
            norm_topk_prob=False, decoder_sparse_step=2, attention_bias=True, tie_word_embeddings=True, rope_theta=5e5,
            rms_norm_eps=1e-6,
        ),
        dtype=torch.float32,
        old_spelling=True,
    ),
    Checkpoint(
        "qwen3_moe_odd",
        "sizes that no vector width divides: hidden 70, experts' FFN 20, 9 experts, top-4 renormalised, 5 heads "
        "without grouping, vocabulary 1001, bf16",
        qwen3_moe(
            vocab_size=1001, hidden_size=70, intermediate_size=60, moe_intermediate_size=20, num_hidden_layers=2,
            num_attention_heads=5, num_key_value_heads=5, head_dim=16, num_experts=9, num_experts_per_tok=4,
            norm_topk_prob=True, rope_theta=1e4, rms_norm_eps=1e-5,
        ),
    ),
]


@dataclasses.dataclass
class Margins:
    """How clearly fp32 decides; an implementation that is right to fp32 rounding cannot fall on the other side."""

    # Smallest gap between the best logit and the second, relative to the largest logit; the logits' tolerance is 1e-4.
    greedy: float = float("inf")
    # Smallest gap between the last chosen expert's probability and the first one left out.
    router: float = float("inf")
    # Fewest different tokens in a greedy continuation.
    distinct: int = GREEDY_TOKENS

    def clear(self):
        return self.greedy > 3e-4 and self.router > 2e-5

    def good(self):
        return self.clear() and self.distinct >= 12


def init_weights(model, seed):
    """Random weights that keep activations near 1 and make logits, attention and router decisive."""
    generator = torch.Generator().manual_seed(seed)
    tied = model.config.tie_word_embeddings

    def normal(parameter, std):
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fan_in = parameter.shape[-1] ** -0.5
            if "norm" in name:
                parameter.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
                if tied and name == "model.norm.weight":
                    # Of mixed signs, or a tied head would answer every token with itself.
                    parameter.mul_(torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1)
            elif name.endswith(".bias"):
                normal(parameter, 0.2)
            elif "embed_tokens" in name:
                normal(parameter, 0.3 if tied else 1.0)
            elif name.endswith("mlp.gate.weight") or "router" in name:
                normal(parameter, 2.0 * fan_in)
            elif "lm_head" in name:
                normal(parameter, 2.0 * fan_in)
            else:
                normal(parameter, fan_in)


def save_checkpoint(spec, seed, folder):
    """Writes the checkpoint as transformers does, its weights rounded to the type that it is stored in."""
    shutil.rmtree(folder, ignore_errors=True)
    model = transformers.AutoModelForCausalLM.from_config(spec.config)
    init_weights(model, seed)
    model.to(spec.dtype).save_pretrained(folder, max_shard_size=spec.max_shard_size)
    if spec.old_spelling:
        path = folder / "config.json"
        config = json.loads(path.read_text())
        config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
        config["torch_dtype"] = config.pop("dtype")
        if spec.config.model_type == "qwen3_moe":
            config["num_experts"] = config.pop("num_local_experts")
        if config.get("head_dim") in (None, config["hidden_size"] // config["num_attention_heads"]):
            config.pop("head_dim", None)
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


class Runner:
    """A checkpoint loaded by transformers in one type, which keeps what its routers did."""

    def __init__(self, folder, dtype):
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, experts_implementation="eager"
        ).eval()
        self.routed = []  # (router logits, chosen experts) of each MoE layer of the last run
        for module in self.model.modules():
            if type(module).__name__.endswith("TopKRouter"):
                module.register_forward_hook(lambda _, __, output: self.routed.append((output[0], output[2])))

    @torch.no_grad()
    def logits(self, ids):
        """[tokens, vocab] in fp32, of one prompt."""
        self.routed.clear()
        return self.model(torch.tensor([ids]), use_cache=False).logits[0].float()

    def experts(self):
        """The chosen experts of the last run by rising number: [moe layers, tokens, top_k]."""
        return torch.stack([chosen for _, chosen in self.routed]).sort(dim=-1).values.to(torch.int32)

    def router_margin(self):
        gaps = []
        for logits, chosen in self.routed:
            ranked = torch.softmax(logits.float(), dim=-1).sort(dim=-1, descending=True).values
            gaps.append((ranked[:, chosen.shape[-1] - 1] - ranked[:, chosen.shape[-1]]).min().item())
        return min(gaps)


def greedy(runner, prompt, margins):
    """The continuation of `prompt`, every step from the whole text again: no cache that could be wrong."""
    ids = list(prompt)
    for _ in range(GREEDY_TOKENS):
        last = runner.logits(ids)[-1]
        best, second = last.topk(2).values.tolist()
        margins.greedy = min(margins.greedy, (best - second) / last.abs().max().item())
        margins.router = min(margins.router, runner.router_margin())
        ids.append(int(last.argmax()))
        if not margins.clear():
            break  # this seed is passed over anyway
    continuation = ids[len(prompt):]
    margins.distinct = min(margins.distinct, len(set(continuation)))
    return continuation


def relative_error(actual, expected):
    return ((actual - expected).norm(dim=-1) / expected.norm(dim=-1)).tolist()


def random_prompts(vocab_size, seed):
    rng = np.random.default_rng(seed)
    return [rng.integers(4, vocab_size, length).tolist() for length in PROMPT_LENGTHS]


def make_expectations(folder, prompts, logit_rows=LOGIT_ROWS, greedy_prompts=GREEDY_PROMPTS):
    """What transformers computes: tensors for golden.safetensors, the margins and a summary."""
    margins = Margins()
    fp32 = Runner(folder, torch.float32)
    tensors = {}
    for i in greedy_prompts:
        tensors[f"prompts.{i}.greedy"] = np.array(greedy(fp32, prompts[i], margins), dtype=np.int32)
        if not margins.good():
            return None, margins, None
    bf16 = Runner(folder, torch.bfloat16)
    differences, references, agreeing_errors, disagreeing = [], [], [], 0
    for i, ids in enumerate(prompts):
        rows = list(logit_rows[i])
        expected = fp32.logits(ids)[rows]
        experts = fp32.experts()
        actual = bf16.logits(ids)[rows]
        bf16_experts = bf16.experts()
        errors = relative_error(actual, expected)
        tensors |= {
            f"prompts.{i}.ids": np.array(ids, dtype=np.int32),
            f"prompts.{i}.rows": np.array(rows, dtype=np.int32),
            f"prompts.{i}.logits": expected.numpy(),
            f"prompts.{i}.experts": experts.numpy(),
            f"prompts.{i}.bf16_experts": bf16_experts.numpy(),
            f"prompts.{i}.bf16_error": np.array(errors, dtype=np.float32),
        }
        # A row depends on the choices of every token before it too.
        same = (experts == bf16_experts).all(dim=-1).all(dim=0).cumprod(dim=0).bool()
        agreeing_errors += [error for row, error in zip(rows, errors) if same[row]]
        disagreeing += sum(not same[row] for row in rows)
        differences.append(actual - expected)
        references.append(expected)
    error = (torch.cat(differences).norm() / torch.cat(references).norm()).item()
    tensors["bf16_error"] = np.array([error], dtype=np.float32)
    summary = {
        "greedy_margin": round(margins.greedy, 6),
        "router_margin": round(margins.router, 6),
        "fewest_distinct_greedy_tokens": margins.distinct,
        "bf16_error": round(error, 5),
        "bf16_worst_error_where_experts_agree": round(max(agreeing_errors), 5),
        "bf16_rows_where_experts_differ": disagreeing,
    }
    return tensors, margins, summary


def make(spec):
    folder = GOLDEN / spec.name
    for seed in range(1, MAX_SEEDS):
        save_checkpoint(spec, seed, folder)
        tensors, margins, summary = make_expectations(folder, random_prompts(spec.config.vocab_size, seed))
        if tensors is not None:
            break
        print(f"{spec.name}: seed {seed} decides too narrowly: {margins}")
    else:
        sys.exit(f"{spec.name}: no seed below {MAX_SEEDS} decides clearly")
    save_file(tensors, folder / "golden.safetensors", metadata={"seed": str(seed)})
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{spec.name}: seed {seed}, {size} bytes, {summary}")
    return {"note": spec.note, "seed": seed, "bytes": size} | summary


def update_manifest(name, entry):
    """manifest.json after each checkpoint, so that a run of some of them keeps the others."""
    path = GOLDEN / "manifest.json"
    manifest = json.loads(path.read_text()) if path.exists() else {"checkpoints": {}}
    packages = ("torch", "transformers", "safetensors", "numpy")
    versions = {package: importlib.metadata.version(package) for package in packages}
    manifest["checkpoints"][name] = entry | {"made_with": {"python": platform.python_version()} | versions}
    path.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="checkpoints to make; all when none is given")
    names = parser.parse_args().names
    unknown = set(names) - {spec.name for spec in CHECKPOINTS}
    if unknown:
        parser.error(f"unknown checkpoints {sorted(unknown)}; known are {[spec.name for spec in CHECKPOINTS]}")
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    for spec in CHECKPOINTS:
        if not names or spec.name in names:
            update_manifest(spec.name, make(spec))


if __name__ == "__main__":
    main()
