#!/usr/bin/env python3
"""moed beside a llama.cpp (or a fork of it) on the same machine: prefill and decode of batches, in alternation.

    python3 bench/peers/compare_llama.py --moed build/release/moed --model configs/shapes/small-0.7b --quantization int8 \
        --peer PATH/llama-batched-bench --peer-model small_q8_0.gguf --peer-flags=-rtr --batch 1,8,32 --rounds 5

Each round runs moed, then the peer; medians, and the median of the rounds' ratios, are printed. The models have random
weights of one shape. As published, llama-batched-bench gives every sequence the token 0, so that all of them choose the
same experts and a mixture of experts looks like a dense model: have it draw its tokens at random, and fill one sequence
after the other, before comparing (the two calls of common_batch_add in batched-bench.cpp).
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile


def run_moed(args):
    """{(phase, batch): tokens/s} and moed's own fractions of the machine's ceilings, under (phase, batch, name)."""
    command = [args.moed, "bench", "batch", "--model", args.model, "--load-format", args.load_format, "--quantization",
               args.quantization, "--threads", str(args.threads), "--rounds", "1", "--json", "--prompt",
               str(args.prompt), "--generate", str(args.generate), "--batch", args.batch]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    figures = {}
    for row in report["batches"]:
        for phase in ("prefill", "decode"):
            key = (phase, row["batch"])
            figures[key] = row[phase]["tokens_per_s"]
            figures[key + ("of read",)] = row[phase]["of_read_bandwidth"]
            figures[key + ("of peak",)] = row[phase]["of_peak_operations"]
    return figures


def run_peer(args):
    batches = [int(batch) for batch in args.batch.split(",")]
    context = max(batches) * (args.prompt + args.generate) + 256
    command = [os.path.abspath(args.peer), "-m", os.path.abspath(args.peer_model), "-t", str(args.threads),
               "-c", str(context), "-b", "2048", "-ub", "512", "-npp", str(args.prompt), "-ntg", str(args.generate),
               "-npl", args.batch, *args.peer_flags.split()]
    with tempfile.TemporaryDirectory() as folder:  # the peer leaves a log where it runs
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    figures = {}
    for line in (done.stdout + done.stderr).splitlines():
        # | PP | TG | B | N_KV | T_PP s | S_PP t/s | T_TG s | S_TG t/s | T s | S t/s |
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 8 and cells[1].isdigit():
            figures["prefill", int(cells[3])] = float(cells[6])
            figures["decode", int(cells[3])] = float(cells[8])
    if not figures:
        raise SystemExit(f"no table in what {args.peer} printed:\n{done.stdout}{done.stderr}")
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moed", default="build/release/moed")
    parser.add_argument("--model", required=True, help="folder of the model, or of its shape")
    parser.add_argument("--load-format", default="dummy")
    parser.add_argument("--quantization", default="int8")
    parser.add_argument("--peer", required=True, help="llama-batched-bench")
    parser.add_argument("--peer-model", required=True, help="GGUF of the same shape")
    parser.add_argument("--peer-flags", default="", help="further flags of the peer, such as -rtr of ik_llama.cpp")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--batch", default="1,8,16,32")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    ours, theirs = [], []
    for _ in range(args.rounds):
        ours.append(run_moed(args))
        theirs.append(run_peer(args))
    print(f"medians of {args.rounds} rounds, tokens/s; prompts of {args.prompt}, {args.generate} generated")
    print(f"{'':<8} {'batch':>5} {'moed':>9} {'peer':>9} {'ratio':>6} {'of read':>8} {'of peak':>8}")
    for phase, batch in sorted(theirs[0], key=lambda key: (key[0] == "decode", key[1])):
        key = (phase, batch)
        median = lambda name: statistics.median(figures[name] for figures in ours)
        peer = statistics.median(figures[key] for figures in theirs)
        ratio = statistics.median(mine[key] / other[key] for mine, other in zip(ours, theirs))
        print(f"{phase:<8} {batch:>5} {median(key):>9.1f} {peer:>9.1f} {ratio:>6.2f} {median(key + ('of read',)):>8.2f} "
              f"{median(key + ('of peak',)):>8.2f}")


if __name__ == "__main__":
    main()
