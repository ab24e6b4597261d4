#!/usr/bin/env python3
"""Makes the goldens of the weight formats: what public packages, or the formats' specifications, make of their bits.

    python3 tests/golden/make_format_golden.py [METHOD …]

writes to tests/golden/formats:
    gguf_blocks.safetensors   random valid blocks of each GGUF type, and their values as the gguf package dequantises them
    mxfp4.safetensors         matrices of experts as GPT-OSS has them, and their values as transformers dequantises them
    gguf_mixtral/             a small model written by the gguf package in several types, and its logits as below
    METHOD/                   a small checkpoint quantised by METHOD, its logits in golden.safetensors as transformers
                              computes them in fp32 with the dequantised weights, and one dequantised matrix; where the
                              method quantises activations, also logits of another prompt with these rounded
                              (ids_rounded, logits_rounded)

Without methods it writes all of it. The quantisers here round to nearest and are no better than they must be: what is compared is reading.
"""

import contextlib
import importlib.metadata
import itertools
import json
import pathlib
import shutil
import sys

import gguf
import numpy as np
import torch
import transformers
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
from gguf import GGMLQuantizationType as T
from safetensors.torch import save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

FORMATS = pathlib.Path(__file__).resolve().parent / "formats"
BLOCK_TYPES = (T.F32, T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K,
               T.IQ4_NL, T.IQ4_XS, T.MXFP4)
# Where a block has its fp16 scales: random bits there could be infinite or NaN.
SCALE_OFFSETS = {T.F16: (0,), T.Q4_0: (0,), T.Q4_1: (0, 2), T.Q5_0: (0,), T.Q5_1: (0, 2), T.Q8_0: (0,), T.Q2_K: (80, 82),
                 T.Q3_K: (108,), T.Q4_K: (0, 2), T.Q5_K: (0, 2), T.Q6_K: (208,), T.IQ4_NL: (0,), T.IQ4_XS: (0,)}


def gguf_blocks():
    rng = np.random.default_rng(1)
    tensors = {}
    for block_type in BLOCK_TYPES:
        elements, num_bytes = gguf.GGML_QUANT_SIZES[block_type]
        count = 64 if elements == 1 else 8 if elements == 32 else 2
        blocks = rng.integers(0, 256, (count, num_bytes), dtype=np.uint8)
        if block_type in (T.F32, T.BF16):
            values = rng.standard_normal(count).astype(np.float32)
            bits = values.view(np.uint32) if block_type == T.F32 else (values.view(np.uint32) >> 16).astype(np.uint16)
            blocks = bits.view(np.uint8).reshape(count, num_bytes)
        for offset in SCALE_OFFSETS.get(block_type, ()):
            scales = (rng.standard_normal(count) * np.exp(rng.uniform(-6, 2, count))).astype(np.float16)
            blocks[:, offset : offset + 2] = scales.view(np.uint8).reshape(count, 2)
        if block_type == T.MXFP4:
            blocks[:, 0] = [0, 1, 2, 100, 127, 128, 140, 200]
        values = gguf.dequantize(blocks, block_type).astype(np.float32).reshape(-1)
        assert np.isfinite(values).all(), block_type
        tensors[f"{block_type.name}.blocks"] = torch.from_numpy(blocks)
        tensors[f"{block_type.name}.values"] = torch.from_numpy(values)
    save_file(tensors, FORMATS / "gguf_blocks.safetensors")


# ---- Methods: a matrix [n, k] in fp32 to (its tensors by suffix, the matrix that they stand for in fp32) ----


def integer_groups(weight, bits, group_size, symmetric, group_of_input=None):
    """Unsigned codes [n, k], zeros [n, groups] and fp16 scales [n, groups]."""
    n, k = weight.shape
    groups = k // group_size
    index = torch.arange(k) // group_size if group_of_input is None else group_of_input.long()
    codes = torch.empty(n, k, dtype=torch.int32)
    scales, zeros = torch.empty(n, groups, dtype=torch.float16), torch.empty(n, groups, dtype=torch.int32)
    top = 2**bits - 1
    for group in range(groups):
        part = weight[:, index == group]
        if symmetric:
            scale = (part.abs().amax(1) / (top // 2)).half()
            zero = torch.full((n,), 2 ** (bits - 1), dtype=torch.int32)
        else:
            low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
            scale = ((high - low) / top).half()
            zero = torch.round(-low / scale.float()).clamp(0, top).int()
        code = torch.round(part / scale.float()[:, None]) + zero[:, None]
        codes[:, index == group] = code.clamp(0, top).int()
        scales[:, group], zeros[:, group] = scale, zero
    dequantised = (codes - zeros[:, index]).float() * scales.float()[:, index]
    return codes, zeros, scales, dequantised


def pack(values, bits, dim, order=None):
    """Unsigned values in int32 words along `dim`, the first in the low bits; `order` says which goes where."""
    per_word = 32 // bits
    order = order or range(per_word)
    values = values.movedim(dim, -1).long()
    values = torch.nn.functional.pad(values, (0, -values.shape[-1] % per_word))
    words = values.reshape(*values.shape[:-1], -1, per_word)
    packed = torch.zeros(words.shape[:-1], dtype=torch.int64)
    for place, element in enumerate(order):
        packed |= words[..., element] << (bits * place)
    packed = torch.where(packed >= 2**31, packed - 2**32, packed).int()
    return packed.movedim(-1, dim).contiguous()


def awq(weight):
    codes, zeros, scales, dequantised = integer_groups(weight, 4, 32, symmetric=False)
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    return {
        "qweight": pack(codes.T, 4, 1, order),
        "qzeros": pack(zeros.T, 4, 1, order),
        "scales": scales.T.contiguous(),
    }, dequantised


def gptq(bits, group_size, less_one, act_order, symmetric):
    def quantise(weight):
        k = weight.shape[1]
        size = group_size if group_size > 0 else k
        index = torch.arange(k, dtype=torch.int32) // size
        if act_order:
            index = index[torch.randperm(k, generator=torch.Generator().manual_seed(k))]
        codes, zeros, scales, dequantised = integer_groups(weight, bits, size, symmetric, index)
        stored = (zeros - 1) % 2**bits if less_one else zeros
        return {
            "qweight": pack(codes.T, bits, 0),
            "qzeros": pack(stored.T, bits, 1),
            "scales": scales.T.contiguous(),
            "g_idx": index,
        }, dequantised

    return quantise


def compressed_int8(weight):
    scale = (weight.abs().amax(1, keepdim=True) / 127).bfloat16()
    codes = torch.round(weight / scale.float()).clamp(-128, 127).to(torch.int8)
    return {"weight": codes, "weight_scale": scale}, codes.float() * scale.float()


def compressed_fp8(weight):
    scale = (weight.abs().amax(1, keepdim=True) / 448).bfloat16()
    codes = (weight / scale.float()).clamp(-448, 448).to(torch.float8_e4m3fn)
    return {"weight": codes, "weight_scale": scale}, codes.float() * scale.float()


def compressed_pack(weight):
    codes, zeros, scales, dequantised = integer_groups(weight, 4, 32, symmetric=False)
    scales = scales.bfloat16()
    dequantised = (codes - zeros.repeat_interleave(32, 1)).float() * scales.float().repeat_interleave(32, 1)
    return {
        "weight_packed": pack(codes, 4, 1),
        "weight_scale": scales,
        "weight_zero_point": pack(zeros, 4, 0),
        "weight_shape": torch.tensor(weight.shape),
    }, dequantised


def fp8_blocks(weight):
    n, k = weight.shape
    scales = torch.empty(-(-n // 128), -(-k // 128))
    codes, dequantised = torch.empty(n, k, dtype=torch.float8_e4m3fn), torch.empty(n, k)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            at = slice(i * 128, (i + 1) * 128), slice(j * 128, (j + 1) * 128)
            scales[i, j] = weight[at].abs().max() / 448
            codes[at] = (weight[at] / scales[i, j]).to(torch.float8_e4m3fn)
            dequantised[at] = codes[at].float() * scales[i, j]
    return {"weight": codes, "weight_scale_inv": scales}, dequantised


# ---- Activations [tokens, inputs], as a checkpoint's maker had them ----


def by_compressed_tensors(**fields):
    """As the package rounds dynamic activations."""
    args = QuantizationArgs(dynamic=True, symmetric=True, **fields)

    def round_rows(x):
        tokens = x.reshape(1, -1, x.shape[-1])  # the package takes the first two dimensions for those of tokens
        scale, zero = compute_dynamic_scales_and_zp(tokens, args, torch.nn.Module())
        return fake_quantize(tokens, scale, zero, args).reshape(x.shape)

    return round_rows


def fp8_row_blocks(x):
    """E4M3 with a scale for each 128 inputs of a row (DeepSeek-V3's report, section 3.3.2)."""
    blocks = [block for block in x.split(128, dim=-1)]
    scales = [block.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 448 for block in blocks]
    return torch.cat([(block / scale).to(torch.float8_e4m3fn).float() * scale for block, scale in zip(blocks, scales)], -1)


TOKEN_INT8 = {"num_bits": 8, "type": "int", "strategy": "token"}
TOKEN_FP8 = {"num_bits": 8, "type": "float", "strategy": "token"}
ACTIVATIONS = {
    "compressed_w8a8": by_compressed_tensors(**TOKEN_INT8),
    "compressed_fp8": by_compressed_tensors(**TOKEN_FP8),
    "fp8": fp8_row_blocks,
}


def compressed(num_bits, kind, strategy, file_format, activations=None, **fields):
    weights = {"num_bits": num_bits, "type": kind, "strategy": strategy, "dynamic": False, **fields}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations}
    return {"quant_method": "compressed-tensors", "format": file_format, "config_groups": {"group_0": group},
            "ignore": ["lm_head"], "quantization_status": "compressed"}


def gptq_config(bits, group_size, desc_act, sym, **fields):
    return {"quant_method": "gptq", "bits": bits, "group_size": group_size, "desc_act": desc_act, "sym": sym, **fields}


METHODS = {
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}),
    "gptq_v1_act_order": (gptq(4, 32, True, True, False), gptq_config(4, 32, True, False)),
    "gptq_v2_int8": (gptq(8, -1, False, False, True), gptq_config(8, -1, False, True, checkpoint_format="gptq_v2")),
    "compressed_w8a16": (compressed_int8, compressed(8, "int", "channel", "int-quantized", symmetric=True)),
    "compressed_w8a8": (
        compressed_int8,
        compressed(8, "int", "channel", "int-quantized", symmetric=True,
                   activations=TOKEN_INT8 | {"dynamic": True, "symmetric": True})),
    "compressed_fp8": (
        compressed_fp8,
        compressed(8, "float", "channel", "float-quantized", symmetric=True,
                   activations=TOKEN_FP8 | {"dynamic": True, "symmetric": True})),
    "compressed_w4a16": (
        compressed_pack, compressed(4, "int", "group", "pack-quantized", symmetric=False, group_size=32)),
    "fp8": (
        fp8_blocks,
        {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}),
}
KEPT = "model.layers.0.self_attn.q_proj.weight"
PROMPT_LENGTH = 24
ROUNDED_PROMPT_LENGTH = 8


def model_config(wide):
    """As small as the groups allow; `wide` has matrices of more than one block of 128 x 128."""
    return transformers.MixtralConfig(
        vocab_size=64, hidden_size=160 if wide else 64, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=80 if wide else 32, num_local_experts=2 if wide else 3, num_experts_per_tok=2,
        max_position_embeddings=64, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )


def random_weights(config):
    """By the names of the checkpoint, where an expert is a matrix of its own."""
    generator = torch.Generator().manual_seed(7)
    hidden, inner, head = config.hidden_size, config.intermediate_size, config.head_dim
    matrices = {"model.embed_tokens": (config.vocab_size, hidden), "lm_head": (config.vocab_size, hidden)}
    layer = "model.layers.0"
    matrices |= {
        f"{layer}.self_attn.q_proj": (config.num_attention_heads * head, hidden),
        f"{layer}.self_attn.k_proj": (config.num_key_value_heads * head, hidden),
        f"{layer}.self_attn.v_proj": (config.num_key_value_heads * head, hidden),
        f"{layer}.self_attn.o_proj": (hidden, config.num_attention_heads * head),
        f"{layer}.block_sparse_moe.gate": (config.num_local_experts, hidden),
    }
    for expert in range(config.num_local_experts):
        prefix = f"{layer}.block_sparse_moe.experts.{expert}"
        matrices |= {f"{prefix}.w1": (inner, hidden), f"{prefix}.w3": (inner, hidden), f"{prefix}.w2": (hidden, inner)}
    weights = {}
    for name, shape in matrices.items():
        std = 1.0 if "embed" in name else 1.5 / shape[1] ** 0.5
        weights[f"{name}.weight"] = (torch.randn(shape, generator=generator) * std).bfloat16().float()
    for name in ("model.norm", f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm"):
        weights[f"{name}.weight"] = (1 + 0.2 * torch.randn(hidden, generator=generator)).bfloat16().float()
    return weights


@contextlib.contextmanager
def rounded_activations(model, round_rows):
    """Rounds what goes into every product with a matrix but the router's and the LM head's."""
    plain = torch.nn.functional.linear
    kept = {module.weight.data_ptr() for name, module in model.named_modules() if name.endswith(("lm_head", ".gate"))}
    assert len(kept) == 1 + model.config.num_hidden_layers, "the router is called otherwise"

    def linear(x, weight, bias=None):
        return plain(x if weight.data_ptr() in kept else round_rows(x), weight, bias)

    torch.nn.functional.linear = linear
    try:
        yield
    finally:
        torch.nn.functional.linear = plain


def reference_model(config, weights, folder):
    """That of transformers with `weights`, loaded from a folder that is removed again."""
    plain = folder / "plain"
    plain.mkdir()
    save_file({name: value.contiguous() for name, value in weights.items()}, plain / "model.safetensors",
              metadata={"format": "pt"})
    config.save_pretrained(plain)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        plain, dtype=torch.float32, experts_implementation="eager").eval()
    shutil.rmtree(plain)
    return model


def reference_logits(model, ids, round_rows=None):
    with torch.no_grad(), rounded_activations(model, round_rows) if round_rows else contextlib.nullcontext():
        return model(torch.tensor([ids]), use_cache=False).logits[0].float()


def random_prompt(config, seed, length=PROMPT_LENGTH):
    return np.random.default_rng(seed).integers(3, config.vocab_size, length).tolist()


def steady_prompt(model, round_rows):
    """A prompt of which no activation lies so near a boundary of rounding that another order of fp32 sums takes it to
    the other side: such a value is off by a whole step of 8 bits, for which neither program is to blame. A short one,
    since few long ones have no such value."""
    noise = torch.Generator().manual_seed(11)

    def round_with_noise(x):
        return round_rows(x * (1 + 1e-6 * torch.randn(x.shape, generator=noise)))

    for seed in itertools.count(3):
        ids = random_prompt(model.config, seed, ROUNDED_PROMPT_LENGTH)
        logits = reference_logits(model, ids, round_rows)
        noisy = (reference_logits(model, ids, round_with_noise) for _ in range(8))
        if all((other - logits).abs().max() <= 2e-5 * logits.abs().max() for other in noisy):
            return ids


def make(name, quantise, quantization_config):
    folder = FORMATS / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = model_config(wide=name == "fp8")
    tensors, dequantised = {}, {}
    for key, weight in random_weights(config).items():
        linear = weight.dim() == 2 and not any(word in key for word in ("embed", "lm_head", "gate"))
        if linear:
            parts, dequantised[key] = quantise(weight)
            tensors |= {key.removesuffix("weight") + part: value for part, value in parts.items()}
        else:
            tensors[key], dequantised[key] = weight.bfloat16(), weight
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = reference_model(config, dequantised, folder)
    ids = random_prompt(config, 3)
    golden = {
        "ids": torch.tensor(ids, dtype=torch.int32),
        "logits": reference_logits(model, ids),
        KEPT: dequantised[KEPT][:8].contiguous(),
    }
    if name in ACTIVATIONS:
        ids = steady_prompt(model, ACTIVATIONS[name])
        golden["ids_rounded"] = torch.tensor(ids, dtype=torch.int32)
        golden["logits_rounded"] = reference_logits(model, ids, ACTIVATIONS[name])
    save_file(golden, folder / "golden.safetensors")
    config.dtype = torch.bfloat16
    fields = json.loads(config.to_json_string()) | {
        "architectures": ["MixtralForCausalLM"], "quantization_config": quantization_config}
    (folder / "config.json").write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")


def permute(weight, heads):
    """The rows of Q and K as llama.cpp has them for its Llama architecture: interleaved RoPE."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


GGUF_TYPES = {"q_proj": T.Q8_0, "k_proj": T.Q4_0, "v_proj": T.F16, "o_proj": T.Q5_0, "w1": T.Q4_1, "w3": T.Q5_1, "w2": T.BF16,
              "embed_tokens": T.Q8_0, "lm_head": T.Q8_0}


def gguf_model():
    folder = FORMATS / "gguf_mixtral"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = model_config(wide=False)
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_rope_freq_base(1e4)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_expert_count(config.num_local_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    dequantised, stacks = {}, {}
    for name, weight in random_weights(config).items():
        part = name.split(".")[-2]
        values = weight.numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(part)
        if heads:
            values = permute(values, heads)
        block_type = GGUF_TYPES.get(part, T.F32)
        blocks = gguf.quantize(values, block_type)
        restored = torch.from_numpy(np.ascontiguousarray(gguf.dequantize(blocks, block_type), dtype=np.float32))
        if heads:  # the other way round
            head, rows = config.head_dim, weight.shape[0]
            restored = restored.reshape(heads, head // 2, 2, -1).swapaxes(1, 2).reshape(rows, -1)
        dequantised[name] = restored.reshape(weight.shape)
        if ".experts." in name:
            stacks.setdefault(f"layers.0.feed_forward.experts.{part}", (block_type, []))[1].append(blocks)
        else:
            writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), blocks, raw_dtype=block_type)
    for name, (block_type, blocks) in stacks.items():
        writer.add_tensor(names.get_name(name) + ".weight", np.stack(blocks), raw_dtype=block_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ids = random_prompt(config, 3)
    logits = reference_logits(reference_model(config, dequantised, folder), ids)
    save_file({"ids": torch.tensor(ids, dtype=torch.int32), "logits": logits}, folder / "golden.safetensors")


def mxfp4():
    """One stack of matrices as GPT-OSS has them, and what transformers makes of it."""
    rng = np.random.default_rng(5)
    blocks = torch.from_numpy(rng.integers(0, 256, (2, 6, 3, 16), dtype=np.uint8))
    scales = torch.from_numpy(rng.integers(110, 140, (2, 6, 3), dtype=np.uint8))
    # transformers gives inputs by outputs, in the type asked for.
    values = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).transpose(1, 2).contiguous()
    save_file({"experts_blocks": blocks, "experts_scales": scales, "values": values}, FORMATS / "mxfp4.safetensors")


def main():
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    FORMATS.mkdir(exist_ok=True)
    if len(sys.argv) == 1:
        gguf_blocks()
        mxfp4()
        gguf_model()
    for name in sys.argv[1:] or METHODS:
        make(name, *METHODS[name])
    packages = ("torch", "transformers", "safetensors", "numpy", "gguf", "compressed-tensors")
    versions = {package: importlib.metadata.version(package) for package in packages}
    (FORMATS / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


if __name__ == "__main__":
    main()
