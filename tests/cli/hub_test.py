#!/usr/bin/env python3
"""Models by their names on the Hub: `moed inspect --model ORG/NAME` against a local server that speaks the Hub's API."""

import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden/mixtral_tied"
GGUF = ROOT / "tests/golden/formats/gguf_mixtral/model.gguf"
MOED = str(pathlib.Path(sys.argv.pop(1)).resolve())
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.ThreadingHTTPServer):
    """Serves one repository, large files through a redirect as the Hub does, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self, files, token=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.token = files, token
        self.requests = []  # (path, Range, Authorization)
        self.break_at = {}  # file -> bytes after which its first download breaks off
        self.corrupt = set()
        self.sizes = {}  # file -> the size that the listing claims
        self.busy = []  # paths that are answered "too many requests", once for each time they stand here
        self.knows_ranges = True
        self.endpoint = f"http://127.0.0.1:{self.server_port}"

    def paths(self):
        return [path for path, _, _ in self.requests]

    def listing(self):
        siblings = []
        for name, content in self.files.items():
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry = {"rfilename": name, "size": len(content), "blobId": git}
            entry["size"] = self.sizes.get(name, len(content))
            if name.endswith((".safetensors", ".gguf")):
                entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": entry["size"], "pointerSize": 134}
            siblings.append(entry)
        return json.dumps({"id": "org/name", "sha": COMMIT, "siblings": siblings}).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        hub = self.server
        path = urllib.parse.urlparse(self.path).path
        if path.startswith("/api/models/org/name/revision/") and path.count("/") > 6:
            return self.send_error(404)  # a revision is one part of the path, its slashes encoded
        path = urllib.parse.unquote(path)
        hub.requests.append((path, self.headers.get("Range"), self.headers.get("Authorization")))
        if path in hub.busy:
            hub.busy.remove(path)
            self.send_response(429)
            self.send_header("Retry-After", "1")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if path.startswith("/cdn/"):
            return self.send_content(path.removeprefix("/cdn/"))
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.send_error(401)
        if path in ("/api/models/org/name/revision/main", "/api/models/org/name/revision/v1",
                    "/api/models/org/name/revision/refs/pr/1"):
            return self.send_body(200, hub.listing())
        prefix = f"/org/name/resolve/{COMMIT}/"
        if not path.startswith(prefix) or path.removeprefix(prefix) not in hub.files:
            return self.send_error(404)
        name = path.removeprefix(prefix)
        if name.endswith((".safetensors", ".gguf")):
            self.send_response(302)
            self.send_header("Location", f"{hub.endpoint}/cdn/{urllib.parse.quote(name)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        return self.send_content(name)

    def send_content(self, name):
        hub = self.server
        content = hub.files[name]
        if name in hub.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        begin, code = 0, 200
        if self.headers.get("Range") and hub.knows_ranges:
            begin, code = int(self.headers["Range"].removeprefix("bytes=").split("-")[0]), 206
        end = hub.break_at.pop(name, len(content))
        self.send_response(code)
        self.send_header("Content-Length", str(len(content) - begin))
        if code == 206:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[begin:end])
        if end < len(content):
            self.close_connection = True

    def send_body(self, code, body):
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class HubTest(unittest.TestCase):
    def setUp(self):
        self.files = {path.name: path.read_bytes() for path in GOLDEN.iterdir() if path.name != "golden.safetensors"}
        # What must be left alone.
        self.files |= {"README.md": b"# A model", "consolidated.safetensors": b"x", "sub/model.safetensors": b"x"}
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.cache = self.folder / "hub"

    def serve(self, files=None, **options):
        hub = Hub(self.files if files is None else files, **options)
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        self.addCleanup(hub.server_close)
        self.addCleanup(hub.shutdown)
        return hub

    def inspect(self, hub, model="org/name", **variables):
        environment = {name: value for name, value in os.environ.items() if not name.upper().startswith("HF_")}
        environment = {name: value for name, value in environment.items() if not name.lower().endswith("_proxy")}
        environment |= {"HF_HUB_CACHE": str(self.cache), "HOME": str(self.folder)} | variables
        if hub:
            environment["HF_ENDPOINT"] = hub.endpoint
        return subprocess.run([MOED, "inspect", "--model", model], env=environment, cwd=self.folder, text=True,
                              capture_output=True, timeout=120)

    def check(self, result):
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def snapshot(self):
        return self.cache / "models--org--name/snapshots" / COMMIT

    def test_downloads_what_is_needed_in_the_standard_layout(self):
        hub = self.serve()
        self.assertIn("mixtral (MixtralForCausalLM)", self.check(self.inspect(hub)))
        names = {path.name for path in self.snapshot().iterdir()}
        self.assertEqual(names, {"config.json", "generation_config.json", "model.safetensors"})
        for path in self.snapshot().iterdir():
            self.assertTrue(path.is_symlink())
            self.assertEqual(os.readlink(path), f"../../blobs/{path.resolve().name}")
            self.assertEqual(path.read_bytes(), self.files[path.name])
        weights = hashlib.sha256(self.files["model.safetensors"]).hexdigest()
        blobs = self.cache / "models--org--name/blobs"
        self.assertTrue((blobs / weights).is_file())
        self.assertEqual([path.name for path in blobs.iterdir() if path.suffix], [])
        self.assertEqual((self.cache / "models--org--name/refs/main").read_text(), COMMIT)
        # What is there is not fetched again.
        hub.requests.clear()
        self.check(self.inspect(hub))
        self.assertEqual(hub.paths(), ["/api/models/org/name/revision/main"])

    def test_offline_and_unreachable_take_the_cache(self):
        hub = self.serve()
        self.check(self.inspect(hub, "org/name@v1"))
        hub.requests.clear()
        self.check(self.inspect(hub, "org/name@v1", HF_HUB_OFFLINE="1"))
        self.check(self.inspect(hub, f"org/name@{COMMIT}", HF_HUB_OFFLINE="1"))
        self.assertEqual(hub.requests, [])
        result = self.inspect(hub, "org/name", HF_HUB_OFFLINE="1")
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("org/name at main is not in the cache", result.stderr)
        self.assertIn("HF_HUB_OFFLINE is set", result.stderr)
        self.check(self.inspect(None, "org/name@v1", HF_ENDPOINT="http://127.0.0.1:9"))

    def test_a_broken_download_goes_on_where_it_stopped(self):
        hub = self.serve()
        hub.break_at["model.safetensors"] = 100_000
        self.check(self.inspect(hub))
        ranges = [value for path, value, _ in hub.requests if path == "/cdn/model.safetensors"]
        self.assertEqual(ranges, [None, "bytes=100000-"])

    def test_an_earlier_part_is_taken_up(self):
        hub = self.serve()
        content = self.files["model.safetensors"]
        blobs = self.cache / "models--org--name/blobs"
        blobs.mkdir(parents=True)
        (blobs / (hashlib.sha256(content).hexdigest() + ".incomplete")).write_bytes(content[:5000])
        self.check(self.inspect(hub))
        self.assertIn(("/cdn/model.safetensors", "bytes=5000-", None), hub.requests)

    def test_a_server_without_ranges_sends_all_again(self):
        hub = self.serve()
        hub.knows_ranges = False
        hub.break_at["model.safetensors"] = 100_000
        self.check(self.inspect(hub))
        self.assertEqual((self.snapshot() / "model.safetensors").read_bytes(), self.files["model.safetensors"])

    def test_a_wrong_hash_is_refused(self):
        for name in ("model.safetensors", "config.json"):
            hub = self.serve()
            hub.corrupt = {name}
            result = self.inspect(hub)
            self.assertNotEqual(result.returncode, 0)
            self.assertIn("it is thrown away", result.stderr)
            self.assertFalse((self.cache / "models--org--name/refs/main").exists())

    def test_a_server_with_too_many_requests_is_left_alone_as_it_asks(self):
        hub = self.serve()
        hub.busy = ["/api/models/org/name/revision/main", "/cdn/model.safetensors", "/cdn/model.safetensors"]
        begin = time.monotonic()
        self.check(self.inspect(hub))
        self.assertGreaterEqual(time.monotonic() - begin, 3.0)
        # One that stays busy is like one that cannot be reached: what the cache has is taken.
        listing = "/api/models/org/name/revision/main"
        hub.busy = [listing] * 2
        hub.requests.clear()
        self.check(self.inspect(hub))
        self.assertEqual(hub.paths(), [listing] * 2)

    def test_a_disk_that_is_too_small_is_told_first(self):
        hub = self.serve()
        hub.sizes["model.safetensors"] = 2**60
        result = self.inspect(hub)
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("1024.0 PiB are to be downloaded, and ", result.stderr)
        self.assertEqual(hub.paths(), ["/api/models/org/name/revision/main"])

    def test_tokens(self):
        hub = self.serve(token="secret")
        result = self.inspect(hub)
        self.assertIn("a gated or private model needs a token in HF_TOKEN", result.stderr)
        self.check(self.inspect(hub, HF_TOKEN="secret"))
        (self.folder / "home").mkdir()
        (self.folder / "home/token").write_text("secret\n")
        hub.requests.clear()
        self.check(self.inspect(hub, HF_HOME=str(self.folder / "home")))
        self.assertEqual({authorization for _, _, authorization in hub.requests}, {"Bearer secret"})

    def test_gguf_repositories(self):
        files = {"README.md": b"", "a-Q8_0.gguf": GGUF.read_bytes()}
        self.assertIn("mixtral (MixtralForCausalLM)", self.check(self.inspect(self.serve(files))))
        self.check(self.inspect(None, "org/name", HF_HUB_OFFLINE="1"))
        files["b-Q4_0.gguf"] = files["a-Q8_0.gguf"]
        hub = self.serve(files)
        result = self.inspect(hub)
        self.assertIn("several GGUF models; name one of them, as in org/name/a-Q8_0.gguf", result.stderr)
        self.check(self.inspect(hub, "org/name/b-Q4_0.gguf"))
        self.assertIn("has no file \"c.gguf\"", self.inspect(hub, "org/name/c.gguf").stderr)

    def test_gguf_variants(self):
        model = GGUF.read_bytes()
        files = {"a-Q4_K_M.gguf": b"other", "a-Q4_K.gguf": model, "mmproj-a-F16.gguf": b"other", "UD/b c#1-Q8_0.gguf": model}
        hub = self.serve(files)
        self.check(self.inspect(hub, "org/name:q4_k"))
        self.assertIn(f"/org/name/resolve/{COMMIT}/a-Q4_K.gguf", hub.paths())
        self.check(self.inspect(hub, "org/name@refs/pr/1:Q8_0"))
        self.assertEqual((self.snapshot() / "UD/b c#1-Q8_0.gguf").read_bytes(), model)
        self.check(self.inspect(hub, "org/name:Q8_0", HF_HUB_OFFLINE="1"))
        for options in ({}, {"HF_HUB_OFFLINE": "1"}):
            result = self.inspect(hub, "org/name:K_M", **options)
            self.assertNotEqual(result.returncode, 0)
            self.assertIn("org/name has no GGUF model that ends in \"K_M\"; it has ", result.stderr)
        self.assertIn("several GGUF models", self.inspect(hub).stderr)

    def test_what_is_not_there(self):
        hub = self.serve()
        result = self.inspect(hub, "org/other")
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("there is no such folder, and as a model on the Hub", result.stderr)
        self.assertIn("404", result.stderr)
        self.assertIn("no weights that can be read", self.inspect(self.serve({"README.md": b""})).stderr)
        self.files["../../evil"] = b"x"
        self.assertIn("it names a file \"../../evil\"", self.inspect(self.serve()).stderr)

    def test_a_folder_goes_first(self):
        (self.folder / "org").mkdir()
        (self.folder / "org/name").symlink_to(GOLDEN)
        self.check(self.inspect(None, "org/name", HF_ENDPOINT="http://127.0.0.1:9"))


if __name__ == "__main__":
    unittest.main()
