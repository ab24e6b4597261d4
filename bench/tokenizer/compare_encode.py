#!/usr/bin/env python3
"""Times moed's encoding beside Hugging Face's Rust package, on one core.

    pip install tokenizers==0.23.* sentencepiece
    bench/tokenizer/compare_encode.py --bench build/release/bench/tokenizer/encode_bench --data $MOED_TEST_DATA

English, Chinese and code from DATA, in documents of 4 kB. The two take turns; each time is that of the thread that
computes, so that others on the machine count little. Printed are the medians in MB/s and their ratio: above 1, moed is
faster.
"""
import argparse
import gzip
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tests/tokenizer"))

import tokenizers  # noqa: E402
from compare_with_tokenizers import candidates  # noqa: E402

DOCUMENT_CHARACTERS = 4000


def corpora(data, size):
    """Documents by language, about `size` bytes of each."""
    with gzip.open(data / "prompts/HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        tasks = [json.loads(line) for line in file]
    texts = {
        "English": (data / "corpora/en_gutenberg/all.txt").read_text(encoding="utf-8"),
        "Chinese": "\n".join(path.read_text(encoding="utf-8", errors="replace")
                             for path in sorted((data / "corpora/zh_classical").glob("*.txt"))),
        "code": "\n".join(task["prompt"] + task["canonical_solution"] + task["test"] for task in tasks),
    }
    for name, text in texts.items():
        characters = size if len(text.encode()) < 2 * len(text) else size // 3
        text = text[:characters]
        yield name, [text[i:i + DOCUMENT_CHARACTERS] for i in range(0, len(text), DOCUMENT_CHARACTERS)]


class Moed:
    def __init__(self, program, folder, path):
        self.process = subprocess.Popen([program, folder, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)

    def run(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        seconds, tokens = self.process.stdout.readline().split()
        return float(seconds), int(tokens)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def run_peer(peer, documents):
    start = time.thread_time()
    encodings = peer.encode_batch_fast(documents, add_special_tokens=False)
    seconds = time.thread_time() - start
    return seconds, sum(len(encoding) for encoding in encodings)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", required=True, help="the program encode_bench")
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--megabytes", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="tokenizers whose name contains this")
    arguments = parser.parse_args()
    print(f"tokenizers {tokenizers.__version__}, {arguments.rounds} rounds after one that is not counted")
    print(f"{'tokenizer':28} {'text':8} {'moed':>10} {'peer':>10}  ratio")
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        for name, folder, peer in candidates(arguments.data, scratch):
            if arguments.only not in name:
                continue
            for language, documents in corpora(arguments.data, int(arguments.megabytes * 1e6)):
                path = scratch / "documents"
                path.write_text("".join(json.dumps(document) + "\n" for document in documents))
                moed = Moed(arguments.bench, folder, path)
                times = []
                for _ in range(arguments.rounds + 1):
                    (ours, tokens), (theirs, tokens_of_peer) = moed.run(), run_peer(peer, documents)
                    assert tokens == tokens_of_peer, f"{tokens} tokens, the peer has {tokens_of_peer}"
                    times.append((ours, theirs))
                moed.close()
                megabytes = sum(len(document.encode()) for document in documents) / 1e6
                ours, theirs = (statistics.median(column) for column in zip(*times[1:]))
                print(f"{name:28} {language:8} {megabytes / ours:5.1f} MB/s {megabytes / theirs:5.1f} MB/s "
                      f"{theirs / ours:6.2f}", flush=True)


if __name__ == "__main__":
    main()
