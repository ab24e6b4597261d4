"""Measures the released folder on held-out works: bits per byte, expert loads, agreement, samples."""

import json
import lzma
import math
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from .agreement import agreement
from .config import END_OF_TEXT
from .corpus import LANGUAGES
from .ngram import KneserNey, byte_symbols, character_symbols, token_symbols
from .release import load_released, write_json


def strided_windows(stream: np.ndarray, end_id: int, context: int):
    """Yields (ids, first): tokens ids[first:] are scored with at least half a context before them.

    <|endoftext|> stands before the first token, so that every token of the stream is scored once.
    """
    stream = np.concatenate([[end_id], stream.astype(np.int64)])
    overlap = context // 2
    scored = 1
    while scored < len(stream):
        begin = max(0, scored - overlap) if scored > 1 else 0
        end = min(len(stream), begin + context + 1)
        yield stream[begin:end], scored - begin
        scored = end


@torch.no_grad()
def score(model, stream, end_id: int, context: int):
    """Bits of the stream under the model, and the expert loads [layers, experts] over all windows."""
    nats, loads = 0.0, 0
    for ids, first in strided_windows(stream, end_id, context):
        ids = torch.from_numpy(ids)
        hidden, _, _, load = model.hidden_states(ids[None, :-1])
        logits = hidden[0, first - 1 :] @ model.embed_tokens.weight.T
        nats += torch.nn.functional.cross_entropy(logits, ids[first:], reduction="sum").item()
        loads = loads + load
    return nats / math.log(2), loads


def baselines(data_dir: Path, language: str, split: str, vocabulary: int):
    """Bits per byte of xz and of 5-grams over three kinds of symbols, all trained on the training text."""
    texts = [(data_dir / f"{language}.{part}.txt").read_text(encoding="utf-8") for part in ("train", split)]
    streams = [np.load(data_dir / f"{language}.{part}.npy") for part in ("train", split)]
    held_out = texts[1].encode("utf-8")
    compressed = lzma.compress(held_out, preset=9 | lzma.PRESET_EXTREME)
    figures = {"xz -9e": 8 * len(compressed) / len(held_out)}
    kinds = {
        "token 5-gram": token_symbols(*streams, vocabulary),
        "character 5-gram": character_symbols(*texts),
        "byte 5-gram": byte_symbols(*texts),
    }
    for kind, (train, test, symbols) in kinds.items():
        figures[kind] = KneserNey(train, symbols).bits(test) / len(held_out)
    return figures


def cached_baselines(data_dir: Path, language: str, split: str, vocabulary: int):
    """They depend on the data alone, and take minutes."""
    path = data_dir / f"{language}.{split}.baselines.json"
    if not path.exists():
        write_json(path, baselines(data_dir, language, split, vocabulary))
    return json.loads(path.read_text())


def evaluate(model_dir: Path, data_dir: Path, context: int, split: str, with_baselines: bool):
    model = load_released(model_dir)
    end_id = Tokenizer.from_file(str(model_dir / "tokenizer.json")).token_to_id(END_OF_TEXT)
    result = {"split": split, "context": context, "languages": {}}
    for language in LANGUAGES:
        stream = np.load(data_dir / f"{language}.{split}.npy")
        size = (data_dir / f"{language}.{split}.txt").stat().st_size
        bits, loads = score(model, stream, end_id, context)
        shares = (loads / loads.sum(dim=1, keepdim=True)).tolist()
        result["languages"][language] = {
            "bytes": size, "tokens": len(stream), "bits_per_byte": bits / size,
            "nats_per_token": bits * math.log(2) / len(stream),
            "expert_share_by_layer": [[round(share, 4) for share in layer] for layer in shares],
        }
        if with_baselines:
            result["languages"][language]["baselines"] = cached_baselines(data_dir, language, split, model.shape.vocab_size)
    return result


def write_evaluation(model_dir: Path, data_dir: Path, context: int, moed: Path | None) -> None:
    result = evaluate(model_dir, data_dir, context, "test", with_baselines=True)
    result["logits_against_transformers"] = agreement(model_dir, data_dir, moed)
    write_json(model_dir / "evaluation.json", result)
    print(json.dumps(result, ensure_ascii=False, indent=1))


def prompts(data_dir: Path, language: str, count: int):
    """Openings at equal distances through the held-out text, so that nobody chooses them.

    English: the first twelve words of a paragraph of at least thirty. Chinese: a poem's heading and
    first line.
    """
    text = (data_dir / f"{language}.test.txt").read_text(encoding="utf-8")
    if language == "en":
        openings = [" ".join(p.split()[:12]) for p in text.split("\n") if len(p.split()) >= 30]
    else:
        poems = [poem.strip("\n").split("\n") for poem in text.split("\n\n")]
        openings = ["\n".join(lines[:2]) + "\n" for lines in poems if len(lines) >= 4]
    return [openings[(2 * i + 1) * len(openings) // (2 * count)] for i in range(count)]


def samples(model_dir: Path, data_dir: Path, count: int, max_new_tokens: int):
    """`count` continuations of each language, greedy and sampled, by transformers' own generate()."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    ways = {"greedy": {"do_sample": False, "temperature": None, "top_p": None},
            "sampled": {"do_sample": True, "temperature": 0.8, "top_p": 0.95}}
    result = {}
    for language in LANGUAGES:
        result[language] = []
        for i, prompt in enumerate(prompts(data_dir, language, count)):
            ids = tokenizer(prompt, return_tensors="pt").input_ids
            row = {"prompt": prompt}
            for way, settings in ways.items():
                torch.manual_seed(i)
                out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens, **settings)
                row[way] = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
            result[language].append(row)
    return result
