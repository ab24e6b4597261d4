#!/usr/bin/env python3
"""Writes seeds/: small inputs of each kind from which fuzzing starts. Inputs that fuzzing found are beside them, named
found-…, and are not touched.

Needs what the examples need (Debian: python3-grpcio, python3-protobuf).
"""

import json
import pathlib
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
    head = varint(8) + b"moedplan" + varint(1)
    tables = numbers([0, 1, 2]) + numbers([0, 1])
    rows = varint(2) + b"".join(zigzag(t) + zigzag(s) + b"\x01\x00" for t, s in ((2, 0), (3, 1)))
    params = (struct.pack("<f", 0.5) + zigzag(4) + struct.pack("<3f", 0.9, 0, 1.1) + struct.pack("<2f", 0, 0)
              + varint(1) + zigzag(3) + struct.pack("<f", -1) + b"\x01" + varint(7) + zigzag(16) + zigzag(0)
              + varint(1) + varint(2) + b"\n\n" + numbers([2]) + b"\x00\x00\x01" + zigzag(-1))
    inits = varint(1) + zigzag(0) + params + varint(7) + numbers([1, 2]) + numbers([])
    body = (varint(5) + numbers([1, 4, 5, -1]) + numbers([0, 1, 2, 9]) + numbers([0, 3, 4]) + numbers([0, 1])
            + varint(2) + tables + tables)
    write("step_plan", "two_sequences", head + body + rows + inits + varint(1)
          + zigzag(0) + zigzag(1) + zigzag(2))
    write("step_plan", "empty", head + varint(0) + bytes(8))


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


if __name__ == "__main__":
    for make in (checkpoints, tokenizer_json, tokenizer_model, tokenizer_text, chat_templates, plans, requests):
        make()
