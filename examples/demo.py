#!/usr/bin/env python3
"""`./run demo`: starts the server, streams an English and a Chinese continuation through gRPC, and stops it."""

import argparse
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import grpc

from moed_api import inference_pb2, inference_pb2_grpc, sampling_pb2

PROMPTS = [
    "Once upon a time there was a little girl who lived with her grandmother",
    "明月几时有？把酒问青天。",
]
MAX_TOKENS = 120


def start_server(options):
    """The server's process and its address, once it accepts requests."""
    server = subprocess.Popen(
        [options.moed, "serve", "--config", options.config], stderr=subprocess.PIPE, text=True)
    log = []
    for line in server.stderr:
        log.append(line)
        ready = re.search(r"listening on (\S+:\d+)", line)
        if ready:
            # Somebody must go on reading the log, or the server would block when the pipe is full.
            threading.Thread(target=lambda: [log.append(rest) for rest in server.stderr], daemon=True).start()
            return server, ready[1]
    sys.exit("the server did not start:\n" + "".join(log))


def stream(stub, prompt):
    """Prints the continuation as it comes, then how fast it came."""
    request = inference_pb2.GenerateRequest(
        text=prompt, sampling=sampling_pb2.SamplingParams(max_tokens=MAX_TOKENS, temperature=0.7, top_p=0.9, seed=7))
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "|")
    print(f"\n{bold}{prompt}{plain}", end="", flush=True)
    start = time.monotonic()
    first = None
    tokens = 0
    for response in stub.GenerateStream(request, timeout=120, wait_for_ready=True):
        first = first or time.monotonic()
        tokens += len(response.token_ids)
        print(response.text_delta, end="", flush=True)
    seconds = time.monotonic() - start
    rate = (tokens - 1) / (seconds - (first - start)) if tokens > 1 else 0.0
    print(f"\n[{tokens} tokens, {rate:.0f} tokens/s, first token after {1000 * (first - start):.1f} ms]")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moed", required=True, help="the program")
    parser.add_argument("--config", required=True)
    parser.add_argument("--keep", action="store_true", help="leave the server up until Ctrl-C")
    options = parser.parse_args()
    if not pathlib.Path(options.moed).exists():
        sys.exit(f"{options.moed} is not there; build it with ./run build")

    begin = time.monotonic()
    server, address = start_server(options)
    print(f"server up on {address} after {time.monotonic() - begin:.2f} s")
    try:
        with grpc.insecure_channel(address) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            for prompt in PROMPTS:
                stream(stub, prompt)
        if options.keep:
            print(f"\nthe server stays up on {address}; Ctrl-C stops it")
            try:
                server.wait()
            except KeyboardInterrupt:
                pass
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(timeout=60)
    print(f"\nserver stopped with exit code {code}")
    sys.exit(code)


if __name__ == "__main__":
    main()
