"""Models, configurations and flags with which `moed serve` must not start, and what it says."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import socket
import struct
import typing

from server import DEMO_MODEL

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
K_PROJ = "model.layers.0.self_attn.k_proj.weight"
K_NORM = "model.layers.0.self_attn.k_norm.weight"


class ModelFolder:
    """A copy of the demo model in which single files are replaced."""

    def __init__(self, path):
        self.path = path
        path.mkdir()
        for file in DEMO_MODEL.iterdir():
            if file.is_file():
                (path / file.name).symlink_to(file)

    def write(self, name, content):
        self.remove(name)
        (self.path / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    def remove(self, name):
        (self.path / name).unlink(missing_ok=True)

    def edit_json(self, name, edit):
        """`edit` gets the parsed file and changes it in place."""
        content = json.loads((self.path / name).read_bytes())
        edit(content)
        self.write(name, json.dumps(content))

    def set_config(self, **fields):
        self.edit_json("config.json", lambda config: config.update(fields))

    def weights(self):
        """The header as text and the data behind it."""
        content = (self.path / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        return content[8:8 + length].decode(), content[8 + length:]

    def set_header(self, text):
        _, data = self.weights()
        self.write(WEIGHTS, struct.pack("<Q", len(text)) + text.encode() + data)

    def edit_header(self, edit):
        header = json.loads(self.weights()[0])
        edit(header)
        self.set_header(json.dumps(header))

    def edit_tensor(self, name, **fields):
        self.edit_header(lambda header: header[name].update(fields))


@dataclasses.dataclass(frozen=True)
class StartRow:
    """`make` breaks a model's folder and may return flags, or a context manager that gives them."""

    name: str
    make: typing.Callable
    message: str  # a part of the one line on stderr


@contextlib.contextmanager
def port_in_use(_):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield ["--port", other.getsockname()[1]]


def yaml(text):
    """Flags that name a configuration with this text."""

    def make(model):
        model.write("moed.yaml", text)
        return ["--config", model.path / "moed.yaml"]

    return make


def flags(*arguments):
    return lambda model: arguments


def config(**fields):
    return lambda model: model.set_config(**fields)


def tensor(name, **fields):
    return lambda model: model.edit_tensor(name, **fields)


def file(name, content):
    return lambda model: model.write(name, content)


def cut_weights(size):
    """The first `size` bytes of the weights; the last ones are left out where it is negative."""
    return lambda model: model.write(WEIGHTS, (model.path / WEIGHTS).read_bytes()[:size])


def swap_dimensions(model):
    def edit(header):
        header[K_PROJ]["shape"].reverse()

    model.edit_header(edit)


def claim_a_terabyte(model):
    def edit(header):
        last = max((entry for name, entry in header.items() if name != "__metadata__"),
                   key=lambda entry: entry["data_offsets"])
        last["shape"] = [2**39]
        last["data_offsets"][1] = last["data_offsets"][0] + 2**40

    model.edit_header(edit)


def more_weights_than_memory(model):
    model.set_config(num_hidden_layers=256, num_experts=1024, moe_intermediate_size=65536)
    return ["--load-format", "dummy"]


def overlap(model):
    def edit(header):
        begin, end = header[K_NORM]["data_offsets"]
        size = end - begin
        header[K_NORM]["data_offsets"] = [begin - size, end - size] if begin >= size else [begin + size, end + size]

    model.edit_header(edit)


def rename_tensor(model):
    def edit(header):
        header["model.layers.0.self_attn.q_prod.weight"] = header.pop(Q_PROJ)

    model.edit_header(edit)


def repeat_tensor(model):
    text, _ = model.weights()
    entry = json.dumps(json.loads(text)[K_NORM])
    model.set_header("{" + f'"{K_NORM}": {entry}, ' + text.lstrip()[1:])


def shards(weight_map):
    def make(model):
        model.remove(WEIGHTS)
        model.write(INDEX, json.dumps({"weight_map": weight_map}))

    return make


def shard_without_its_tensor(model):
    shutil.copy(DEMO_MODEL / WEIGHTS, model.path / "model-00001-of-00001.safetensors")
    names = [name for name in json.loads(model.weights()[0]) if name != "__metadata__"]
    shards({name: "model-00001-of-00001.safetensors" for name in names + ["lm_head.weight"]})(model)


def tokenizer(edit):
    return lambda model: model.edit_json("tokenizer.json", edit)


def weights_in_a_pipe(model):
    model.remove(WEIGHTS)
    os.mkfifo(model.path / WEIGHTS)


START_ROWS = [
    # Weights: the file as bytes, its header, the layout of its data.
    StartRow("weights: file of 4 bytes", cut_weights(4), f"{WEIGHTS}: the file has 4 bytes"),
    StartRow("weights: header cut off", cut_weights(100), "bytes follow it (is the file truncated?)"),
    StartRow("weights: data cut off", cut_weights(-1000), "(is it truncated?)"),
    StartRow("weights: header length of 2^63", file(WEIGHTS, struct.pack("<Q", 2**63) + b"{}"),
             "the header length is 9223372036854775808"),
    StartRow("weights: header is no JSON", lambda model: model.set_header("{" + "x" * 63), f"{WEIGHTS}: "),
    StartRow("weights: header nested 100,000 deep", lambda model: model.set_header('{"a":' + "[" * 100_000),
             f"{WEIGHTS}: "),
    StartRow("weights: a tensor of unknown type", tensor(K_NORM, dtype="Q7"), "dtype"),
    StartRow("weights: shape and offsets disagree", tensor(K_NORM, shape=[33]), "shape [33] of BF16 needs 66"),
    StartRow("weights: shape that overflows", tensor(K_NORM, shape=[2**40, 2**40]), "has no whole number of bytes"),
    StartRow("weights: negative dimension", tensor(K_NORM, shape=[-32]), "shape"),
    StartRow("weights: offsets end before they begin", tensor(K_NORM, data_offsets=[64, 0]),
             "the end must not come before the begin"),
    StartRow("weights: a tensor of a terabyte", claim_a_terabyte, "(is it truncated?)"),
    StartRow("weights: overlapping offsets", overlap, "tensors must not overlap"),
    StartRow("weights: the same tensor twice", repeat_tensor, K_NORM),
    StartRow("weights: not of the configuration's shape", swap_dimensions, "has the shape [192, 64]; the configuration asks for [64, 192]"),
    StartRow("weights: type that is no float", tensor(Q_PROJ, dtype="I16"), "weights must be F32, F16 or BF16"),
    StartRow("weights: a tensor is missing", rename_tensor, f'there is no tensor "{Q_PROJ}"'),
    StartRow("weights: no file at all", lambda model: model.remove(WEIGHTS), f"there is neither {WEIGHTS} nor {INDEX}"),
    StartRow("weights: a pipe instead of a file", weights_in_a_pipe, WEIGHTS),
    StartRow("shards: one is missing", shards({"a": "model-00001-of-00002.safetensors"}),
             'names the shard "model-00001-of-00002.safetensors", which is not there'),
    StartRow("shards: index reaches outside of its folder", shards({"a": "../../passwd"}),
             "it must be the name of a file beside the index"),
    StartRow("shards: index without weight_map", lambda model: (model.remove(WEIGHTS), model.write(INDEX, "{}")),
             "weight_map is missing"),
    StartRow("shards: index promises a tensor that no shard has", shard_without_its_tensor, '"lm_head.weight"'),
    # config.json
    StartRow("model folder is not there", lambda model: ["--model", model.path / "nothing"], "there is no such folder"),
    StartRow("model is a file", lambda model: ["--model", model.path / WEIGHTS], "is not a folder"),
    StartRow("config.json is missing", lambda model: model.remove("config.json"), "there is no config.json"),
    StartRow("config.json is cut off", file("config.json", '{"architectures": ["Mix'), "config.json: not JSON: "),
    StartRow("config.json is a list", file("config.json", "[]"), "config.json: holds array; it must be a JSON object"),
    StartRow("config.json nested 100,000 deep", file("config.json", '{"a":' * 100_000), "config.json: nested"),
    StartRow("unknown family", config(architectures=["Qwen3MoeForCasualLM"]),
             'architecture "Qwen3MoeForCasualLM" is not known; the nearest that is: "Qwen3MoeForCausalLM"'),
    StartRow("config.json: text for a number", config(hidden_size="192"), 'hidden_size is "192"; it must be an integer'),
    StartRow("config.json: a field is missing", lambda model: model.edit_json("config.json", lambda c: c.pop("vocab_size")),
             "vocab_size is missing"),
    StartRow("config.json: a billion layers", config(num_hidden_layers=10**9), "num_hidden_layers is 1000000000"),
    StartRow("config.json: vocabulary of 10^18", config(vocab_size=10**18), "vocab_size is 1000000000000000000"),
    StartRow("config.json: 20 TB of weights", more_weights_than_memory, "the weights take "),
    StartRow("config.json: heads that do not divide", config(num_key_value_heads=4),
             "num_attention_heads is 6; it must be a multiple of num_key_value_heads (4)"),
    StartRow("config.json: more experts a token than there are", config(num_experts_per_tok=9),
             "num_experts_per_tok is 9; it must be at most the number of experts (8)"),
    StartRow("config.json: unknown RoPE scaling", config(rope_scaling={"rope_type": "spiral", "factor": 2}),
             'RoPE scaling "spiral" is not supported'),
    StartRow("config.json: eos_token_id outside of the vocabulary",
             lambda model: model.edit_json("generation_config.json", lambda c: c.update(eos_token_id=4096)),
             "eos_token_id 4096 is outside the vocabulary of 4096"),
    # Tokenizer
    StartRow("tokenizer.json is missing", lambda model: model.remove("tokenizer.json"),
             "has no tokenizer.json, tokenizer.model or tiktoken.model"),
    StartRow("tokenizer.json is cut off", file("tokenizer.json", '{"model": {"type"'), "tokenizer.json: "),
    StartRow("tokenizer.json: unknown model", tokenizer(lambda t: t["model"].update(type="Crystal")), "Crystal"),
    StartRow("tokenizer.json: merge of unknown tokens", tokenizer(lambda t: t["model"]["merges"].insert(0, "qqq zzz")),
             "not all three are in the vocabulary"),
    StartRow("tokenizer.json: negative id", tokenizer(lambda t: t["model"]["vocab"].update(qqqq=-1)), "-1"),
    StartRow("tokenizer.json: id of 2^31 - 1", tokenizer(lambda t: t["model"]["vocab"].update(qqqq=2**31 - 1)),
             "2147483647"),
    # Configuration and flags
    StartRow("YAML: file is missing", flags("--config", "/no/such/moed.yaml"), "/no/such/moed.yaml: there is no such file"),
    StartRow("YAML: unknown key", yaml("max_num_seq: 8\n"), 'unknown key "max_num_seq"; did you mean "max_num_seqs"?'),
    StartRow("YAML: text for a number", yaml("port: fifty\n"), 'moed.yaml:1: port: "fifty" is not a number'),
    StartRow("YAML: list for a number", yaml("host: 127.0.0.1\nport: [1, 2]\n"), "moed.yaml:2: port must be a single value"),
    StartRow("YAML: a key twice", yaml("port: 1\nport: 2\n"), "moed.yaml:2: port is given twice"),
    StartRow("YAML: a list", yaml("- port\n"), "the file must map keys to values"),
    StartRow("YAML: malformed", yaml("port: {1\n"), "moed.yaml:"),
    StartRow("YAML: nested 100,000 deep", yaml("port: " + "[" * 100_000), "moed.yaml"),
    StartRow("YAML: binary file", yaml(bytes(range(256)) * 64), "moed.yaml"),
    StartRow("flag: unknown", flags("--prot", "1"), "--prot"),
    StartRow("flag: unknown dtype", flags("--dtype", "fp12"), '--dtype: "fp12" is not a dtype; known are'),
    StartRow("flag: port 65536", flags("--port", "65536"), "port is 65536; it must be in [0, 65535]"),
    StartRow("flag: port in use", port_in_use, "Address already in use"),
    StartRow("flag: address of another machine", flags("--host", "203.0.113.7"), "cannot listen on 203.0.113.7"),
    StartRow("flag: no sequences", flags("--max-num-seqs", "0"), "max_num_seqs is 0; it must be"),
    StartRow("flag: context longer than the model's", flags("--max-model-len", "4096"),
             "max_model_len is 4096; the model was made for at most 2048"),
    StartRow("flag: KV cache of one byte", flags("--kv-cache-memory", "1"), "kv_cache_memory is 1 B; one block"),
    StartRow("flag: KV cache of a pebibyte", flags("--kv-cache-memory", "1048576GiB"),
             "of memory are available beside the weights"),
    StartRow("flag: duration without a unit", flags("--drain-timeout", "30"), '--drain-timeout: "30" is not a duration'),
    StartRow("flag: unknown policy", flags("--scheduling-policy", "luck"), 'scheduling_policy is "luck"'),
]


@contextlib.contextmanager
def broken(row, folder):
    """The flags for `moed serve` in a row; later ones win over the model and the port that all rows begin with."""
    model = ModelFolder(pathlib.Path(folder, "model"))
    made = row.make(model)
    with made if hasattr(made, "__enter__") else contextlib.nullcontext(made) as extra:
        extra = [str(flag) for flag in extra or [] if flag is not None]
        defaults = {"--model": str(model.path), "--port": "0"}
        yield sum(([flag, value] for flag, value in defaults.items() if flag not in extra), []) + extra
