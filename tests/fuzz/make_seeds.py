#!/usr/bin/env python3
"""Writes seeds/: small inputs of each kind from which fuzzing starts, and dictionaries/: words that they may be made of.
Inputs that fuzzing found are beside the seeds, named found-…, and are not touched.

Needs what the examples need (Debian: python3-grpcio, python3-protobuf).
"""

import base64
import json
import math
import pathlib
import re
import struct
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "examples"))
from moed_api import chat_pb2, inference_pb2, sampling_pb2  # noqa: E402


def write(target, name, data):
    folder = HERE / "seeds" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


# ------------------------------------------------------------------------------------------------------- checkpoints


def safetensors(header, data_size):
    text = compact(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data_size)


def gguf_string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def gguf(entries, tensors, data_size, alignment):
    """Tensors are (name, dimensions with the innermost first, type, offset)."""
    data = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries))
    for key, kind, value in entries:
        data += gguf_string(key) + struct.pack("<I", kind) + value
    for name, dimensions, kind, offset in tensors:
        data += gguf_string(name) + struct.pack("<I", len(dimensions))
        data += struct.pack(f"<{len(dimensions)}Q", *dimensions) + struct.pack("<IQ", kind, offset)
    return data + bytes(-len(data) % alignment + data_size)


def checkpoints():
    write("safetensors_header", "two", safetensors(
        {"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
         "b": {"dtype": "BF16", "shape": [], "data_offsets": [24, 26]}}, 26))
    write("safetensors_header", "empty", safetensors({}, 0))
    write("safetensors_header", "exotic", safetensors(
        {"q": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]},
         "none": {"dtype": "I64", "shape": [0, 7], "data_offsets": [4, 4]}}, 4))
    write("gguf_header", "kinds", gguf(
        [("a", 4, struct.pack("<I", 7)), ("b", 6, struct.pack("<f", 0.5)), ("c", 7, b"\1"), ("d", 8, gguf_string("text")),
         ("e", 9, struct.pack("<IQ", 8, 2) + gguf_string("x") + gguf_string("")),
         ("f", 9, struct.pack("<IQ", 5, 3) + struct.pack("<3i", 1, -2, 3)),
         ("general.alignment", 4, struct.pack("<I", 64))],
        [("matrix", (3, 2), 0, 0), ("blocks", (32, 2), 8, 64)], 64 + 68, 64))
    write("gguf_header", "empty", gguf([], [], 0, 32))
    for golden in ("mixtral_plain", "qwen3_moe_odd", "qwen3_moe_biased"):
        folder = ROOT / "tests/golden" / golden
        config = json.loads((folder / "config.json").read_text())
        generation = json.loads((folder / "generation_config.json").read_text())
        write("model_config", golden, compact(config) + "\0" + compact(generation))


SIZES = {"BF16": 2, "F16": 2, "F32": 4, "I32": 4, "I64": 8, "I8": 1, "U8": 1, "F8_E4M3": 1}
# Of one layer.
SIDE, VOCAB, HEADS, EXPERTS = 8, 8, 2, 2


def folder(config, tensors):
    """config.json and model.safetensors, `tensors` being (name, type, shape). All weights are 0."""
    header, end = {}, 0
    for name, dtype, shape in tensors:
        begin, end = end, end + math.prod(shape) * SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    return compact(config).encode() + b"\0" + safetensors(header, end)


def mixtral(quantization, parts):
    """Each matrix, of as many outputs as inputs, consists of `parts`."""
    config = {"architectures": ["MixtralForCausalLM"], "hidden_size": SIDE, "intermediate_size": SIDE,
              "max_position_embeddings": 64, "num_attention_heads": HEADS, "num_hidden_layers": 1,
              "num_experts_per_tok": 1, "num_key_value_heads": HEADS, "num_local_experts": EXPERTS, "vocab_size": VOCAB,
              "quantization_config": quantization}
    layer = "model.layers.0."
    names = [layer + f"self_attn.{name}_proj" for name in "qkvo"]
    names += [layer + f"block_sparse_moe.experts.{e}.w{i}" for e in range(EXPERTS) for i in (1, 2, 3)]
    tensors = [("model.embed_tokens.weight", "BF16", [VOCAB, SIDE]), ("lm_head.weight", "BF16", [VOCAB, SIDE]),
               ("model.norm.weight", "F32", [SIDE]), (layer + "input_layernorm.weight", "F16", [SIDE]),
               (layer + "post_attention_layernorm.weight", "BF16", [SIDE]),
               (layer + "block_sparse_moe.gate.weight", "BF16", [EXPERTS, SIDE])]
    tensors += [(f"{name}.{part}", dtype, shape) for name in names for part, dtype, shape in parts]
    return folder(config, tensors)


def checkpoint_folders():
    n = k = SIDE
    write("checkpoint_folder", "plain", mixtral(None, [("weight", "BF16", [n, k])]))
    write("checkpoint_folder", "awq", mixtral(
        {"bits": 4, "group_size": 8, "quant_method": "awq", "version": "gemm", "zero_point": True},
        [("qweight", "I32", [k, n // 8]), ("qzeros", "I32", [k // 8, n // 8]), ("scales", "F16", [k // 8, n])]))
    write("checkpoint_folder", "gptq", mixtral(
        {"bits": 4, "group_size": 8, "quant_method": "gptq", "desc_act": True, "sym": True},
        [("qweight", "I32", [k // 8, n]), ("qzeros", "I32", [k // 8, n // 8]), ("scales", "F16", [k // 8, n]),
         ("g_idx", "I32", [k])]))
    write("checkpoint_folder", "fp8", mixtral(
        {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]},
        [("weight", "F8_E4M3", [n, k]), ("weight_scale_inv", "F32", [1, 1])]))

    def compressed(weights, activations):
        group = {"targets": ["Linear"], "weights": {"dynamic": False, **weights}, "input_activations": activations}
        return {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": group}}

    write("checkpoint_folder", "int4", mixtral(
        compressed({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 8, "symmetric": False}, None),
        [("weight_packed", "I32", [n, k // 8]), ("weight_scale", "BF16", [n, k // 8]), ("weight_shape", "I64", [2]),
         ("weight_zero_point", "I32", [n // 8, k // 8])]))
    write("checkpoint_folder", "int8", mixtral(
        compressed({"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True},
                   {"dynamic": True, "num_bits": 8, "strategy": "token", "symmetric": True, "type": "int"}),
        [("weight", "I8", [n, k]), ("weight_scale", "BF16", [n, 1])]))

    n = k = 32  # a block
    config = {"architectures": ["GptOssForCausalLM"], "hidden_size": k, "intermediate_size": n, "vocab_size": VOCAB,
              "max_position_embeddings": 64, "num_attention_heads": HEADS, "num_hidden_layers": 1, "sliding_window": 8,
              "num_experts_per_tok": 1, "num_local_experts": EXPERTS, "head_dim": 4, "num_key_value_heads": 1,
              "quantization_config": {"quant_method": "mxfp4"}}
    layer = "model.layers.0."
    tensors = [("model.embed_tokens.weight", "BF16", [VOCAB, k]), ("lm_head.weight", "BF16", [VOCAB, k]),
               ("model.norm.weight", "F32", [k]), (layer + "input_layernorm.weight", "F16", [k]),
               (layer + "post_attention_layernorm.weight", "BF16", [k]),
               (layer + "self_attn.sinks", "BF16", [HEADS]), (layer + "mlp.router.weight", "BF16", [EXPERTS, k]),
               (layer + "mlp.router.bias", "BF16", [EXPERTS])]
    for name in "qkvo":
        rows, columns = {"q": (8, k), "k": (4, k), "v": (4, k), "o": (n, 8)}[name]
        tensors += [(layer + f"self_attn.{name}_proj.weight", "BF16", [rows, columns]),
                    (layer + f"self_attn.{name}_proj.bias", "BF16", [rows])]
    for name, outputs in (("gate_up_proj", 2 * n), ("down_proj", n)):
        tensors += [(layer + f"mlp.experts.{name}_blocks", "U8", [EXPERTS, outputs, 1, 16]),
                    (layer + f"mlp.experts.{name}_scales", "U8", [EXPERTS, outputs, 1]),
                    (layer + f"mlp.experts.{name}_bias", "BF16", [EXPERTS, outputs])]
    write("checkpoint_folder", "mxfp4", folder(config, tensors))


def gguf_models():
    """Models of one layer with a vocabulary of each kind."""
    u32, f32 = (lambda v: (4, struct.pack("<I", v))), (lambda v: (6, struct.pack("<f", v)))
    text = lambda v: (8, gguf_string(v))  # noqa: E731
    texts = lambda v: (9, struct.pack("<IQ", 8, len(v)) + b"".join(map(gguf_string, v)))  # noqa: E731
    ints = lambda v: (9, struct.pack(f"<IQ{len(v)}i", 5, len(v), *v))  # noqa: E731
    floats = lambda v: (9, struct.pack(f"<IQ{len(v)}f", 6, len(v), *v))  # noqa: E731
    bits = {0: (1, 4), 1: (1, 2), 8: (32, 34), 2: (32, 18), 39: (32, 17)}  # F32, F16, Q8_0, Q4_0, MXFP4

    def model(architecture, side, extra, kind, feed_forward, vocabulary):
        tensors = [("token_embd.weight", [side, VOCAB], False)]
        tensors += [(name, [side], True) for name in ("output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight")]
        tensors += [(f"blk.0.attn_{name}.weight", [side, side], False) for name in ("q", "k", "v", "output")]
        tensors += [(name, [side if one is None else one for one in dims], plain) for name, dims, plain in feed_forward]
        meta = {"general.architecture": text(architecture)}
        meta |= {f"{architecture}.{key}": value for key, value in {
            "context_length": u32(64), "embedding_length": u32(side), "block_count": u32(1),
            "feed_forward_length": u32(side),
            "attention.head_count": u32(HEADS), "attention.head_count_kv": u32(HEADS),
            "attention.layer_norm_rms_epsilon": f32(1e-5), "rope.freq_base": f32(1e4), **extra}.items()}
        meta |= {f"tokenizer.ggml.{key}": value for key, value in vocabulary.items()}
        meta["tokenizer.chat_template"] = text("{% for m in messages %}{{ m.content }}{% endfor %}")
        places, end = [], 0
        for name, dims, plain in tensors:
            block, size = bits[0 if plain else kind]
            places.append((name, dims, 0 if plain else kind, end))
            end += -(-math.prod(dims) // block * size // 32) * 32
        return gguf([(key, *value) for key, value in meta.items()], places, end, 32)

    dense = [(f"blk.0.ffn_{name}.weight", [None, None], False) for name in ("gate", "up", "down")]
    sparse = [("blk.0.ffn_gate_inp.weight", [None, EXPERTS], True)]
    sparse += [(f"blk.0.ffn_{name}_exps.weight", [None, None, EXPERTS], False) for name in ("gate", "up", "down")]
    like_llama = {"model": text("llama"), "tokens": texts(["<unk>", "<s>", "</s>", "<0x61>", "▁", "a", "b", "ab"]),
                  "scores": floats([0, 0, 0, 0, -1, -2, -3, -4]), "token_type": ints([2, 3, 3, 6, 1, 1, 1, 1]),
                  "bos_token_id": u32(1), "eos_token_id": u32(2), "add_bos_token": (7, b"\1")}
    like_gpt2 = {"model": text("gpt2"), "pre": text("qwen2"),
                 "tokens": texts(["a", "b", "c", "Ġ", "ab", "1", "2", "<eos>"]),
                 "merges": texts(["a b"]), "token_type": ints([1, 1, 1, 1, 1, 1, 1, 3]), "eos_token_id": u32(7)}
    moe = {"expert_count": u32(EXPERTS), "expert_used_count": u32(1)}
    write("gguf_model", "llama", model("llama", 8, {}, 1, dense, like_llama))
    write("gguf_model", "mixtral", model("llama", 32, moe, 2, sparse, like_llama))
    norms = [(f"blk.0.attn_{name}_norm.weight", [16], True) for name in "qk"]
    write("gguf_model", "qwen3moe", model("qwen3moe", 32, {**moe, "expert_feed_forward_length": u32(32)}, 39,
                                          norms + sparse, like_gpt2))


# -------------------------------------------------------------------------------------------------------- tokenizers


def added(number, content, **flags):
    return {"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True, **flags}


def tokenizer_json():
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    words = ["a", "b", "c", "Ġ", "Ã", "©", "1", "ab", "Ġa", "Ã©"]
    bytes_of_qwen = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [added(len(words), "<eos>"), added(len(words) + 1, "<x>", special=False, lstrip=True)],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|\s+(?!\S)|\s+"},
             "behavior": "Isolated", "invert": False},
            {**byte_level, "use_regex": False}]},
        "post_processor": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {word: i for i, word in enumerate(words)}, "merges": ["a b", "Ġ a", ["Ã", "©"]]}}
    write("tokenizer_json", "byte_level", compact(bytes_of_qwen) + "\0ab é<eos> a1 b")

    words = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in (0x0A, 0x61, 0xC3, 0xA9)), "▁", "a", "b", "ab", "▁a"]
    like_llama = {
        "version": "1.0", "added_tokens": [added(i, words[i]) for i in range(3)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None,
        "post_processor": {"type": "TemplateProcessing", "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
                  "vocab": {word: i for i, word in enumerate(words)}, "merges": ["a b", "▁ a"]}}
    write("tokenizer_json", "byte_fallback", compact(like_llama) + "\0ab é\n<s> a")
    metaspace = {**like_llama, "normalizer": {"type": "NFKC"},
                 "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True},
                 "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}}
    write("tokenizer_json", "metaspace", compact(metaspace) + "\0ab a</s>b")
    digits = {**bytes_of_qwen, "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {
        "type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True},
                                              {"type": "Punctuation", "behavior": "Isolated"}, byte_level]}}
    write("tokenizer_json", "digits", compact(digits) + "\0AB, 11 a.")


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number, payload):
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def tokenizer_model():
    kinds = {"<unk>": 2, "<s>": 3, "</s>": 3, "<user>": 4, **{f"<0x{i:02X}>": 6 for i in range(256)}}
    pieces = ["<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "ab", "▁▁", "é", "<user>"]

    def model(pieces, normalizer=b""):
        out = b""
        for i, piece in enumerate(pieces):
            out += field(1, field(1, piece.encode()) + b"\x15" + struct.pack("<f", -i) +
                         b"\x18" + varint(kinds.get(piece, 1)))
        trainer = b"\x18\x02"  # BPE
        if any(piece.startswith("<0x") for piece in pieces):
            trainer += varint(35 << 3) + b"\x01"  # byte_fallback
        return out + field(2, trainer) + field(3, normalizer)

    write("tokenizer_model", "plain", model(pieces))
    write("tokenizer_model", "byte_fallback", model(pieces + [f"<0x{i:02X}>" for i in range(256)]))
    # No dummy prefix, white space kept.
    write("tokenizer_model", "no_prefix", model(pieces, b"\x18\x00\x20\x00"))


def tiktoken():
    lines = "".join(f"{base64.b64encode(token.encode()).decode()} {256 + i}\n"
                    for i, token in enumerate(["ab", " a", "世", "世界", "abab", "  "]))
    config = {"tokenizer_class": "TikTokenTokenizer", "bos_token": "[BOS]", "eos_token": "[EOS]",
              "added_tokens_decoder": {"262": {"content": "[BOS]", "special": True}, "263": {"content": "[EOS]", "special": True},
                                       "270": {"content": "<s>", "special": False, "lstrip": True}}}
    write("tiktoken", "plain", compact(config) + "\0" + lines)
    write("tiktoken", "crlf", compact({"tokenizer_class": "TikTokenTokenizer"}) + "\0" + lines.replace("\n", "\r\n"))


def tokenizer_text():
    write("tokenizer_text", "words", "abc the 世界 <eos> é\n")
    write("tokenizer_text", "broken", b"ab\xe4\xb8 \xff\xc0\x80")


def chat_templates():
    loop = ("{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}<s>{{ m.content | trim }}"
            "{%- elif loop.last %}{{ '<' + m.role + '>' + m['content'][:4] ~ loop.index0 }}{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}")
    write("chat_template", "loop", loop)
    write("chat_template", "tools", "{% if tools is not none and tools | length > 0 %}{{ tools | tojson(indent=2) }}"
          "{% for t in tools %}{{ t.function.name | upper }}{% endfor %}{% else %}none{% endif %}\0"
          + compact({"messages": [], "tools": [{"function": {"name": "f", "p": [1, 2.5, None, True]}}]}))
    write("chat_template", "macro", "{% macro f(x, y=2) -%}{{ x * y }}{% if x > 0 %}{{ f(x - 1) }}{% endif %}{%- endmacro %}"
          "{% set ns = namespace(n=0) %}{% for i in range(5) if i is odd %}{% set ns.n = ns.n + i %}{% endfor %}"
          "{{ f(3) }}{{ ns.n }}{% set a, b = (1, 'x') %}{{ [a, b] | join('-') }}{{ {'k': [1]} }}{{ raise_exception('no') }}")
    write("chat_template", "strings", "{{ '%05.2f|%s' % (1.5, 'é') }}{{ 'a,b'.split(',') | reverse | list }}"
          "{{ 'abc'[::-1].replace('b', 'B').title() }}{{ messages | map(attribute='role') | unique | list }}"
          "{{ messages | selectattr('role', 'equalto', 'user') | first }}{{ strftime_now('%Y-%m') }}{# c #}"
          "{{ (10 ** 3) // 7 % 4 if x is defined else -3 | abs }}{% raw %}{{ }}{% endraw %}")


# ------------------------------------------------------------------------------------------------------------- plans


def zigzag(value):
    return varint(((value << 1) ^ (value >> 31)) & 0xFFFFFFFF)


def numbers(values):
    return varint(len(values)) + b"".join(map(zigzag, values))


def plans():
    """In the words of src/engine/step_plan.cc."""
    head = varint(8) + b"moedplan" + varint(2)
    tables = numbers([0, 1, 2]) + numbers([0, 1])
    rows = varint(2) + b"".join(zigzag(t) + zigzag(s) + b"\x01\x00" for t, s in ((2, 0), (3, 1)))
    params = (struct.pack("<f", 0.5) + zigzag(4) + struct.pack("<3f", 0.9, 0, 1.1) + struct.pack("<2f", 0, 0)
              + varint(1) + zigzag(3) + struct.pack("<f", -1) + b"\x01" + varint(7) + zigzag(16) + zigzag(0)
              + varint(1) + varint(2) + b"\n\n" + numbers([2]) + b"\x00\x00\x01" + zigzag(-1))
    inits = varint(1) + zigzag(0) + params + varint(7) + numbers([1, 2]) + numbers([])
    body = (varint(5) + numbers([1, 4, 5, -1]) + numbers([0, 1, 2, 9]) + numbers([0, 3, 4]) + numbers([0, 1])
            + varint(2) + tables + tables)
    write("step_plan", "two_sequences", head + body + rows + inits + varint(1)
          + zigzag(0) + zigzag(1) + zigzag(2) + varint(1) + zigzag(1) + zigzag(3) + zigzag(2) + b"\x01")
    write("step_plan", "empty", head + varint(0) + bytes(9))


# ---------------------------------------------------------------------------------------------------------- requests


def requests():
    sampling = sampling_pb2.SamplingParams(temperature=0.7, top_k=5, top_p=0.9, min_p=0.1, seed=1, max_tokens=8,
                                           stop=["\n"], stop_token_ids=[2], logprobs=2)
    write("request", "text", inference_pb2.GenerateRequest(text="Hi", sampling=sampling).SerializeToString())
    bias = sampling_pb2.SamplingParams(repetition_penalty=1.2, presence_penalty=1, frequency_penalty=-1,
                                       min_tokens=1, ignore_eos=True)
    bias.logit_bias[3] = 2.5
    write("request", "ids", inference_pb2.GenerateRequest(
        token_ids=inference_pb2.TokenIds(ids=[1, 2, 3]), sampling=bias).SerializeToString())
    conversation = chat_pb2.Conversation(
        messages=[chat_pb2.ChatMessage(role="user", content="世界")],
        tools=['{"type": "function", "function": {"name": "f"}}'], template_kwargs='{"enable_thinking": false}')
    call = conversation.messages.add(role="assistant", reasoning_content="hm").tool_calls.add(id="1", name="f")
    call.arguments = '{"x": [1, {"y": null}]}'
    write("request", "chat", inference_pb2.ChatRequest(conversation=conversation, sampling=bias).SerializeToString())


# ------------------------------------------------------------------------------------------------------ dictionaries

# Where the words stand that a target looks for.
SOURCES_OF_WORDS = {
    "checkpoint_folder": ("checkpoint/quantization_config.cc", "checkpoint/safetensors_*.cc", "model/compressed_tensors.cc",
                          "model/family.cc", "model/families/*.cc"),
    "chat_template": ("tokenizer/chat_template.cc", "tokenizer/jinja/*.cc", "tokenizer/jinja/*.h"),
    "gguf_model": ("checkpoint/gguf_*.cc", "model/gguf_checkpoint.cc", "tokenizer/gguf_vocabulary.cc"),
    "model_config": ("checkpoint/quantization_config.cc", "model/compressed_tensors.cc", "model/family.cc",
                     "model/families/*.cc", "model/rope_reader.cc"),
    "safetensors_header": ("checkpoint/safetensors_*.cc",),
    "tokenizer_json": ("tokenizer/tokenizer_*.cc", "tokenizer/added_tokens.cc", "tokenizer/decoder.cc",
                       "tokenizer/normalizer.cc", "tokenizer/pre_tokenizer.cc", "tokenizer/unigram.cc"),
}
PUNCTUATION = {
    "chat_template": ("{{ ", " }}", "{% ", " %}", "{%- ", " -%}", "{# ", " #}", "|", "~", "//", "**", "[::-1]", "is not "),
    "gguf_model": tuple(f"{word}." for word in ("general", "llama", "qwen3moe", "tokenizer.ggml")),
}


def dictionaries():
    (HERE / "dictionaries").mkdir(exist_ok=True)
    for target, patterns in SOURCES_OF_WORDS.items():
        words = set(PUNCTUATION.get(target, ()))
        for path in (path for pattern in patterns for path in (ROOT / "src").glob(pattern)):
            words |= set(re.findall(r'"([A-Za-z0-9_.]{2,40})"', path.read_text()))
        text = "".join(f'"{word}"\n' for word in sorted(words) if not word.endswith(".h"))
        (HERE / "dictionaries" / f"{target}.dict").write_text(text)


if __name__ == "__main__":
    dictionaries()
    for make in (checkpoints, checkpoint_folders, gguf_models, tokenizer_json, tokenizer_model, tiktoken, tokenizer_text,
                 chat_templates, plans, requests):
        make()
