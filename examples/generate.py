#!/usr/bin/env python3
"""The first request: streams the continuation of a prompt from a running server.

    python3 examples/generate.py --server 127.0.0.1:50051 "Once upon a time"
"""

import argparse
import sys

import grpc

from moed_api import inference_pb2, inference_pb2_grpc, sampling_pb2


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt")
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--max-tokens", type=int, default=100)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    with grpc.insecure_channel(options.server) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        request = inference_pb2.GenerateRequest(
            text=options.prompt,
            sampling=sampling_pb2.SamplingParams(
                max_tokens=options.max_tokens, temperature=options.temperature, seed=options.seed))
        try:
            for response in stub.GenerateStream(request, timeout=60):
                sys.stdout.write(response.text_delta)
                sys.stdout.flush()
        except grpc.RpcError as error:
            sys.exit(f"\n{error.code().name}: {error.details()}")
    print()


if __name__ == "__main__":
    main()
