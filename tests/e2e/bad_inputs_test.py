#!/usr/bin/env python3
"""Bad inputs of every kind, each with the status and the message that it gets; beside every one, and after it, the
server gives others exactly their tokens.

    bad_inputs_test.py              as a test
    bad_inputs_test.py --markdown   prints the table, with the messages in full
"""

import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import grpc

from bad_connections import FLOOD_ROWS, HELD_ROWS, STRANGER_ROWS, TOO_MANY_ROWS
from bad_models import START_ROWS, ModelFolder, broken
from bad_requests import (CHAT_ROWS, FULL_QUEUE_ROW, NO_TEMPLATE_ROW, PARAMETER_ROWS, PROMPT_ROWS, TEMPLATE,
                          TEMPLATE_ROWS)
from server import CALL_TIMEOUT_S, DEMO_MODEL, START_TIMEOUT_S, Server, generate_request, run_moed

NEIGHBOUR_TOKENS = 4
# Threads that wait for each other are slow where other tests take their turns, and speed is not the matter here.
ONE_THREAD = ("--threads", 1)

# Rows of the table: (input, outcome, message).
table = []


def setUpModule():
    """What the neighbours of all bad requests must get, from the program without a server."""
    global expected_tokens
    result = run_moed("generate", "--model", DEMO_MODEL, "--prompt", "Once upon a time", "--max-tokens", NEIGHBOUR_TOKENS,
                      "--temperature", 0, "--json")
    assert result.returncode == 0, result.stderr
    expected_tokens = json.loads(result.stdout)["token_ids"]
    assert expected_tokens


class StartTest(unittest.TestCase):
    """`moed serve` does not start, and says why in one line."""

    def test_bad_starts(self):
        # Two at a time, and each with one thread of its own.
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for row, outcome in zip(START_ROWS, pool.map(self.start, START_ROWS)):
                with self.subTest(row.name):
                    code, message = outcome
                    table.append((row.name, f"exit code {code}", message))
                    self.assertGreater(code, 0, message)  # below 0: ended by a signal
                    self.assertIn(row.message, message)
                    self.assertEqual(len(message.splitlines()), 1, message)

    def start(self, row):
        """The exit code, and what was said without what is logged on the way."""
        with tempfile.TemporaryDirectory() as folder, broken(row, folder) as flags:
            try:
                result = run_moed("serve", *ONE_THREAD, "--log-level", "error", *flags, timeout=START_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                return 0, f"still running after {START_TIMEOUT_S} s"
            message = result.stderr.replace(folder + "/", "")
            # The library for flags adds where to read more.
            return result.returncode, message.replace("Run with --help for more information.", "").strip()


class RunningServerTest(unittest.TestCase):
    """A running server refuses, and serves everyone else."""

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def neighbours(self, server):
        """Good requests: on the connection that the bad one came over, and on a new one."""
        request = generate_request(max_tokens=NEIGHBOUR_TOKENS)
        answer = server.stub.Generate(request, timeout=CALL_TIMEOUT_S)
        self.assertEqual(list(answer.token_ids), expected_tokens)
        with server.connect() as channel:
            # To be connected may take more than one attempt amid a flood of connections.
            answer = type(server.stub)(channel).Generate(request, timeout=CALL_TIMEOUT_S, wait_for_ready=True)
        self.assertEqual(list(answer.token_ids), expected_tokens)

    def run_with_neighbours(self, server, run, beside=True):
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            outcome = pool.submit(run, server)
            if beside:
                self.neighbours(server)
            result = outcome.exception() or outcome.result()
        self.neighbours(server)
        return result

    def check(self, server, rows, beside=True):
        for row in rows:
            with self.subTest(row.name):
                error = self.run_with_neighbours(server, row.call, beside)
                self.assertIsInstance(error, grpc.RpcError)
                table.append((row.name, error.code().name, error.details()))
                self.assertEqual(error.code(), row.code, error.details())
                self.assertIn(row.message, error.details())

    def test_bad_requests(self):
        with Server(*ONE_THREAD) as server:
            self.check(server, PARAMETER_ROWS + PROMPT_ROWS + CHAT_ROWS)

    def test_bad_templates(self):
        model = ModelFolder(self.folder / "model")
        model.edit_json("tokenizer_config.json", lambda config: config.update(chat_template=TEMPLATE))
        with Server(*ONE_THREAD, model=model.path) as server:
            self.check(server, TEMPLATE_ROWS)

    def test_no_template(self):
        model = ModelFolder(self.folder / "model")
        model.edit_json("tokenizer_config.json", lambda config: config.update(chat_template="{% if %}"))
        with Server(*ONE_THREAD, model=model.path) as server:
            self.assertIn("the chat template is not understood, so Chat is not available", server.log)
            self.check(server, [NO_TEMPLATE_ROW])

    def test_full_queue(self):
        with Server(*ONE_THREAD, "--max-num-seqs", 1, "--max-queue", 1) as server:
            self.check(server, [FULL_QUEUE_ROW], beside=False)  # a neighbour would be refused as well

    def check_connections(self, server, rows, beside=True):
        self.neighbours(server)
        before = server.open_descriptors()
        for row in rows:
            with self.subTest(row.name):
                outcome = self.run_with_neighbours(server, row.run, beside)
                if isinstance(outcome, unittest.SkipTest):
                    self.skipTest(str(outcome))
                # The neighbour's own new connection ends a moment after it has hung up; there was one before, too.
                server.wait_until(lambda: server.open_descriptors() <= before, "the connections' descriptors are back")
                table.append((row.name, outcome, ""))
                self.assertEqual(outcome, row.outcome)

    def test_strangers(self):
        with Server(*ONE_THREAD, "--handshake-timeout", "3s") as server:
            self.check_connections(server, STRANGER_ROWS)

    def test_floods_of_connections(self):
        with Server(*ONE_THREAD) as server:
            self.check_connections(server, FLOOD_ROWS)

    @unittest.skipUnless("MOED_LOAD_ROUNDS" in os.environ, "a long load: ./run test --full")
    def test_connections_held_open(self):
        with Server(*ONE_THREAD, "--keepalive-time", "600s") as server:
            self.check_connections(server, HELD_ROWS)
        with Server(*ONE_THREAD, "--keepalive-time", "600s", "--max-connections", 200) as server:
            self.check_connections(server, TOO_MANY_ROWS, beside=False)  # a new neighbour would be turned away as well


def print_markdown():
    print("| | bad input | outcome | message |\n|---|---|---|---|")
    for number, (name, outcome, message) in enumerate(table, 1):
        message = message.replace("|", "\\|").replace("\n", " ")
        if len(message) > 300:
            message = message[:300] + "…"
        print(f"| {number} | {name} | {outcome} | {message} |")


if __name__ == "__main__":
    markdown = "--markdown" in sys.argv
    if markdown:
        sys.argv.remove("--markdown")
    program = unittest.main(exit=False)
    if markdown:
        print_markdown()
    sys.exit(not program.result.wasSuccessful())
