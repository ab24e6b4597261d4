#!/usr/bin/env python3
"""Writes rope.json: what transformers makes of every kind of RoPE scaling.

    python3 tests/golden/make_rope_golden.py

A list of cases: `config` as in config.json, `positions` (the context that the frequencies are for), and transformers'
`radians` a position of each pair of dimensions and the `magnitude` of cosines and sines.
"""

import json
import pathlib

import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

SIZES = dict(hidden_size=96, num_attention_heads=6, num_hidden_layers=1, vocab_size=8, intermediate_size=8)
LONG = [1.0, 1.3, 1.7, 2.5, 4.0, 9.0, 20.0, 40.5]
SHORT = [1.0, 1.01, 1.02, 1.03, 1.1, 1.5, 2.0, 2.4]

# max_position_embeddings, rope_parameters, positions
CASES = [
    (512, {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}, 512),
    (512, {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, 300),
    (512, {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, 1300),
    (2048, {"rope_type": "dynamic", "rope_theta": 5e5, "factor": 6.0, "partial_rotary_factor": 0.5}, 16384),
    (
        131072,
        {
            "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        131072,
    ),
    (
        1024,
        {
            "rope_type": "llama3", "rope_theta": 100.0, "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 8.0, "original_max_position_embeddings": 64,
        },
        1024,
    ),
    (
        131072,
        {
            "rope_type": "yarn", "rope_theta": 1.5e5, "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
            "truncate": False, "original_max_position_embeddings": 4096,
        },
        131072,
    ),
    (32768, {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 8192}, 32768),
    (
        16384,
        {
            "rope_type": "yarn", "rope_theta": 1e4, "factor": 40.0, "mscale": 0.707, "mscale_all_dim": 0.5,
            "original_max_position_embeddings": 4096,
        },
        16384,
    ),
    (
        4096,
        {
            "rope_type": "longrope", "rope_theta": 1e4, "short_factor": SHORT, "long_factor": LONG,
            "original_max_position_embeddings": 256,
        },
        256,
    ),
    (
        4096,
        {
            "rope_type": "longrope", "rope_theta": 1e4, "short_factor": SHORT, "long_factor": LONG,
            "original_max_position_embeddings": 256,
        },
        257,
    ),
    (
        4096,
        {
            "rope_type": "longrope", "rope_theta": 1e4, "short_factor": SHORT, "long_factor": LONG, "factor": 8.0,
            "attention_factor": 1.19, "original_max_position_embeddings": 256,
        },
        4096,
    ),
]


def main():
    cases = []
    for max_positions, rope, positions in CASES:
        config = transformers.LlamaConfig(**SIZES, max_position_embeddings=max_positions, rope_parameters=dict(rope))
        radians, magnitude = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, "cpu", seq_len=positions)
        cases.append(
            {
                "config": SIZES | {"max_position_embeddings": max_positions, "rope_parameters": rope},
                "positions": positions,
                "radians": [float(f"{value:.9g}") for value in radians.tolist()],
                "magnitude": magnitude,
            }
        )
    text = ",\n".join(json.dumps(case) for case in cases)
    (pathlib.Path(__file__).resolve().parent / "rope.json").write_text(f"[\n{text}\n]\n")


if __name__ == "__main__":
    main()
