#!/usr/bin/env python3
"""The way of a request through the whole program: a client in Python, a real server, the model that ships."""

import array
import concurrent.futures
import json
import math
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import unittest

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

from public_protos import HEALTH_NOT_SERVING, HEALTH_SERVING, check_health, reflect
from server import (CALL_TIMEOUT_S, DEMO_MODEL, MOED, ROOT, Server, chat_pb2, chat_request, generate_request,
                    inference_pb2, run_moed, sampling_pb2)

SERVICE = "moed.v1.InferenceService"
TEXTS = ["Once upon a time", "明月几时有？把酒问青天。", "a\n\tb  c 3.14 👩‍🔬 naïve Ω", " ", ""]
PROMPT = "Once upon a time there was a little girl"


class RequestTest(unittest.TestCase):
    """Requests of every kind to one server."""

    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server())
        cls.stub = cls.server.stub

    def generate(self, request):
        return self.stub.Generate(request, timeout=CALL_TIMEOUT_S)

    def stream(self, method, request):
        """All messages of a stream; only the last may say why it ended."""
        messages = list(method(request, timeout=CALL_TIMEOUT_S))
        self.assertTrue(messages)
        for message in messages[:-1]:
            self.assertEqual(message.finish_reason, inference_pb2.GenerateStreamResponse().finish_reason)
            self.assertFalse(message.HasField("usage"))
        self.assertTrue(messages[-1].HasField("usage"))
        self.assertEqual(len({message.id for message in messages}), 1)
        return messages

    def tokenize(self, text):
        return list(self.stub.Tokenize(inference_pb2.TokenizeRequest(text=text), timeout=CALL_TIMEOUT_S).token_ids)

    def test_list_models(self):
        models = self.stub.ListModels(inference_pb2.ListModelsRequest(), timeout=CALL_TIMEOUT_S).models
        config = json.loads((DEMO_MODEL / "config.json").read_text())
        self.assertEqual([model.name for model in models], ["demo"])
        self.assertEqual(models[0].max_context, config["max_position_embeddings"])
        self.assertEqual(models[0].vocab_size, config["vocab_size"])
        self.assertTrue(models[0].has_chat_template)
        self.assertEqual(models[0].state, inference_pb2.Model.READY)

    def test_tokenize_and_back(self):
        for text in TEXTS:
            with self.subTest(text=text):
                ids = self.tokenize(text)
                self.assertEqual(bool(ids), bool(text))
                back = self.stub.Detokenize(inference_pb2.DetokenizeRequest(token_ids=ids), timeout=CALL_TIMEOUT_S)
                self.assertEqual(back.text, text)

    def test_stream_is_the_unary_answer_in_pieces(self):
        for text in TEXTS[:3]:
            for sampling in ({"temperature": 0.0}, {"temperature": 0.9, "top_p": 0.95, "seed": 5}):
                with self.subTest(text=text, **sampling):
                    request = generate_request(text, max_tokens=40, **sampling)
                    whole = self.generate(request)
                    pieces = self.stream(self.stub.GenerateStream, request)
                    self.assertEqual("".join(piece.text_delta for piece in pieces), whole.text)
                    self.assertEqual([id for piece in pieces for id in piece.token_ids], list(whole.token_ids))
                    self.assertEqual(pieces[-1].finish_reason, whole.finish_reason)
                    self.assertEqual(pieces[-1].usage.completion_tokens, len(whole.token_ids))
                    self.assertEqual(pieces[-1].usage.prompt_tokens, len(self.tokenize(text)))

    def test_token_ids_as_prompt(self):
        request = generate_request(PROMPT, max_tokens=20)
        expected = self.generate(request)
        request.token_ids.ids.extend(self.tokenize(PROMPT))  # one of them: takes the place of the text
        self.assertEqual(self.generate(request).text, expected.text)

    def test_seeds(self):
        texts = {seed: self.generate(generate_request(PROMPT, max_tokens=24, temperature=1.0, seed=seed)).text
                 for seed in range(4)}
        self.assertEqual(len(set(texts.values())), len(texts))
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            again = pool.map(lambda seed: (seed, self.generate(
                generate_request(PROMPT, max_tokens=24, temperature=1.0, seed=seed)).text), list(texts) * 4)
            for seed, text in again:
                self.assertEqual(text, texts[seed], "in company the tokens must be those of a request alone")

    def test_chat(self):
        request = chat_request("Hello!", "Good day to you.", "Tell me a story.", max_tokens=24)
        answer = self.stub.Chat(request, timeout=CALL_TIMEOUT_S)
        self.assertEqual(answer.message.role, "assistant")
        pieces = self.stream(self.stub.ChatStream, request)
        self.assertEqual("".join(piece.content_delta for piece in pieces), answer.message.content)
        self.assertEqual([id for piece in pieces for id in piece.token_ids], list(answer.token_ids))

        prompt = self.stub.Tokenize(inference_pb2.TokenizeRequest(conversation=request.conversation),
                                    timeout=CALL_TIMEOUT_S)
        self.assertEqual(prompt.rendered,
                         "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\nGood day to you.<|im_end|>\n"
                         "<|im_start|>user\nTell me a story.<|im_end|>\n<|im_start|>assistant\n")
        generated = generate_request(max_tokens=24)
        generated.token_ids.ids.extend(prompt.token_ids)
        self.assertEqual(self.generate(generated).text, answer.message.content)

    def test_stop_string(self):
        text = self.generate(generate_request(PROMPT, max_tokens=40, ignore_eos=True)).text
        stop = text[9:17]
        request = generate_request(PROMPT, max_tokens=40, ignore_eos=True, stop=["not to be found", stop])
        answer = self.generate(request)
        self.assertEqual(answer.text, text[:text.index(stop)])
        self.assertEqual(answer.finish_reason, inference_pb2.GenerateResponse(finish_reason=1).finish_reason)
        pieces = self.stream(self.stub.GenerateStream, request)
        self.assertEqual("".join(piece.text_delta for piece in pieces), answer.text)
        request.sampling.include_stop_in_output = True
        self.assertEqual(self.generate(request).text, answer.text + stop)

    def test_logprobs(self):
        answer = self.generate(generate_request(PROMPT, max_tokens=12, logprobs=4, skip_special_tokens=False))
        self.assertEqual([logprobs.chosen.token_id for logprobs in answer.logprobs], list(answer.token_ids))
        for logprobs in answer.logprobs:
            values = [top.logprob for top in logprobs.top]
            self.assertEqual(len(values), 4)
            self.assertEqual(values, sorted(values, reverse=True))
            self.assertLessEqual(math.fsum(map(math.exp, values)), 1 + 1e-6)
            self.assertEqual(logprobs.top[0], logprobs.chosen, "greedy takes the most likely token")
        self.assertEqual(b"".join(logprobs.chosen.token for logprobs in answer.logprobs).decode(errors="replace"),
                         answer.text)

    def finished(self, id, how):
        return re.search(rf"request id={id} .*finish={how}\b", self.server.log) is not None

    def test_deadline(self):
        request = generate_request(PROMPT, max_tokens=2000, ignore_eos=True)
        id = next(self.stub.GenerateStream(request, timeout=CALL_TIMEOUT_S)).id  # cancelled when it goes out of scope
        id = str(int(id) + 1)
        with self.assertRaises(grpc.RpcError) as raised:
            list(self.stub.GenerateStream(request, timeout=0.2))
        self.assertEqual(raised.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        # Whose clock is first: the server's own deadline, or the client that hangs up.
        self.server.wait_until(lambda: self.finished(id, "deadline") or self.finished(id, "cancelled"),
                               "the request past its deadline is ended")

    def test_cancel(self):
        request = generate_request(PROMPT, max_tokens=2000, ignore_eos=True)
        call = self.stub.GenerateStream(request, timeout=CALL_TIMEOUT_S)
        id = next(call).id
        call.cancel()
        with self.assertRaises(grpc.RpcError) as raised:
            for _ in call:
                pass
        self.assertEqual(raised.exception.code(), grpc.StatusCode.CANCELLED)
        self.server.wait_until(lambda: self.finished(id, "cancelled"), "the cancelled request is ended")

    def test_health(self):
        self.assertEqual(check_health(self.server.channel, ""), HEALTH_SERVING)
        self.assertEqual(check_health(self.server.channel, SERVICE), HEALTH_SERVING)
        with self.assertRaises(grpc.RpcError) as raised:
            check_health(self.server.channel, "no.such.Service")
        self.assertEqual(raised.exception.code(), grpc.StatusCode.NOT_FOUND)

    def test_chat_once(self):
        result = run_moed("chat", "--server", self.server.address, "--once", "Tell me a story.", "--max-tokens", 16,
                          "--temperature", 0)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        expected = self.stub.Chat(chat_request("Tell me a story.", max_tokens=16), timeout=CALL_TIMEOUT_S)
        self.assertEqual(result.stdout, expected.message.content + "\n")

    def test_generate_command_gives_the_same_text(self):
        result = run_moed("generate", "--model", DEMO_MODEL, "--prompt", PROMPT, "--max-tokens", 24, "--temperature",
                          0.9, "--top-p", 0.9, "--seed", 11, "--json")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        local = json.loads(result.stdout)
        served = self.generate(generate_request(PROMPT, max_tokens=24, temperature=0.9, top_p=0.9, seed=11))
        self.assertEqual(local["text"], served.text)
        self.assertEqual(local["token_ids"], list(served.token_ids))
        self.assertEqual(local["usage"]["prompt_tokens"], served.usage.prompt_tokens)

    def test_sampling_of_the_model(self):
        """A parameter that a request leaves out is the one of generation_config.json, unless the server does without."""
        recommended = json.loads((DEMO_MODEL / "generation_config.json").read_text())
        recommended = {key: recommended[key] for key in ("temperature", "top_p")}
        bare = inference_pb2.GenerateRequest(text=PROMPT, sampling=sampling_pb2.SamplingParams(max_tokens=40, seed=3))
        sampled = self.generate(generate_request(PROMPT, max_tokens=40, seed=3, **recommended)).text
        own = self.generate(generate_request(PROMPT, max_tokens=40, seed=3, temperature=1.0, top_p=1.0)).text
        self.assertNotEqual(sampled, own)  # or the rest would show nothing
        self.assertEqual(self.generate(bare).text, sampled)
        with Server("--generation-config", "moed") as server:
            self.assertEqual(server.stub.Generate(bare, timeout=CALL_TIMEOUT_S).text, own)
        for flags, text in ([], sampled), (["--generation-config", "moed"], own):
            result = run_moed("generate", "--model", DEMO_MODEL, "--prompt", PROMPT, "--max-tokens", 40, "--seed", 3,
                              "--json", *flags)
            self.assertEqual(json.loads(result.stdout)["text"], text)


class ReflectionTest(unittest.TestCase):
    """What grpcurl does: knows nothing but the address, and asks the server for the rest."""

    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server())

    def test_list(self):
        services = [service.name for service in
                    reflect(self.server.channel, list_services="*").list_services_response.service]
        self.assertIn(SERVICE, services)
        self.assertIn("grpc.reflection.v1alpha.ServerReflection", services)

    def test_unknown_symbol(self):
        answer = reflect(self.server.channel, file_containing_symbol="no.such.Symbol")
        self.assertEqual(answer.error_response.error_code, grpc.StatusCode.NOT_FOUND.value[0])

    def describe(self):
        """A pool with the service's file and all that it imports."""
        pool = descriptor_pool.DescriptorPool()
        added = set()

        def add(answer):
            files = [descriptor_pb2.FileDescriptorProto.FromString(file)
                     for file in answer.file_descriptor_response.file_descriptor_proto]
            by_name = {file.name: file for file in files}

            def add_file(name):
                if name in added:
                    return
                if name not in by_name:
                    return add(reflect(self.server.channel, file_by_filename=name))
                for dependency in by_name[name].dependency:
                    add_file(dependency)
                pool.Add(by_name[name])
                added.add(name)

            for name in by_name:
                add_file(name)

        add(reflect(self.server.channel, file_containing_symbol=SERVICE))
        return pool

    def test_grpcurl_command_of_the_readme(self):
        readme = (ROOT / "README.md").read_text().replace("\\\n", " ")
        command = shlex.split(re.search(r"^grpcurl .*-d .*$", readme, re.MULTILINE)[0])
        data = command[command.index("-d") + 1]
        service_name, method_name = command[-1].split("/")

        pool = self.describe()
        method = pool.FindServiceByName(service_name).FindMethodByName(method_name)
        factory = message_factory.MessageFactory(pool)
        request = json_format.Parse(data, factory.GetPrototype(method.input_type)(), descriptor_pool=pool)
        call = self.server.channel.unary_stream(f"/{service_name}/{method_name}", type(request).SerializeToString,
                                                factory.GetPrototype(method.output_type).FromString)
        streamed = [json_format.MessageToDict(message) for message in call(request, timeout=CALL_TIMEOUT_S)]

        same = inference_pb2.GenerateRequest.FromString(request.SerializeToString())
        expected = self.server.stub.Generate(same, timeout=CALL_TIMEOUT_S)
        self.assertEqual("".join(message.get("textDelta", "") for message in streamed), expected.text)
        self.assertIn(streamed[-1]["finishReason"], ("FINISH_REASON_LENGTH", "FINISH_REASON_STOP"))


class ReadmeTest(unittest.TestCase):
    """The first request of README.md and the programs in examples/, as they are shown."""

    def run_python(self, *arguments, code=0):
        result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=CALL_TIMEOUT_S,
                                cwd=ROOT / "examples", env=os.environ | {"PYTHONIOENCODING": "utf-8"})
        self.assertEqual(result.returncode, code, result.stderr)
        return result.stdout if code == 0 else result.stderr

    def test_first_request(self):
        readme = (ROOT / "README.md").read_text()
        code = re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1]
        arguments = shlex.split(re.search(r"^build/release/moed serve (.*)$", readme, re.MULTILINE)[1])
        with socket.socket() as port:
            port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            busy = port.connect_ex(("127.0.0.1", 50051)) == 0
        if busy:  # by another server on this machine: the same on another port
            arguments += ["--port", "0"]
        with Server(*arguments) as server:
            printed = self.run_python("-c", code.replace("127.0.0.1:50051", server.address))
            expected = server.stub.Generate(
                generate_request("Once upon a time", max_tokens=100, temperature=0.8, seed=1), timeout=CALL_TIMEOUT_S)
            self.assertEqual(printed, expected.text)
            # The same request, as a program.
            self.assertEqual(self.run_python("generate.py", "--server", server.address, "Once upon a time"),
                             expected.text + "\n")
            failed = self.run_python("generate.py", "--server", server.address, "--temperature", "-1", "Once", code=1)
            self.assertIn("INVALID_ARGUMENT: temperature is -1", failed)

    def test_demo(self):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
            config.write((ROOT / "configs/demo.yaml").read_text().replace("port: 50051", "port: 0"))
            config.flush()
            result = subprocess.run([sys.executable, "examples/demo.py", "--moed", MOED, "--config", config.name],
                                    capture_output=True, text=True, timeout=CALL_TIMEOUT_S, cwd=ROOT,
                                    env=os.environ | {"PYTHONIOENCODING": "utf-8"})
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertEqual(len(re.findall(r"\[\d+ tokens, \d+ tokens/s, first token after [\d.]+ ms\]", result.stdout)), 2)
        self.assertIn("明月几时有", result.stdout)
        self.assertIn("server stopped with exit code 0", result.stdout)


class CommandTest(unittest.TestCase):
    """The subcommands that need no server."""

    def run_ok(self, *arguments, stdin=None):
        result = run_moed(*arguments, stdin=stdin)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        return result.stdout

    def test_tokenize_round_trip(self):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
        ids = self.run_ok("tokenize", "--model", DEMO_MODEL, stdin=lines)
        self.assertEqual(len(ids.splitlines()), len(TEXTS))
        texts = self.run_ok("tokenize", "--model", DEMO_MODEL, "--decode", stdin=ids)
        self.assertEqual([json.loads(line)["text"] for line in texts.splitlines()], TEXTS)

    def test_tokenize_chat(self):
        conversation = {"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": True}
        rendered = self.run_ok("tokenize", "--model", DEMO_MODEL, "--chat", stdin=json.dumps(conversation) + "\n")
        self.assertEqual(json.loads(rendered), {"text": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"})

    def test_logits_agree_with_generate(self):
        prompts = [[5, 6, 7, 300, 8], [1000], [9] * 40]
        vocab = json.loads((DEMO_MODEL / "config.json").read_text())["vocab_size"]
        with tempfile.TemporaryDirectory() as folder:
            ids, out = pathlib.Path(folder, "ids.json"), pathlib.Path(folder, "logits.npy")
            generated = self.run_ok("generate", "--model", DEMO_MODEL, "--prompt", PROMPT, "--temperature", 0,
                                    "--max-tokens", 1, "--json")
            tokenized = self.run_ok("tokenize", "--model", DEMO_MODEL, stdin=json.dumps({"text": PROMPT}) + "\n")
            prompts.append(json.loads(tokenized)["ids"])
            ids.write_text(json.dumps(prompts))
            self.run_ok("logits", "--model", DEMO_MODEL, "--ids", ids, "--out", out)
            rows = self.read_npy(out, (sum(map(len, prompts)), vocab))
            chunked = pathlib.Path(folder, "chunked.npy")
            self.run_ok("logits", "--model", DEMO_MODEL, "--ids", ids, "--out", chunked, "--chunk", 7)
            self.assertEqual(chunked.read_bytes(), out.read_bytes(), "chunks must change nothing, not even a bit")
        self.assertTrue(all(map(math.isfinite, rows)))
        last = rows[-vocab:]
        self.assertEqual([max(range(vocab), key=last.__getitem__)], json.loads(generated)["token_ids"])

    def read_npy(self, path, shape):
        """The floats of a version 1.0 file, whose shape is as expected."""
        content = path.read_bytes()
        self.assertEqual(content[:8], b"\x93NUMPY\x01\x00")
        data = 10 + int.from_bytes(content[8:10], "little")
        header = content[10:data].decode()
        self.assertIn("'descr': '<f4', 'fortran_order': False", header)
        self.assertIn(f"'shape': ({shape[0]}, {shape[1]})", header)
        self.assertEqual(len(content) - data, 4 * shape[0] * shape[1])
        floats = array.array("f")
        floats.frombytes(content[data:])
        return floats

    def test_inspect(self):
        printed = self.run_ok("inspect", "--model", DEMO_MODEL)
        for expected in ("qwen3_moe (Qwen3MoeForCausalLM)", "Parameters", "active for one token", "KV cache for one token",
                         "chat template                yes", "nothing: all of it can be served"):
            self.assertIn(expected, printed)
        # Tied in the checkpoint, two tables of 4096 x 192 bf16 in memory.
        self.assertRegex(printed, r"embedding and LM head +1\.5 MiB")  # one table for both

    def test_inspect_a_shape_without_weights(self):
        printed = self.run_ok("inspect", "--model", "configs/shapes/qwen3-30b-a3b", "--load-format", "dummy", "--dtype",
                              "bf16")
        self.assertIn("30.53 B", printed)
        self.assertRegex(printed, r"active for one token +3\.\d+ B")

    def test_help_and_print_config(self):
        for command in ("serve", "generate", "chat", "tokenize", "logits", "inspect"):
            self.assertIn("Example", self.run_ok(command, "--help"))
        config = self.run_ok("serve", "--config", "configs/demo.yaml", "--max-num-seqs", 3, "--print-config")
        self.assertIn("\nport: 50051\n", config)
        self.assertIn("\nmax_num_seqs: 3\n", config)


class ShutdownTest(unittest.TestCase):
    """SIGTERM while streams run."""

    STREAMS = 4

    def start_streams(self, server, max_tokens):
        """Streams of which each has begun, and the tokens that came so far."""
        calls = [server.stub.GenerateStream(
            generate_request(PROMPT, max_tokens=max_tokens, ignore_eos=True, temperature=1.0, seed=seed),
            timeout=2 * CALL_TIMEOUT_S) for seed in range(self.STREAMS)]
        return calls, [len(next(call).token_ids) for call in calls]

    def test_running_streams_complete(self):
        max_tokens = 1500
        with Server("--drain-timeout", f"{2 * CALL_TIMEOUT_S}s") as server:
            calls, tokens = self.start_streams(server, max_tokens)
            server.send_signal(signal.SIGTERM)
            server.wait_until(lambda: "draining" in server.log, "the server says that it drains")
            server.wait_until(lambda: check_health(server.channel, SERVICE) == HEALTH_NOT_SERVING, "not serving")
            self.assertEqual(check_health(server.channel, ""), HEALTH_SERVING, "the process lives")
            with self.assertRaises(grpc.RpcError) as raised:
                server.stub.Generate(generate_request(max_tokens=1), timeout=CALL_TIMEOUT_S)
            self.assertEqual(raised.exception.code(), grpc.StatusCode.UNAVAILABLE)
            self.assertIn("draining", raised.exception.details())
            for call, so_far in zip(calls, tokens):
                messages = list(call)
                self.assertEqual(so_far + sum(len(message.token_ids) for message in messages), max_tokens)
                self.assertTrue(messages[-1].HasField("usage"))
            self.assertEqual(server.wait(), 0)
            self.assertIn("stopped; 0 requests were cut off", server.log)

    def test_what_is_too_long_is_cut_off(self):
        with Server("--drain-timeout", "100ms") as server:
            calls, _ = self.start_streams(server, 2000)
            server.send_signal(signal.SIGTERM)
            for call in calls:
                with self.assertRaises(grpc.RpcError) as raised:
                    for _ in call:
                        pass
                self.assertEqual(raised.exception.code(), grpc.StatusCode.UNAVAILABLE)
            self.assertEqual(server.wait(), 0)
            self.assertIn(f"stopped; {self.STREAMS} requests were cut off", server.log)


if __name__ == "__main__":
    unittest.main()
