#!/usr/bin/env python3
"""Compares moed's tokenizers with Hugging Face's Rust package over many lines of mixed text, both ways.

    pip install tokenizers==0.23.* sentencepiece
    tests/tokenizer/compare_with_tokenizers.py --moed build/release/moed --data $MOED_TEST_DATA [--lines 100000]

For each tokenizer in DATA/tokenizers, the lines of mixed_text.py are encoded by both, then the ids decoded by both, and
then ids at random. A folder that has only SentencePiece's tokenizer.model is compared twice: as it is, and as the
tokenizer.json into which the model is converted for the peer. Prints the first differences; ends with 1 if there are
any.
"""
import argparse
import json
import lzma
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import tokenizers
from mixed_text import MixedText


def convert_sentencepiece(path):
    """The tokenizer.json of a SentencePiece model of Llama's kind (BPE with byte fallback)."""
    import sentencepiece
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    pieces = [model.id_to_piece(i) for i in range(len(model))]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    # Every way to make a piece of two others; the most probable piece is merged first, and made in the way that the
    # converter of transformers puts first, of the longest left part.
    merges = []
    for i, piece in enumerate(pieces):
        if model.is_control(i) or model.is_unknown(i) or model.is_byte(i):
            continue
        cuts = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        pairs = [(left, right) for left, right in cuts if left in vocab and right in vocab]
        merges += [(-model.get_score(i), -len(left), -len(right), left, right) for left, right in pairs]
    merges.sort(key=lambda merge: merge[:3])
    special = [i for i in range(len(model)) if model.is_control(i) or model.is_unknown(i)]
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": pieces[i], "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for i in special],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "vocab": vocab,
                  "merges": [f"{left} {right}" for *_, left, right in merges]},
    }


def candidates(data, scratch):
    """(name, folder for moed, the peer's tokenizer) of each tokenizer in `data`."""
    for folder in sorted((data / "tokenizers").iterdir()):
        unpacked = scratch / folder.name
        if (folder / "tokenizer.json.xz").exists():
            unpacked.mkdir()
            (unpacked / "tokenizer.json").write_bytes(lzma.open(folder / "tokenizer.json.xz").read())
            yield folder.name, unpacked, tokenizers.Tokenizer.from_file(str(unpacked / "tokenizer.json"))
        elif (folder / "tokenizer.model").exists():
            unpacked.mkdir()
            (unpacked / "tokenizer.json").write_text(json.dumps(convert_sentencepiece(folder / "tokenizer.model")))
            peer = tokenizers.Tokenizer.from_file(str(unpacked / "tokenizer.json"))
            yield f"{folder.name} (tokenizer.model)", folder, peer
            yield f"{folder.name} (tokenizer.json)", unpacked, peer


def run_moed(moed, folder, objects, *flags):
    """What `moed tokenize` answers to each object."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as lines:
        for value in objects:
            lines.write(json.dumps(value, ensure_ascii=False) + "\n")
        lines.seek(0)
        done = subprocess.run([moed, "tokenize", "--model", folder, *flags], stdin=lines, stdout=subprocess.PIPE,
                              check=True)
    answers = [json.loads(line) for line in done.stdout.decode().split("\n")[:-1]]
    assert len(answers) == len(objects), f"{len(objects)} lines went in, {len(answers)} came out"
    return answers


def differences(what, inputs, ours, theirs):
    wrong = [i for i in range(len(inputs)) if ours[i] != theirs[i]]
    for i in wrong[:5]:
        mine, peers = ours[i], theirs[i]
        at = next((k for k, (a, b) in enumerate(zip(mine, peers)) if a != b), min(len(mine), len(peers)))
        around = slice(max(0, at - 3), at + 8)
        print(f"    {what} line {i}, from {at}: moed {mine[around]!r}, peer {peers[around]!r}, "
              f"of {str(inputs[i])[:200]!r}")
    return len(wrong)


def is_whole_text(peer, ids, byte_ids):
    """Whether every run of byte tokens is UTF-8, and none is a space. Of a run that is not, the peer drops the valid
    characters too; and a space at the beginning, which SentencePiece keeps if it is written as a byte, the converted
    model's decoder strips."""
    if any(byte_ids.get(token) == 0x20 for token in ids):
        return False
    run = bytearray()
    for token in [*ids, None]:
        if token in byte_ids:
            run.append(byte_ids[token])
            continue
        try:
            run.decode()
        except UnicodeDecodeError:
            return False
        run.clear()
    return True


def compare(name, folder, peer, texts, arguments):
    start = time.monotonic()
    ours = [answer["ids"] for answer in run_moed(arguments.moed, folder, [{"text": text} for text in texts])]
    theirs = [encoding.ids for encoding in peer.encode_batch_fast(texts, add_special_tokens=False)]
    wrong = {"encode": differences("encode", texts, ours, theirs)}
    drawn = random.Random(arguments.seed)
    vocab_size = peer.get_vocab_size()
    byte_ids = {peer.token_to_id(f"<0x{byte:02X}>"): byte for byte in range(256)}
    at_random = [[drawn.randrange(vocab_size if drawn.random() < 0.5 else 300) for _ in range(drawn.randrange(30))]
                 for _ in range(len(texts) // 5)]
    at_random = [ids for ids in at_random if is_whole_text(peer, ids, byte_ids)]
    for what, lists in (("decode", theirs), ("decode random ids", at_random)):
        for skip in (False, True):
            flags = ["--decode"] + (["--skip-special-tokens"] if skip else [])
            ours = [answer["text"] for answer in
                    run_moed(arguments.moed, folder, [{"ids": ids} for ids in lists], *flags)]
            texts_of_peer = peer.decode_batch(lists, skip_special_tokens=skip)
            label = f"{what}{' without special tokens' if skip else ''}"
            wrong[label] = differences(label, lists, ours, texts_of_peer)
    size = sum(len(text.encode()) for text in texts)
    tokens = sum(map(len, theirs))
    print(f"{name}: {len(texts)} lines, {size / 1e6:.1f} MB, {tokens} tokens, {len(at_random)} lists of random ids, "
          f"{time.monotonic() - start:.0f} s; different: {wrong}", flush=True)
    return sum(wrong.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moed", required=True, help="the program")
    parser.add_argument("--data", required=True, type=pathlib.Path, help="the folder with tokenizers/ and corpora/")
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="tokenizers whose name contains this")
    arguments = parser.parse_args()
    print(f"tokenizers {tokenizers.__version__}, seed {arguments.seed}")
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        for name, folder, peer in candidates(arguments.data, pathlib.Path(scratch)):
            if arguments.only not in name:
                continue
            literals = [token.content for token in peer.get_added_tokens_decoder().values()]
            texts = list(MixedText(arguments.seed, arguments.data, literals).lines(arguments.lines))
            wrong += compare(name, folder, peer, texts, arguments)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
