"""Lines of mixed text from a seed: what tokenizers disagree on, if they disagree on anything.

English, Chinese and code come from a folder of corpora (MOED_TEST_DATA) where there is one; everything else is drawn.
The same seed and folder give the same lines.
"""
import gzip
import json
import random
import unicodedata

WORDS = ("the of and to in is you that it he was for on are as with his they I at be this have from or one had by word "
         "But not what all were we when your can said there use an each which she do how their if will up other about "
         "tokenization supercalifragilistic Straße naïve façade Ελληνικά кириллица العربية हिन्दी ไทย 日本語 한국어").split()
CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'T", "'RE", "'VE", "'M", "'LL", "'D", "’s", "'ſ"]
EMOJI = ["😀", "👍🏽", "👩‍💻", "👨‍👩‍👧‍👦", "🇩🇪", "🇨🇳", "❤️", "☀", "🏳️‍🌈", "1️⃣", "🫠", "🧑🏿‍🚀", "©", "™"]
MARKS = [chr(c) for c in range(0x300, 0x370)] + ["\u0591", "\u05bc", "\u064b", "\u0651", "\u093c", "\u094d", "\u0e31",
                                                 "\u3099", "\u309a", "\u20e3", "\ufe0f", "\u1dc0", "\U0001d165"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\r", "\r\n", "\n\n", " \n", "\n ", "\u00a0", "\u2003", "\u2028", "\u3000",
          "\u200b", "\u200d", "\ufeff", "\x85", "\x0b", "\x0c", "\x1c", "\u1680", "\u180e"]
CODE = ["def f(x):\n    return x ** 2\n", "for (int i = 0; i < n; ++i) {\n\t\tsum += a[i];\n\t}\n",
        "#include <vector>\n", "if (a && !b || c->d != e[0]) { /* no-op */ }", "SELECT * FROM t WHERE x >= 10;",
        "<div class=\"a-b\">&nbsp;</div>", "x = {'key': [1, 2.5e-3, None]}  # comment", "fn main() -> Result<(), E> {}",
        "\\begin{equation} \\frac{a}{b} \\end{equation}", "rm -rf ./build && cmake -S . -B build -G Ninja",
        "https://example.org/a/b?c=d&e=%20f#g", "2024-01-31T23:59:59.999Z", "0xDEADBEEF 1_000_000 3.14159 1e-9"]


class MixedText:
    def __init__(self, seed, data=None, literals=()):
        """`data`: a folder with corpora/ and prompts/, or None. `literals`: texts that are to occur, such as the
        tokenizer's added tokens."""
        self.random = random.Random(seed)
        self.literals = list(literals) or ["<s>"]
        self.assigned = [c for c in range(0x110000)
                         if not 0xD800 <= c < 0xE000 and unicodedata.category(chr(c)) not in ("Cn", "Co")]
        self.english = self.chinese = " ".join(WORDS)
        self.code = "\n".join(CODE)
        if data is not None:
            self.english = (data / "corpora/en_gutenberg/all.txt").read_text(encoding="utf-8")
            self.chinese = "\n".join(path.read_text(encoding="utf-8", errors="replace")
                                     for path in sorted((data / "corpora/zh_classical").glob("*.txt")))
            with gzip.open(data / "prompts/HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
                tasks = [json.loads(line) for line in file]
            self.code = "\n".join(task["prompt"] + task["canonical_solution"] + task["test"] for task in tasks)
        self.kinds = [self.excerpt_english, self.excerpt_chinese, self.excerpt_code, self.words, self.digits,
                      self.contractions, self.emoji, self.marks, self.controls, self.spaces, self.broken,
                      self.any_characters, self.one_block, self.literal, self.repeated, self.snippet, self.latin]

    def excerpt(self, text, most):
        length = self.random.randint(1, most)
        start = self.random.randrange(max(1, len(text) - length))
        return text[start:start + length]

    def choices(self, pool, most):
        return [self.random.choice(pool) for _ in range(self.random.randint(1, most))]

    def excerpt_english(self):
        return self.excerpt(self.english, 200)

    def excerpt_chinese(self):
        return self.excerpt(self.chinese, 80)

    def excerpt_code(self):
        return self.excerpt(self.code, 200)

    def words(self):
        return self.random.choice([" ", " ", "", "-", "_", ", ", "  "]).join(self.choices(WORDS, 12))

    def digits(self):
        return "".join(self.choices(list("0123456789") * 3 + list(",. -+eE٣५²½Ⅷ①߀𝟙"), 20))

    def contractions(self):
        return "".join(word + self.random.choice(CONTRACTIONS) + self.random.choice(["", " "])
                       for word in self.choices(WORDS + ["", "I", "中"], 6))

    def emoji(self):
        return "".join(self.choices(EMOJI + [" ", "a"], 8))

    def marks(self):
        return "".join(self.random.choice("aeoqĐ가か中ﬁ\u0928 ") + "".join(self.choices(MARKS, 4))
                       for _ in range(self.random.randint(1, 8)))

    def controls(self):
        return "".join(self.choices([chr(c) for c in [*range(0x20), *range(0x7F, 0xA0)]] + ["a", " "], 12))

    def spaces(self):
        return "".join(self.choices(SPACES + ["a", ".", "中", "1"], 20))

    def broken(self):
        """Bytes at random, and whole text with bytes changed: what a peer that takes only text is given for them."""
        if self.random.random() < 0.5:
            data = self.random.randbytes(self.random.randint(1, 40))
        else:
            data = bytearray(self.excerpt(self.random.choice([self.english, self.chinese]), 40).encode())
            for _ in range(self.random.randint(1, 3)):
                data[self.random.randrange(len(data))] = self.random.randrange(256)
        return bytes(data).decode("utf-8", errors="replace")

    def any_characters(self):
        return "".join(chr(c) for c in self.choices(self.assigned, 20))

    def one_block(self):
        start = self.random.choice(self.assigned)
        near = [c for c in range(start, min(start + 64, 0x110000)) if not 0xD800 <= c < 0xE000]
        return "".join(chr(self.random.choice(near)) + self.random.choice(["", "", " "])
                       for _ in range(self.random.randint(1, 20)))

    def literal(self):
        text = self.random.choice(self.literals)
        if self.random.random() < 0.3:
            cut = self.random.randint(0, len(text))
            text = text[:cut] if self.random.random() < 0.5 else text[cut:]
        return self.random.choice(["", " ", "  ", "a", "\n"]) + text + self.random.choice(["", " ", "b", "\n", "\t"])

    def repeated(self):
        return self.random.choice(list("a-=_.#* \n\t0é中😀") + ["ab", "\r\n", " a"]) * self.random.randint(1, 120)

    def snippet(self):
        return self.random.choice(CODE)

    def latin(self):
        return "".join(chr(self.random.randint(0x20, 0x24F)) for _ in range(self.random.randint(1, 30)))

    def line(self):
        if self.random.random() < 0.5:
            return self.random.choice(self.kinds)()
        return "".join(self.random.choice(self.kinds)() for _ in range(self.random.randint(2, 5)))

    def long_line(self, length):
        pieces, size = [], 0
        while size < length:
            # Now and then one word without end.
            piece = self.random.choice(["a", "=", " ", "中", "0", "é"]) * 5000 if self.random.random() < 0.02 \
                else self.line()
            pieces.append(piece)
            size += len(piece)
        return "".join(pieces)

    def lines(self, count):
        """`count` lines, of which one in 2,000 has 10,000 characters and more, and three have 200,000."""
        for i in range(count):
            if i in (count // 4, count // 2, count - 1):
                yield self.long_line(200_000)
            elif i % 2000 == 1999:
                yield self.long_line(10_000)
            else:
                yield self.line()
