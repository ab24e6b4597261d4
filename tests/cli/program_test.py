#!/usr/bin/env python3
"""The program as its users meet it: each subcommand, its exit codes and messages, signals.

    python3 tests/cli/program_test.py build/release/moed

Runs from the project's folder; the model is models/demo.
"""

import contextlib
import json
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

MOED = sys.argv.pop(1) if len(sys.argv) > 1 else "build/release/moed"
MODEL = "models/demo"


def run(*arguments, stdin="", code=0):
    """Runs the program to its end, checks the exit code, and returns the process."""
    done = subprocess.run([MOED, *arguments], input=stdin, capture_output=True, text=True, timeout=120)
    if done.returncode != code:
        raise AssertionError(f"{arguments}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


@contextlib.contextmanager
def server(*arguments):
    """A server on a free port, ready; yields process and address, and checks that SIGTERM ends it well."""
    process = subprocess.Popen([MOED, "serve", "--model", MODEL, "--port", "0", *arguments], stderr=subprocess.PIPE,
                               text=True)
    log = []
    for line in process.stderr:
        log.append(line)
        ready = re.search(r"listening on (\S+:\d+)", line)
        if ready:
            break
    else:
        raise AssertionError("the server did not start:\n" + "".join(log))
    try:
        yield process, ready[1]
    finally:
        process.send_signal(signal.SIGTERM)
        log.append(process.communicate(timeout=60)[1])
    if process.returncode != 0:
        raise AssertionError(f"exit code {process.returncode} after SIGTERM:\n" + "".join(log))


def read_npy(path):
    """The rows of a float32 matrix."""
    data = pathlib.Path(path).read_bytes()
    header_end = 10 + struct.unpack("<H", data[8:10])[0]
    rows, columns = map(int, re.search(rb"\((\d+), (\d+)\)", data[10:header_end]).groups())
    assert len(data) == header_end + rows * columns * 4
    return [data[header_end + r * columns * 4:header_end + (r + 1) * columns * 4] for r in range(rows)]


class HelpTest(unittest.TestCase):
    def test_every_command_explains_itself(self):
        for command in ["serve", "generate", "chat", "tokenize", "logits", "inspect", "quantize"]:
            text = run(command, "--help").stdout
            self.assertIn("Example", text)
            self.assertIn(f"moed {command}", text)

    def test_every_bench_explains_itself(self):
        for command in ["batch", "serve"]:
            text = run("bench", command, "--help").stdout
            self.assertIn("Example", text)
            self.assertIn(f"moed bench {command}", text)

    def test_defaults_are_shown(self):
        self.assertRegex(run("serve", "--help").stdout, r"--port INT=50051")

    def test_a_wrong_flag_is_named(self):
        done = subprocess.run([MOED, "serve", "--prot", "1"], capture_output=True, text=True)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("--prot", done.stderr)


class QuantizeTest(unittest.TestCase):
    def test_it_writes_a_model_and_says_what_became_of_it(self):
        with tempfile.TemporaryDirectory() as folder:
            out = f"{folder}/int4"
            report = json.loads(run("quantize", "--model", MODEL, "--to", "int4", "--group-size", "32", "--out", out,
                                    "--json").stdout)
            self.assertLess(report["bytes_after"], report["bytes_before"] / 2)
            experts = [part for part in report["parts"] if part["part"] == "experts"]
            self.assertEqual({part["format"] for part in experts}, {"int4:32"})
            self.assertTrue(all(0.01 < part["relative_error"] < 0.12 for part in experts))
            size = (pathlib.Path(out) / "model.safetensors").stat().st_size
            self.assertTrue(0 <= size - report["bytes_after"] < 100_000, size)
            text = run("generate", "--model", out, "--prompt", "Once upon a time", "--max-tokens", "8",
                       "--temperature", "0").stdout
            self.assertGreater(len(text), 8)
            done = run("quantize", "--model", MODEL, "--to", "int8", "--out", out, code=1)
            self.assertIn("is there already", done.stderr)

    def test_the_table_has_a_row_for_each_part(self):
        with tempfile.TemporaryDirectory() as folder:
            policy = pathlib.Path(folder) / "policy.yaml"
            policy.write_text("rules: [{parts: [experts], layers: 0, format: int8}]")
            table = run("quantize", "--model", MODEL, "--policy", str(policy), "--out", f"{folder}/out").stdout
            self.assertRegex(table, r"relative error\n +0  experts +int8 .*%\n +all ")

    def test_wrong_flags_are_named(self):
        with tempfile.TemporaryDirectory() as folder:
            out = ["--out", f"{folder}/out"]
            policy = pathlib.Path(folder) / "policy.yaml"
            policy.write_text("rules: [{part: [experts], format: int8}]")
            for flags, message in (
                    (["--policy", str(policy)], 'policy.yaml:1: a rule has the key "part"; known are parts, layers and'),
                    (["--to", "int3"], "int3"),
                    (["--to", "int8", "--group-size", "12"], "groups, of 8 to 1024 inputs by eights"),
                    ([], "give --to int8, --to int4 or --auto")):
                self.assertIn(message, run("quantize", "--model", MODEL, *flags, *out, code=1).stderr)
            self.assertEqual(list(pathlib.Path(folder).iterdir()), [policy])


class LocalTest(unittest.TestCase):
    def test_generate_repeats_itself_with_a_seed(self):
        arguments = ["generate", "--model", MODEL, "--prompt", "Once upon a time", "--max-tokens", "12", "--seed", "3",
                     "--json"]
        first, second = (json.loads(run(*arguments).stdout) for _ in range(2))
        self.assertEqual(first["token_ids"], second["token_ids"])
        self.assertEqual(first["usage"]["completion_tokens"], len(first["token_ids"]))
        text = run(*arguments[:-1]).stdout
        self.assertEqual(text, first["text"] + "\n")

    def test_tokenize_there_and_back(self):
        texts = ["Once upon a time", "明月几时有？", "", " a\n\tb  c", "naïve 🙂"]
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        ids = run("tokenize", "--model", MODEL, stdin=lines).stdout
        back = run("tokenize", "--model", MODEL, "--decode", stdin=ids).stdout
        self.assertEqual([json.loads(line)["text"] for line in back.splitlines()], texts)

    def test_tokenize_names_a_bad_line(self):
        done = run("tokenize", "--model", MODEL, stdin='{"text": "a"}\n{"txt": 1}\n', code=1)
        self.assertIn("line 2", done.stderr)

    def test_logits_do_not_depend_on_chunks(self):
        with tempfile.TemporaryDirectory() as folder:
            ids = pathlib.Path(folder, "ids.json")
            ids.write_text(json.dumps([[5, 6, 7, 8, 9, 10, 11], [12], [13, 14, 15]]))
            outs = []
            for chunk in [0, 1, 2]:
                out = pathlib.Path(folder, f"{chunk}.npy")
                run("logits", "--model", MODEL, "--ids", str(ids), "--out", str(out), "--chunk", str(chunk))
                outs.append(read_npy(out))
            self.assertEqual(len(outs[0]), 11)
            self.assertEqual(outs[0], outs[1])
            self.assertEqual(outs[0], outs[2])

    def test_inspect_tells_of_the_model(self):
        text = run("inspect", "--model", MODEL).stdout
        for word in ["family", "experts", "total", "active", "KV cache", "Not supported"]:
            self.assertIn(word, text)

    def test_errors_are_told_and_end_with_1(self):
        self.assertIn("no model is named", run("serve", code=1).stderr)
        self.assertIn("/no/such", run("generate", "--model", "/no/such", "--prompt", "x", code=1).stderr)
        no_prompt = subprocess.run([MOED, "generate", "--model", MODEL], capture_output=True, text=True)
        self.assertNotEqual(no_prompt.returncode, 0)
        self.assertIn("--prompt", no_prompt.stderr)
        self.assertIn("drain_timeout is -1s", run("serve", "--model", MODEL, "--drain-timeout=-1s", code=1).stderr)
        self.assertIn("/no/such.yaml", run("serve", "--config", "/no/such.yaml", code=1).stderr)
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
            config.write("model: models/demo\nprot: 1\n")
            config.flush()
            self.assertIn('unknown key "prot"; did you mean "port"?', run("serve", "--config", config.name, code=1).stderr)
        self.assertIn("temperature is -1", run("generate", "--model", MODEL, "--prompt", "x", "--temperature", "-1",
                                               code=1).stderr)

    def test_devices_are_listed(self):
        text = run("devices").stdout
        self.assertIn("cpu: ", text)
        self.assertRegex(text, r"(?m)^--device auto is (cpu|cuda:\d+)$")

    def test_a_gpu_that_is_not_there_is_one_clear_error(self):
        if "no cuda" not in run("devices").stdout:
            self.skipTest("this machine has a GPU")
        for device in ("cuda", "cuda:3"):
            error = run("generate", "--model", MODEL, "--prompt", "x", "--device", device, code=1).stderr
            self.assertRegex(error, r"^moed: device cuda:\d: (this build of moed is without CUDA|there is no NVIDIA driver "
                                    r"on this machine|.*NVIDIA driver.*)\n$")
        automatic = run("generate", "--model", MODEL, "--prompt", "x", "--max-tokens", "1", "--log-level", "info").stderr
        self.assertRegex(automatic, r"device auto: cpu \(.*\)")
        self.assertIn('"gpu" is not a device', run("generate", "--model", MODEL, "--prompt", "x", "--device", "gpu",
                                                   code=1).stderr)

    def test_the_configuration_is_printed_and_read_back(self):
        printed = run("serve", "--config", "configs/demo.yaml", "--port", "7", "--print-config").stdout
        self.assertIn("port: 7", printed)
        self.assertIn("max_num_seqs: 16", printed)
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
            config.write(printed)
            config.flush()
            self.assertEqual(run("serve", "--config", config.name, "--print-config").stdout, printed)


class BenchServeTest(unittest.TestCase):
    def test_every_request_is_accounted_for(self):
        with server() as (_, address):
            for rate in ["0", "200"]:
                report = json.loads(run("bench", "serve", "--server", address, "--clients", "3", "--requests", "7",
                                        "--prompt", "16", "--generate", "5", "--rate", rate, "--json").stdout)
                self.assertEqual((report["completed"], report["failed"]), (7, {}))
                self.assertAlmostEqual(report["output_tokens_per_s"] * report["seconds"], 7 * 5)
                first, whole = report["time_to_first_token"], report["response_time"]
                self.assertTrue(0 < first["p50_ms"] <= first["p99_ms"] <= whole["p99_ms"])
            text = run("bench", "serve", "--server", address, "--requests", "1", "--generate", "2").stdout
            self.assertIn("1 requests completed", text)

    def test_what_cannot_be_measured_is_told(self):
        with server() as (_, address):
            done = run("bench", "serve", "--server", address, "--prompt", "100000", code=1)
            self.assertIn("prompt and generate are 100000 and 64; the model's context holds", done.stderr)
            done = run("bench", "serve", "--server", address, "--model", "other", code=1)
            self.assertIn('no model "other"; it has demo', done.stderr)
        done = run("bench", "serve", "--server", address, code=1)
        self.assertIn(f"no answer from {address}", done.stderr)


class ServerTest(unittest.TestCase):
    def test_chat_once_and_a_conversation(self):
        with server() as (_, address):
            answer = run("chat", "--server", address, "--once", "Hello", "--max-tokens", "8", "--temperature", "0").stdout
            self.assertTrue(answer.endswith("\n"))
            talk = run("chat", "--server", address, "--max-tokens", "4", stdin="Hello\nAnd then?\n/new\nHi\n/quit\n")
            self.assertEqual(talk.stderr.count("moed:"), 0)

    def test_chat_names_a_server_that_is_not_there(self):
        self.assertIn("moed:", run("chat", "--server", "127.0.0.1:1", "--once", "x", code=1).stderr)

    def test_a_port_in_use_is_an_error(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            done = run("serve", "--model", MODEL, "--port", port, code=1)
            self.assertIn(f"cannot listen on 127.0.0.1:{port}: Address already in use", done.stderr)

    def test_sigterm_lets_a_request_end(self):
        with server() as (process, address):
            client = subprocess.Popen([MOED, "chat", "--server", address, "--once", "Hello", "--max-tokens", "60",
                                       "--ignore-eos"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            self.assertTrue(client.stdout.read(1))
            process.send_signal(signal.SIGTERM)
            self.assertEqual(client.wait(timeout=60), 0)
            client.communicate()

    def test_a_second_signal_ends_at_once(self):
        with server("--drain-timeout", "10m") as (process, address):
            client = subprocess.Popen([MOED, "chat", "--server", address, "--once", "Hello", "--max-tokens", "100000",
                                       "--ignore-eos"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(timeout=60), 0)
            client.communicate(timeout=60)

    def test_bytes_that_are_not_http2_do_no_harm(self):
        with server() as (_, address):
            host, port = address.rsplit(":", 1)
            for i in range(500):
                with socket.create_connection((host, int(port))) as connection:
                    if i % 2:
                        connection.sendall(b"\x00" * i)
            run("chat", "--server", address, "--once", "Hello", "--max-tokens", "2")


if __name__ == "__main__":
    unittest.main()
