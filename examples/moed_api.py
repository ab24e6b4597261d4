"""The Python stubs of moed's API, made from proto/ when this module is imported.

An application would make them once, at its build:
    python -m grpc_tools.protoc -I proto --python_out=. --grpc_python_out=. \
        moed/v1/sampling.proto moed/v1/chat.proto moed/v1/inference.proto
Here either that (package grpcio-tools) or Debian's protoc (package protobuf-compiler-grpc) will do.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

PROTO_DIR = pathlib.Path(__file__).resolve().parent.parent / "proto"
PROTOS = ["moed/v1/sampling.proto", "moed/v1/chat.proto", "moed/v1/inference.proto"]


def _generate(out_dir):
    arguments = [f"-I{PROTO_DIR}", f"--python_out={out_dir}"]
    plugin = shutil.which("grpc_python_plugin")
    if shutil.which("protoc") and plugin:
        command = ["protoc", f"--plugin=protoc-gen-grpc={plugin}", f"--grpc_out={out_dir}"]
    else:
        command = [sys.executable, "-m", "grpc_tools.protoc", f"--grpc_python_out={out_dir}"]
    subprocess.run(command + arguments + PROTOS, check=True)


with tempfile.TemporaryDirectory(prefix="moed-stubs-") as _stubs:
    _generate(_stubs)
    sys.path.insert(0, _stubs)
    try:
        from moed.v1 import chat_pb2, inference_pb2, inference_pb2_grpc, sampling_pb2  # noqa: F401
    finally:
        sys.path.remove(_stubs)
