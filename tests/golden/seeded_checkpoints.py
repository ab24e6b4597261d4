"""The checkpoints of seeded/: a table. To cover a family, add a line or two with small, odd sizes."""

import dataclasses
from typing import Callable

import torch
import transformers


@dataclasses.dataclass
class Checkpoint:
    """One small model: its configuration, the type of its file, and what it is there to exercise."""

    name: str
    note: str
    config: transformers.PretrainedConfig
    dtype: torch.dtype = torch.bfloat16
    # The positions to load it for; 0: as the configuration says. Where RoPE depends on it (dynamic, longrope).
    max_model_len: int = 0
    # Experts' tensors are [experts, inputs, outputs].
    transposed_experts: bool = False
    # Part of a tensor's name -> the scale of its values, where the usual one does not make the model decisive.
    scales: dict[str, float] = dataclasses.field(default_factory=dict)
    # Changes config.json to another spelling of the same.
    respell: Callable[[dict], None] = lambda config: None


def common(hidden=64, layers=3, heads=4, kv_heads=2, vocab=1000, theta=1e4, rope=None, **fields):
    """Fields that nearly all configurations share; `fields` add to them or replace them."""
    return dict(
        vocab_size=vocab, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=None,
        rope_parameters=rope or {"rope_type": "default", "rope_theta": theta},
    ) | fields


def transformers_4(config):
    """config.json as transformers 4 wrote it: rope_theta, rope_scaling and torch_dtype."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope == {"rope_type": "default"} else rope
    config["torch_dtype"] = config.pop("dtype")


CHECKPOINTS = [
    Checkpoint(
        "mixtral_window",
        "a sliding window of 21 positions, 5 experts, top-2, heads 4:1",
        transformers.MixtralConfig(
            **common(
                kv_heads=1, intermediate_size=40, num_local_experts=5, num_experts_per_tok=2, sliding_window=21,
                rms_norm_eps=1e-5,
            ),
        ),
    ),
]
