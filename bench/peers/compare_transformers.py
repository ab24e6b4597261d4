#!/usr/bin/env python3
"""moed beside Hugging Face transformers on the same GPU: prefill and greedy decode of batches in bf16.

    python3 bench/peers/compare_transformers.py --moed ./moed --model configs/shapes/olmoe-1b-7b --out olmoe.json

Both models have random weights of one shape and get random tokens. The peer is a model of transformers 5 with sdpa
attention and a DynamicCache, whose forward is called in a loop that never waits for the GPU. Its experts run as
grouped_mm in prefill, and in decode as each of --experts: transformers' own generate() takes batched_mm there. The best
of them is what moed is compared with; generate() as a whole is timed beside it. Each figure is the median of --rounds
after a warm-up. moed runs when the peer is done and has given back its memory; --moed-json takes its report from a file
instead, --moed "" leaves it out. Needs torch and transformers for the peer.
"""

import argparse
import gc
import json
import pathlib
import statistics
import subprocess
import sys
import time


# transformers' default. batched_mm copies the weights of every token's experts: far too many for a prompt.
PREFILL_EXPERTS = "grouped_mm"


def build_model(args):
    """A model of the shape in --model, its random weights made on the device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, initialization

    config = AutoConfig.from_pretrained(args.model)
    # transformers' own initialisation would take minutes for 30 billion weights.
    with torch.device(args.device), initialization.no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, args.dtype), attn_implementation="sdpa")
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.02)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)  # biases, weights of norms
    model.tie_weights()
    return model.eval()


class Peer:
    def __init__(self, args):
        import torch
        import transformers

        self.torch, self.transformers = torch, transformers
        self.args = args
        start = self.now()
        self.model = build_model(args)
        self.seconds_to_build = self.now() - start
        self.experts = self.usable_experts(args.experts.split(","))

    def now(self):
        """The time when all that was enqueued is done."""
        if self.args.device.startswith("cuda"):
            self.torch.cuda.synchronize()
        return time.perf_counter()

    def usable_experts(self, names):
        usable = []
        for name in names:
            try:
                self.model.set_experts_implementation(name)
                usable.append(name)
            except (ImportError, KeyError, ValueError) as error:
                print(f"experts as {name}: {error}", file=sys.stderr)
        if not usable:
            raise SystemExit("no implementation of experts is left")
        return usable

    def random_prompt(self, batch):
        vocab = self.model.config.vocab_size
        return self.torch.randint(0, vocab, (batch, self.args.prompt), device=self.args.device)

    def run(self, batch, experts):
        """Seconds of prefill and of decode."""
        prompt = self.random_prompt(batch)
        cache = self.transformers.DynamicCache(config=self.model.config)
        self.model.set_experts_implementation(PREFILL_EXPERTS)
        step = lambda tokens: self.model(
            input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1:].argmax(-1)
        start = self.now()
        tokens = step(prompt)
        middle = self.now()
        self.model.set_experts_implementation(experts)
        for _ in range(self.args.generate):
            tokens = step(tokens)
        return middle - start, self.now() - middle

    def run_generate(self, batch):
        """Seconds of generate()."""
        self.model.set_experts_implementation(PREFILL_EXPERTS)  # it takes another for decode by itself
        prompt = self.random_prompt(batch)
        start = self.now()
        count = self.args.generate
        self.model.generate(prompt, attention_mask=self.torch.ones_like(prompt), do_sample=False, min_new_tokens=count,
                            max_new_tokens=count, pad_token_id=0)
        return self.now() - start

    def measure(self, batch):
        args = self.args
        row = {"batch": batch, "decode_by_experts": {}}
        prefills = []
        for experts in self.experts:
            try:
                self.run(batch, experts)
                runs = [self.run(batch, experts) for _ in range(args.rounds)]
            except self.torch.OutOfMemoryError:
                print(f"experts as {experts}: no memory left at batch {batch}", file=sys.stderr)
                continue
            prefills += [prefill for prefill, _ in runs]
            seconds = statistics.median(decode for _, decode in runs)
            row["decode_by_experts"][experts] = {"tokens_per_s": batch * args.generate / seconds,
                                                 "ms_per_step": 1e3 * seconds / args.generate}
        if not prefills:
            raise SystemExit(f"batch {batch}: nothing could be measured")
        seconds = statistics.median(prefills)
        row["prefill"] = {"tokens_per_s": batch * args.prompt / seconds, "ms_per_step": 1e3 * seconds}
        best = max(row["decode_by_experts"], key=lambda name: row["decode_by_experts"][name]["tokens_per_s"])
        row["decode"] = {"experts": best, **row["decode_by_experts"][best]}
        if args.generate_calls > 0:
            self.run_generate(batch)
            seconds = statistics.median(self.run_generate(batch) for _ in range(args.generate_calls))
            row["generate_call_s"] = seconds
        return row

    def report(self):
        batches = [int(batch) for batch in self.args.batch.split(",")]
        with self.torch.inference_mode():
            rows = [self.measure(batch) for batch in batches]
        is_cuda = self.args.device.startswith("cuda")
        return {"torch": self.torch.__version__, "transformers": self.transformers.__version__,
                "device": self.torch.cuda.get_device_name() if is_cuda else self.args.device,
                "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
                "seconds_to_build": self.seconds_to_build, "attention": self.model.config._attn_implementation,
                "experts": self.experts, "batches": rows}


def run_peer(args):
    peer = Peer(args)
    report = peer.report()
    torch = peer.torch
    del peer
    gc.collect()
    if args.device.startswith("cuda"):
        torch.cuda.empty_cache()
    return report


def run_moed(args):
    if args.moed_json:
        return json.loads(pathlib.Path(args.moed_json).read_text())
    if not args.moed:
        return None
    device = args.device.split(":")[0]
    tokens = args.prompt * max(int(batch) for batch in args.batch.split(","))  # in one step, as the peer has them
    command = [args.moed, "bench", "batch", "--device", device, "--model", args.model, "--load-format", "dummy",
               "--dtype", args.moed_dtype, "--prompt", str(args.prompt), "--generate", str(args.generate), "--batch",
               args.batch, "--rounds", str(args.rounds), "--max-num-batched-tokens", str(tokens), "--json",
               *args.moed_flags.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        print(f"{' '.join(command)}:\n{done.stderr}", file=sys.stderr)
        return None
    return json.loads(done.stdout)


def print_table(ours, theirs):
    print(f"{theirs['device']}, torch {theirs['torch']}, transformers {theirs['transformers']}; tokens/s")
    print(f"{'':<8} {'batch':>5} {'moed':>10} {'peer':>10} {'ratio':>6}  {'the peer, by its experts'}")
    mine = {row["batch"]: row for row in ours["batches"]} if ours else {}
    for phase in ("prefill", "decode"):
        for row in theirs["batches"]:
            peer = row[phase]["tokens_per_s"]
            own = (mine.get(row["batch"], {}).get(phase) or {}).get("tokens_per_s")
            cells = f"{own:>10.1f} {peer:>10.1f} {own / peer:>6.2f}" if own else f"{'-':>10} {peer:>10.1f} {'-':>6}"
            note = ""
            if phase == "decode":
                note = ", ".join(f"{name} {figures['tokens_per_s']:.1f}"
                                 for name, figures in row["decode_by_experts"].items())
            print(f"{phase:<8} {row['batch']:>5} {cells}  {note}")
    for row in theirs["batches"]:
        if "generate_call_s" not in row:
            continue
        batch, seconds = row["batch"], row["generate_call_s"]
        own = mine.get(batch, {})
        text = f"generate() of {batch}: {seconds:.3f} s"
        if ours and own.get("prefill") and own.get("decode"):
            together = batch * (ours["prompt"] / own["prefill"]["tokens_per_s"] +
                                ours["generate"] / own["decode"]["tokens_per_s"])
            text += f", moed's prefill and decode {together:.3f} s, ratio {seconds / together:.2f}"
        print(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moed", default="build/release/moed", help="the program; empty for the peer alone")
    parser.add_argument("--moed-json", default="", help="what moed bench batch --json printed, instead of running it")
    parser.add_argument("--moed-dtype", default="bf16")
    parser.add_argument("--moed-flags", default="", help="further flags of moed bench batch")
    parser.add_argument("--model", required=True, help="folder with the shape's config.json")
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--dtype", default="bfloat16", help="of the peer's weights, in torch's words")
    parser.add_argument("--experts", default="batched_mm,grouped_mm",
                        help="how the peer's experts run in decode; eager is a loop over experts")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--batch", default="1,16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--generate-calls", type=int, default=1, help="timed calls of generate() a batch; 0 for none")
    parser.add_argument("--out", default="", help="file for both reports as JSON")
    args = parser.parse_args()

    theirs = run_peer(args)
    ours = run_moed(args)
    print_table(ours, theirs)
    if args.out:
        pathlib.Path(args.out).write_text(json.dumps({"moed": ours, "transformers": theirs}, indent=2) + "\n")


if __name__ == "__main__":
    main()
