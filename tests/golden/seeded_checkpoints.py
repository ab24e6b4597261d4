"""The checkpoints of seeded/: a table. To cover a family, add a line or two with small, odd sizes."""

import dataclasses
from typing import Callable

import torch
import transformers
from transformers import conversion_mapping


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


def minimax_m2_on_the_hub(config):
    """As the published checkpoints write it: rotary_dim, and no rope_scaling."""
    config["rotary_dim"] = int(config["head_dim"] * config["rope_parameters"].pop("partial_rotary_factor"))
    transformers_4(config)


def deepseek_on_the_hub(config):
    """The authors' spelling: the older one, with the scaling's name under "type"."""
    transformers_4(config)
    if config["rope_scaling"] is not None:
        config["rope_scaling"]["type"] = config["rope_scaling"].pop("rope_type")


class KimiK2Config(transformers.DeepseekV3Config):
    """Kimi-K2 has DeepSeek-V3's architecture under a model_type of its own, which transformers does not know."""

    model_type = "kimi_k2"


class KimiK2ForCausalLM(transformers.DeepseekV3ForCausalLM):
    config_class = KimiK2Config


KimiK2ForCausalLM.__name__ = "DeepseekV3ForCausalLM"  # as config.json's architectures name it
transformers.AutoConfig.register("kimi_k2", KimiK2Config)
transformers.AutoModelForCausalLM.register(KimiK2Config, KimiK2ForCausalLM)
conversion_mapping.register_checkpoint_conversion_mapping(
    "kimi_k2", conversion_mapping.get_checkpoint_conversion_mapping("deepseek_v3")
)


def yarn(factor, **fields):
    """YaRN from 64 positions on, so that a prompt of 100 tokens sees it."""
    return dict(rope_type="yarn", rope_theta=1e4, factor=factor, original_max_position_embeddings=64) | fields


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
    Checkpoint(
        "olmoe",
        "q/k norms over the full width, 7 experts, top-2 not renormalised",
        transformers.OlmoeConfig(
            **common(intermediate_size=40, num_experts=7, num_experts_per_tok=2, norm_topk_prob=False),
        ),
    ),
    Checkpoint(
        "olmoe_renormalized",
        "no grouping of heads, 5 experts, top-3 renormalised, tied embeddings, older spelling",
        transformers.OlmoeConfig(
            **common(
                hidden=48, layers=4, heads=6, kv_heads=6, vocab=1003, theta=5e5, intermediate_size=24, num_experts=5,
                num_experts_per_tok=3, norm_topk_prob=True, tie_word_embeddings=True,
            ),
        ),
        respell=transformers_4,
    ),
    Checkpoint(
        "qwen2_moe",
        "a shared expert with its gate, biases of Q, K and V, 7 experts, top-3 not renormalised, older spelling",
        transformers.Qwen2MoeConfig(
            **common(
                intermediate_size=72, moe_intermediate_size=24, shared_expert_intermediate_size=56, num_experts=7,
                num_experts_per_tok=3, norm_topk_prob=False,
            ),
        ),
        respell=transformers_4,
    ),
    Checkpoint(
        "qwen2_moe_mixed",
        "dense layers by mlp_only_layers and decoder_sparse_step, no biases, top-2 renormalised, every other layer with a "
        "window of 19, tied embeddings, fp16",
        transformers.Qwen2MoeConfig(
            **common(
                hidden=48, layers=6, heads=6, vocab=1003, theta=1e6, intermediate_size=72, moe_intermediate_size=40,
                shared_expert_intermediate_size=32, num_experts=5, num_experts_per_tok=2, norm_topk_prob=True,
                decoder_sparse_step=2, mlp_only_layers=[3], qkv_bias=False, use_sliding_window=True, sliding_window=19,
                max_window_layers=4, tie_word_embeddings=True,
            ),
        ),
        dtype=torch.float16,
    ),
    Checkpoint(
        "llama",
        "dense, RoPE scaled as in Llama 3.1, heads 6:2",
        transformers.LlamaConfig(
            **common(
                hidden=96, heads=6, intermediate_size=120,
                rope={
                    "rope_type": "llama3", "rope_theta": 5e3, "factor": 8.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
                },
            ),
        ),
    ),
    Checkpoint(
        "llama_biased",
        "dense, biases of attention and of the feed-forward, linear RoPE scaling, head_dim 24, tied embeddings, older "
        "spelling, fp32",
        transformers.LlamaConfig(
            **common(
                hidden=64, layers=2, vocab=1003, intermediate_size=100, attention_bias=True, mlp_bias=True, head_dim=24,
                tie_word_embeddings=True, rope={"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0},
            ),
        ),
        dtype=torch.float32,
        respell=transformers_4,
    ),
    Checkpoint(
        "mistral",
        "dense, a sliding window of 29 positions, heads 4:1",
        transformers.MistralConfig(**common(kv_heads=1, intermediate_size=120, sliding_window=29)),
    ),
    Checkpoint(
        "mistral_wide_heads",
        "dense, no window, head_dim 40 of hidden 48, older spelling",
        transformers.MistralConfig(
            **common(hidden=48, heads=3, kv_heads=3, intermediate_size=90, head_dim=40, sliding_window=None, theta=1e6),
        ),
        respell=transformers_4,
    ),
    Checkpoint(
        "qwen2",
        "dense, biases of Q, K and V, tied embeddings, older spelling",
        transformers.Qwen2Config(
            **common(hidden=56, heads=7, kv_heads=1, intermediate_size=100, theta=1e6, tie_word_embeddings=True),
        ),
        respell=transformers_4,
    ),
    Checkpoint(
        "qwen2_window",
        "dense, a window of 17 positions from the second layer on",
        transformers.Qwen2Config(
            **common(
                layers=4, intermediate_size=120, use_sliding_window=True, sliding_window=17, max_window_layers=1,
                theta=1e6,
            ),
        ),
    ),
    Checkpoint(
        "qwen3",
        "dense, q/k norms by head, head_dim 32 of hidden 64",
        transformers.Qwen3Config(**common(intermediate_size=120, head_dim=32, theta=1e6)),
    ),
    Checkpoint(
        "qwen3_biased",
        "dense, attention biases, tied embeddings, a window of 33 positions in the last layer, YaRN, fp16",
        transformers.Qwen3Config(
            **common(
                hidden=48, heads=6, kv_heads=3, vocab=1003, intermediate_size=70, head_dim=16, attention_bias=True,
                tie_word_embeddings=True, use_sliding_window=True, sliding_window=33, max_window_layers=2,
                rope={
                    "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64,
                },
            ),
        ),
        dtype=torch.float16,
    ),
    Checkpoint(
        "granitemoe",
        "multipliers of embedding, attention, residual and logits; fused experts, 7 of them, top-2",
        transformers.GraniteMoeConfig(
            **common(
                intermediate_size=40, num_local_experts=7, num_experts_per_tok=2, embedding_multiplier=3.0,
                attention_multiplier=0.2, residual_multiplier=0.6, logits_scaling=4.0,
            ),
        ),
    ),
    Checkpoint(
        "granitemoe_biased",
        "attention biases, tied embeddings, 5 experts, top-3, other multipliers, fp32, older spelling",
        transformers.GraniteMoeConfig(
            **common(
                hidden=48, layers=4, heads=3, kv_heads=1, vocab=1003, intermediate_size=24, num_local_experts=5,
                num_experts_per_tok=3, embedding_multiplier=2.0, attention_multiplier=0.25, residual_multiplier=0.5,
                logits_scaling=2.0, attention_bias=True, tie_word_embeddings=True,
            ),
        ),
        dtype=torch.float32,
        respell=transformers_4,
    ),
    Checkpoint(
        "granitemoeshared",
        "a shared expert beside 7, top-2, multipliers",
        transformers.GraniteMoeSharedConfig(
            **common(
                intermediate_size=24, shared_intermediate_size=56, num_local_experts=7, num_experts_per_tok=2,
                embedding_multiplier=3.0, attention_multiplier=0.2, residual_multiplier=0.6, logits_scaling=4.0,
            ),
        ),
    ),
    Checkpoint(
        "granitemoeshared_none",
        "shared_intermediate_size 0: no shared expert; top-1 of 3",
        transformers.GraniteMoeSharedConfig(
            **common(
                hidden=48, heads=3, kv_heads=3, intermediate_size=40, shared_intermediate_size=0, num_local_experts=3,
                num_experts_per_tok=1, embedding_multiplier=1.5, attention_multiplier=0.25, residual_multiplier=0.8,
                logits_scaling=1.5, theta=1e5,
            ),
        ),
    ),
    Checkpoint(
        "phimoe",
        "sparsemixer, LayerNorm, biases of attention and LM head, longrope within the original context",
        transformers.PhimoeConfig(
            **common(
                intermediate_size=40, num_local_experts=7, num_experts_per_tok=2, attention_bias=True, lm_head_bias=True,
                router_jitter_noise=0.2, max_position_embeddings=1024,
                rope={
                    "rope_type": "longrope", "rope_theta": 1e4, "short_mscale": 1.1, "long_mscale": 1.3,
                    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.7, 2.0],
                    "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
                    "original_max_position_embeddings": 256,
                },
            ),
        ),
        max_model_len=256,
    ),
    Checkpoint(
        "phimoe_plain",
        "sparsemixer, LayerNorm, no biases, 5 experts, a window of 23 positions, older spelling",
        transformers.PhimoeConfig(
            **common(
                hidden=48, layers=2, heads=6, kv_heads=3, vocab=1003, intermediate_size=24, num_local_experts=5,
                num_experts_per_tok=2, router_jitter_noise=0.05, sliding_window=23, theta=1e4,
            ),
        ),
        respell=transformers_4,
    ),
    Checkpoint(
        "gpt_oss",
        "sinks, windows of 13 in every other layer, YaRN, biases everywhere, clamped SwiGLU, 7 experts, top-3",
        transformers.GptOssConfig(
            **common(
                layers=4, intermediate_size=40, num_local_experts=7, num_experts_per_tok=3, head_dim=16,
                sliding_window=13, swiglu_limit=2.0,
                rope={
                    "rope_type": "yarn", "rope_theta": 1.5e4, "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0,
                    "truncate": False, "original_max_position_embeddings": 64,
                },
            ),
        ),
        transposed_experts=True,
    ),
    Checkpoint(
        "gpt_oss_wide_heads",
        "head_dim 32 of hidden 48, heads 5:1, 5 experts, top-2, no biases of attention, older spelling",
        transformers.GptOssConfig(
            **common(
                hidden=48, heads=5, kv_heads=1, vocab=1003, intermediate_size=32, num_local_experts=5,
                num_experts_per_tok=2, head_dim=32, sliding_window=31, attention_bias=False, swiglu_limit=3.0,
                rope={
                    "rope_type": "yarn", "rope_theta": 1.5e5, "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
                    "truncate": False, "original_max_position_embeddings": 16,
                },
            ),
        ),
        transposed_experts=True,
        respell=transformers_4,
    ),
    Checkpoint(
        "minimax_m2",
        "sigmoid router with correction bias, q/k norms over the full width, half of each head turns",
        transformers.MiniMaxM2Config(
            **common(
                intermediate_size=40, num_local_experts=7, num_experts_per_tok=3, head_dim=32,
                rope={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
            ),
        ),
    ),
    Checkpoint(
        "minimax_m2_grouped",
        "heads 6:1, 5 experts, top-2, a quarter of each head turns, tied embeddings, rotary_dim and older spelling",
        transformers.MiniMaxM2Config(
            **common(
                hidden=48, heads=6, kv_heads=1, vocab=1003, intermediate_size=24, num_local_experts=5,
                num_experts_per_tok=2, head_dim=16, tie_word_embeddings=True,
                rope={"rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 0.25},
            ),
        ),
        respell=minimax_m2_on_the_hub,
    ),
    Checkpoint(
        "ernie4_5_moe",
        "softmax router with correction bias, two shared experts, the first layer dense, interleaved RoPE",
        transformers.Ernie4_5_MoeConfig(
            **common(
                intermediate_size=72, moe_intermediate_size=24, moe_num_experts=7, moe_k=3, moe_num_shared_experts=2,
            ),
        ),
    ),
    Checkpoint(
        "ernie4_5_moe_mixed",
        "attention biases none, no shared experts, every other layer from the second to the fourth, tied embeddings",
        transformers.Ernie4_5_MoeConfig(
            **common(
                hidden=48, layers=5, heads=6, kv_heads=6, vocab=1003, intermediate_size=60, moe_intermediate_size=40,
                moe_num_experts=5, moe_k=2, moe_num_shared_experts=0, moe_layer_start_index=1, moe_layer_end_index=3,
                moe_layer_interval=2, tie_word_embeddings=True, theta=5e5,
            ),
        ),
        respell=transformers_4,
    ),
    Checkpoint(
        "hunyuan_moe",
        "q/k norms after RoPE, a shared expert as large as the others, 7 experts, top-3",
        transformers.HunYuanMoEV1Config(
            **common(intermediate_size=40, num_experts=7, moe_topk=3, head_dim=16, pad_token_id=0),
        ),
    ),
    Checkpoint(
        "hunyuan_moe_alpha",
        "RoPE stretched by a fixed alpha, attention biases, tied embeddings, top-1 of 4, older spelling",
        transformers.HunYuanMoEV1Config(
            **common(
                hidden=48, heads=6, kv_heads=3, vocab=1003, intermediate_size=24, num_experts=4, moe_topk=1, head_dim=16,
                attention_bias=True, tie_word_embeddings=True, pad_token_id=0,
                rope={"rope_type": "dynamic", "rope_theta": 1e4, "alpha": 20.0, "factor": 1.0},
            ),
        ),
        respell=transformers_4,
    ),
    Checkpoint(
        "deepseek_v2_lite",
        "MLA without a latent of the queries, YaRN with a part of its magnitude in the scores, two shared experts, the "
        "first layer dense, 7 experts, top-3 not renormalised, the authors' spelling",
        transformers.DeepseekV2Config(
            **common(
                kv_heads=4, intermediate_size=72, moe_intermediate_size=24, n_routed_experts=7, num_experts_per_tok=3,
                n_shared_experts=2, first_k_dense_replace=1, q_lora_rank=None, kv_lora_rank=32, qk_nope_head_dim=16,
                qk_rope_head_dim=8, v_head_dim=16, norm_topk_prob=False,
                rope=yarn(8.0, beta_fast=32, beta_slow=1, mscale=0.707, mscale_all_dim=0.707),
            ),
        ),
        respell=deepseek_on_the_hub,
    ),
    Checkpoint(
        "deepseek_v2_grouped",
        "MLA with a latent of the queries, sizes that no vector width divides, attention biases, YaRN of another mscale "
        "than mscale_all_dim, 2 of 4 groups of 2 experts, top-3 scaled by 1.5, all layers with experts",
        transformers.DeepseekV2Config(
            **common(
                hidden=54, heads=3, kv_heads=3, vocab=1003, intermediate_size=72, moe_intermediate_size=20,
                n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=1, first_k_dense_replace=0, q_lora_rank=27,
                kv_lora_rank=22, qk_nope_head_dim=12, qk_rope_head_dim=6, v_head_dim=9, attention_bias=True,
                topk_method="group_limited_greedy", n_group=4, topk_group=2, routed_scaling_factor=1.5,
                rope=yarn(4.0, mscale=1.0, mscale_all_dim=0.5),
            ),
        ),
    ),
    Checkpoint(
        "deepseek_v3",
        "sigmoid router with correction bias, 2 of 4 groups of 3 experts, top-4 renormalised and scaled by 2.5, YaRN, "
        "a shared expert, the first layer dense, the authors' spelling",
        transformers.DeepseekV3Config(
            **common(
                kv_heads=4, intermediate_size=72, moe_intermediate_size=24, n_routed_experts=12, num_experts_per_tok=4,
                n_shared_experts=1, first_k_dense_replace=1, q_lora_rank=40, kv_lora_rank=32, qk_nope_head_dim=16,
                qk_rope_head_dim=8, v_head_dim=16, n_group=4, topk_group=2, norm_topk_prob=True,
                routed_scaling_factor=2.5, num_nextn_predict_layers=1,
                rope=yarn(40.0, beta_fast=32, beta_slow=1, mscale=1.0, mscale_all_dim=1.0),
            ),
        ),
        respell=deepseek_on_the_hub,
    ),
    Checkpoint(
        "deepseek_v3_halves",
        "no latent of the queries, RoPE over halves, attention biases, two shared experts, top-2 of 5 experts in one group "
        "not renormalised, tied embeddings, fp32",
        transformers.DeepseekV3Config(
            **common(
                hidden=48, layers=2, heads=6, kv_heads=6, vocab=1003, intermediate_size=60, moe_intermediate_size=28,
                n_routed_experts=5, num_experts_per_tok=2, n_shared_experts=2, first_k_dense_replace=0,
                q_lora_rank=None, kv_lora_rank=24, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=20, n_group=1,
                topk_group=1, norm_topk_prob=False, routed_scaling_factor=1.0, rope_interleave=False,
                attention_bias=True, tie_word_embeddings=True,
            ),
        ),
        dtype=torch.float32,
    ),
    Checkpoint(
        "kimi_k2",
        "17 experts in one group, top-4, YaRN whose ramp is one step, under Kimi's name",
        KimiK2Config(
            **common(
                heads=2, kv_heads=2, theta=5e4, intermediate_size=72, moe_intermediate_size=20, n_routed_experts=17,
                num_experts_per_tok=4, n_shared_experts=1, first_k_dense_replace=1, q_lora_rank=24, kv_lora_rank=40,
                qk_nope_head_dim=24, qk_rope_head_dim=12, v_head_dim=24, n_group=1, topk_group=1, norm_topk_prob=True,
                routed_scaling_factor=2.827, rope=yarn(32.0, beta_fast=1.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0),
            ),
        ),
        respell=deepseek_on_the_hub,
    ),
    Checkpoint(
        "glm4_moe_lite",
        "MLA with values wider than keys, dense layers by mlp_layer_types, 6 experts, top-2 scaled by 1.8",
        transformers.Glm4MoeLiteConfig(
            **common(
                kv_heads=4, intermediate_size=72, moe_intermediate_size=24, n_routed_experts=6, num_experts_per_tok=2,
                n_shared_experts=1, q_lora_rank=32, kv_lora_rank=24, qk_nope_head_dim=12, qk_rope_head_dim=8,
                v_head_dim=28, n_group=1, topk_group=1, norm_topk_prob=True, routed_scaling_factor=1.8,
                mlp_layer_types=["sparse", "dense", "sparse"],
            ),
        ),
    ),
    Checkpoint(
        "glm4_moe",
        "q/k norms, attention biases, half of each head turns, sigmoid router with correction bias, the first layer dense",
        transformers.Glm4MoeConfig(
            **common(
                intermediate_size=72, moe_intermediate_size=24, head_dim=24, n_routed_experts=7, num_experts_per_tok=3,
                n_shared_experts=1, first_k_dense_replace=1, n_group=1, topk_group=1, norm_topk_prob=True,
                routed_scaling_factor=2.5, use_qk_norm=True, attention_bias=True, num_nextn_predict_layers=1,
                rope={"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5},
            ),
        ),
    ),
    Checkpoint(
        "glm4_moe_air",
        "heads 6:2 without q/k norms, 1 of 2 groups of 4 experts, top-2 not renormalised, two shared experts, tied "
        "embeddings, older spelling",
        transformers.Glm4MoeConfig(
            **common(
                hidden=48, heads=6, vocab=1003, intermediate_size=60, moe_intermediate_size=20, head_dim=16,
                n_routed_experts=8, num_experts_per_tok=2, n_shared_experts=2, first_k_dense_replace=2, n_group=2,
                topk_group=1, norm_topk_prob=False, use_qk_norm=False, tie_word_embeddings=True,
                rope={"rope_type": "default", "rope_theta": 1e5, "partial_rotary_factor": 0.5},
            ),
        ),
        respell=transformers_4,
    ),
]
