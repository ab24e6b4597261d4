"""A real `moed serve` process for tests, and the other subcommands of the program."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]
MOED = pathlib.Path(os.environ.get("MOED_BINARY", ROOT / "build/release/moed")).resolve()
DEMO_MODEL = ROOT / "models/demo"

sys.path.insert(0, str(ROOT / "examples"))
from moed_api import chat_pb2, inference_pb2, inference_pb2_grpc, sampling_pb2  # noqa: E402, F401

# The machine may be busy with other tests, and sanitizers are slow (cmake/MoedToolchain.cmake); what hangs is still
# noticed.
CALL_TIMEOUT_S = 60 * int(os.environ.get("MOED_TEST_SLOWDOWN", "1"))
START_TIMEOUT_S = STOP_TIMEOUT_S = CALL_TIMEOUT_S


def run_moed(*arguments, stdin=None, timeout=CALL_TIMEOUT_S):
    """Runs a subcommand to its end, from the source tree's root."""
    return subprocess.run([MOED, *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=timeout,
                          cwd=ROOT)


class Server:
    """A server on a free port of the loopback interface; to be used in a `with` statement.

    At the end it is stopped by SIGTERM, and anything but exit code 0 is an error.
    """

    def __init__(self, *flags, model=DEMO_MODEL):
        self._command = [MOED, "serve", *map(str, flags)]
        if "--config" not in flags:
            self._command += ["--model", str(model), "--served-model-name", "demo", "--port", "0"]
        self._log = []
        self._listening = threading.Event()
        self.address = None

    def __enter__(self):
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True, errors="replace", cwd=ROOT)
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self._listening.wait(START_TIMEOUT_S)
        if self.address is None:
            self._process.kill()
            self._process.wait()
            raise RuntimeError("the server did not start:\n" + self.log)
        self.channel = self.connect()
        # The first attempt may fail for no fault of the server's: see tests/support/connect.h.
        grpc.channel_ready_future(self.channel).result(START_TIMEOUT_S)
        self.stub = inference_pb2_grpc.InferenceServiceStub(self.channel)
        return self

    def __exit__(self, exception_type, exception, traceback):
        self.channel.close()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        code = self.wait()
        if exception_type is None and code != 0:
            raise RuntimeError(f"the server ended with code {code}:\n{self.log}")

    def _read_log(self):
        for line in self._process.stderr:
            self._log.append(line)
            ready = re.search(r"listening on (\S+:\d+)", line)
            if ready:
                self.address = ready[1]
                self._listening.set()
        self._listening.set()  # the process ended

    @property
    def log(self):
        return "".join(self._log)

    def connect(self):
        """A connection of its own: channels that are made alike would share one."""
        return grpc.insecure_channel(self.address, options=[
            ("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 1000)])

    def send_signal(self, number):
        self._process.send_signal(number)

    def wait(self):
        """The exit code, once the process has ended by itself or by a signal that was sent."""
        try:
            code = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise RuntimeError("the server did not stop:\n" + self.log) from None
        self._reader.join()
        self._process.stderr.close()
        return code

    def open_descriptors(self):
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))

    def wait_until(self, condition, what):
        """Waits for what happens soon, but not before some call returns."""
        limit = time.monotonic() + STOP_TIMEOUT_S
        while not condition():
            if time.monotonic() > limit:
                raise AssertionError(f"waited in vain: {what}\n{self.log}")
            time.sleep(0.02)


def generate_request(text="Once upon a time", **sampling):
    """A greedy request, unless `sampling` says otherwise."""
    sampling.setdefault("temperature", 0.0)
    return inference_pb2.GenerateRequest(text=text, sampling=sampling_pb2.SamplingParams(**sampling))


def chat_request(*contents, **sampling):
    """A conversation whose messages are the user's and the assistant's in turn."""
    messages = [chat_pb2.ChatMessage(role=("user", "assistant")[i % 2], content=content)
                for i, content in enumerate(contents)]
    sampling.setdefault("temperature", 0.0)
    return inference_pb2.ChatRequest(conversation=chat_pb2.Conversation(messages=messages),
                                     sampling=sampling_pb2.SamplingParams(**sampling))
