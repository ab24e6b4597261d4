"""Writes and reads the Hugging Face folder: tensor names and config.json as Qwen3-MoE has them."""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from .config import END_OF_TEXT, SPECIAL_TOKENS, ModelShape
from .model import DemoModel

MAX_BYTES = 16_000_000

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def to_hub_names(model: DemoModel):
    """Splits the stacked experts into one tensor a projection, as Hub checkpoints have them."""
    tensors = {}
    for name, value in model.state_dict().items():
        if name.endswith("mlp.gate_up"):
            prefix = "model." + name.removesuffix("gate_up") + "experts"
            for expert, stacked in enumerate(value):
                gate, up = stacked.chunk(2, dim=0)
                tensors[f"{prefix}.{expert}.gate_proj.weight"] = gate
                tensors[f"{prefix}.{expert}.up_proj.weight"] = up
        elif name.endswith("mlp.down"):
            prefix = "model." + name.removesuffix("down") + "experts"
            for expert, matrix in enumerate(value):
                tensors[f"{prefix}.{expert}.down_proj.weight"] = matrix
        else:
            tensors["model." + name] = value
    return tensors


def from_hub_names(tensors, shape: ModelShape):
    state = {}
    for name, value in tensors.items():
        if ".experts." not in name:
            state[name.removeprefix("model.")] = value
    for layer in range(shape.num_hidden_layers):
        prefix = f"layers.{layer}.mlp"

        def stacked(projection):
            names = [f"model.{prefix}.experts.{e}.{projection}.weight" for e in range(shape.num_experts)]
            return torch.stack([tensors[name] for name in names])

        state[f"{prefix}.gate_up"] = torch.cat([stacked("gate_proj"), stacked("up_proj")], dim=1)
        state[f"{prefix}.down"] = stacked("down_proj")
    return state


def config_json(shape: ModelShape, end_id: int, balance_weight: float):
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": end_id,
        "decoder_sparse_step": 1,
        "eos_token_id": end_id,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "initializer_range": 0.02,
        # The width of a dense layer, of which there is none.
        "intermediate_size": shape.num_experts_per_tok * shape.moe_intermediate_size,
        "max_position_embeddings": shape.max_position_embeddings,
        "max_window_layers": shape.num_hidden_layers,
        "mlp_only_layers": [],
        "model_type": "qwen3_moe",
        "moe_intermediate_size": shape.moe_intermediate_size,
        "norm_topk_prob": True,
        "num_attention_heads": shape.num_attention_heads,
        "num_experts": shape.num_experts,
        "num_experts_per_tok": shape.num_experts_per_tok,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_key_value_heads": shape.num_key_value_heads,
        "output_router_logits": False,
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_scaling": None,
        "rope_theta": shape.rope_theta,
        "router_aux_loss_coef": balance_weight,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": shape.vocab_size,
    }


def tokenizer_config_json(tokenizer: Tokenizer, shape: ModelShape):
    added = {
        str(tokenizer.token_to_id(token)): {
            "content": token, "lstrip": False, "normalized": False,
            "rstrip": False, "single_word": False, "special": True,
        }
        for token in SPECIAL_TOKENS
    }
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": SPECIAL_TOKENS[1:],
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_TEXT,
        "model_max_length": shape.max_position_embeddings,
        "pad_token": END_OF_TEXT,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }


def write_json(path: Path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def release(checkpoint: Path, model_dir: Path, weights: str) -> None:
    """Writes the folder from a checkpoint; `weights` is "model" or "average" (over the last steps)."""
    state = torch.load(checkpoint, weights_only=True)
    shape = ModelShape()
    model = DemoModel(shape)
    model.load_state_dict(state[weights])
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    end_id = tokenizer.token_to_id(END_OF_TEXT)
    tensors = {name: value.to(torch.bfloat16).contiguous() for name, value in to_hub_names(model).items()}
    path, unfinished = model_dir / "model.safetensors", model_dir / "model.safetensors.tmp"
    save_file(tensors, unfinished, metadata={"format": "pt"})
    if unfinished.stat().st_size > MAX_BYTES:
        raise SystemExit(f"{unfinished.stat().st_size} bytes are more than the {MAX_BYTES} that may ship")
    unfinished.chmod(0o644)
    os.replace(unfinished, path)
    write_json(model_dir / "config.json", config_json(shape, end_id, state["options"]["balance_weight"]))
    write_json(model_dir / "generation_config.json", {
        "bos_token_id": end_id,
        "do_sample": True,
        "eos_token_id": [end_id, tokenizer.token_to_id("<|im_end|>")],
        "pad_token_id": end_id,
        "temperature": 0.8,
        "top_p": 0.95,
    })
    write_json(model_dir / "tokenizer_config.json", tokenizer_config_json(tokenizer, shape))
    print(f"step {state['step']}, {state['tokens']} tokens, {path.stat().st_size} bytes")


def load_released(model_dir: Path) -> DemoModel:
    """The released weights in fp32, so that what is measured is what ships."""
    shape = ModelShape()
    model = DemoModel(shape)
    tensors = {name: value.float() for name, value in load_file(model_dir / "model.safetensors").items()}
    model.load_state_dict(from_hub_names(tensors, shape))
    return model.eval()
