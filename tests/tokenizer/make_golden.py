#!/usr/bin/env python3
"""Writes golden/*.jsonl: what Hugging Face's `tokenizers` package makes of small parts of a tokenizer.json, and the
`tiktoken` package of a small vocabulary.

    pip install tokenizers==0.23.* tiktoken==0.14.* && python3 tests/tokenizer/make_golden.py
"""
import base64
import collections
import json
import pathlib

import random

import tiktoken
import tokenizers
from tokenizers import normalizers, pre_tokenizers

FOLDER = pathlib.Path(__file__).parent / "golden"

QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+")

TEXTS = [
    "Hello, world!  It's 12345 o'clock; WE'LL see\u017f... 'ſ'S",
    "a-b--c ---d- -e  fAb cAB",
    " \u00a0\u1680\u180e\u3000x\u0085y\u2028z\u200b \tq\r\n\r\n  end  ",
    "中文字符和English混合١٢٣½²Ⅷ①_x_\u0301e\u0301 ß ſs SS İı",
    "for (int i = 0; i < n; ++i) {\n\t\tsum += a[i];\n\n}\n",
    "😀👩\u200d💻🇩🇪❤\ufe0f👍🏽 Ⓐⓑ🄰",
    "a1b22c333d4444 ▁▁x▁y z",
    "A\nB\n\nab\nb",
]
# Characters of Unicode 15 and 16, of each category.
YOUNG = ("a\U0001fae8\u0897b\u0cf3\u1b4ec\u1c89\u1c8a \u2427\u2ffc\u31efa\ua7dc\U00031350\U0002ebf0\U0002b739d\U0001fadfe"
         "\U00010d40\U0001e4eb\U0001d2c0f\U00010d6e\U00010d8e\U00011f00\U00011f03\U00013460\U00010d50\U00010d70")
# Characters that several scripts share.
SCRIPTS = "漢字、かな。カナー・《々〆〇》𠮷ー゛ｶﾞ"

PATTERNS = [
    QWEN, r"\s+", r"\S+", r"[\S]+", r"\w+", r"[^\w]+", r"[\W]+", r"\d{1,3}", r"\d{1,2}+", r"\h+", r"\H+", r"[\h]+",
    r"\bb?", r"(?<=a)b|(?<!-)-", r"[\w-]+", r"[\s-]+", r"[a-z&&[^c-y]]+", r"[^a-z&&[^c-y]]+", r"[a-c[1-3]]+",
    r"[^a-c[1-3]]+", r"(?m).+", r".+", r"^.", r".$", r"\u4e2d|\x41|\x{301}", r"[[:alpha:]]+", r"[[:^alpha:]-]+", r"[[:punct:]]", r"\p{Lu}\p{Ll}*",
    r"\p{^L}+", r"\P{L}+", r"a(?i)b|C", r"(?i)s's|k", r"\p{Han}+", r"\A.|.\z", r"[]a]", r"x{,2}z|{", r"\v|\t|\/",
    r"(?<word>a)\k<word>?", r"[一-龥぀-ゟ゠-ヿ]+", r"(?#comment)a++b?", r"\p{Letter}+", r"[\p{P}\p{S}]+", r"(?:ab?)+?",
]

BEHAVIORS = ["Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext"]


def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def pre_tokenizer_configs():
    for pattern in PATTERNS:
        yield split({"Regex": pattern})
    for behavior in BEHAVIORS:
        for invert in (False, True):
            yield split({"String": "-"}, behavior, invert)
            yield split({"Regex": r"[ -]|\p{N}"}, behavior, invert)
        yield {"type": "Punctuation", "behavior": behavior}
    for individual in (False, True):
        yield {"type": "Digits", "individual_digits": individual}
    yield {"type": "Whitespace"}
    yield {"type": "WhitespaceSplit"}
    yield {"type": "CharDelimiterSplit", "delimiter": "a"}
    for scheme in ("first", "never", "always"):
        for do_split in (False, True):
            yield {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": do_split}
        yield {"type": "Sequence", "pretokenizers": [
            split({"String": " "}, "MergedWithPrevious"),
            {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": True}]}
    for add_prefix_space in (False, True):
        for use_regex in (False, True):
            yield {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True,
                   "use_regex": use_regex}
    yield {"type": "Sequence", "pretokenizers": [
        {"type": "Punctuation", "behavior": "Contiguous"},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        {"type": "Digits", "individual_digits": False}, split({"Regex": "[0-9][0-9][0-9]"})]}


def pre_tokenizer_rows():
    for config in pre_tokenizer_configs():
        # A part of a tokenizer is made through a whole one.
        whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
                 "pre_tokenizer": config, "post_processor": None, "decoder": None,
                 "model": {"type": "BPE", "vocab": {}, "merges": []}}
        part = tokenizers.Tokenizer.from_str(json.dumps(whole)).pre_tokenizer
        for text in TEXTS:
            yield {"config": config, "text": text, "words": [word for word, _ in part.pre_tokenize_str(text)]}
    for category in ("L", "Lu", "Ll", "Lm", "Lo", "M", "N", "P", "S", "Han"):
        part = pre_tokenizers.Split(tokenizers.Regex(rf"\p{{{category}}}+"), "isolated")
        config = split({"Regex": rf"\p{{{category}}}+"})
        yield {"config": config, "text": YOUNG, "words": [word for word, _ in part.pre_tokenize_str(YOUNG)]}
    for script in ("Han", "Hiragana", "Katakana", "^Han", "Latin", "Common"):
        part = pre_tokenizers.Split(tokenizers.Regex(rf"[\p{{{script}}}]+"), "isolated")
        config = split({"Regex": rf"[\p{{{script}}}]+"})
        yield {"config": config, "text": SCRIPTS, "words": [word for word, _ in part.pre_tokenize_str(SCRIPTS)]}


NORMALIZER_TEXTS = TEXTS + [
    "", " ", "e\u0301\u0327 \u1112\u1161\u11ab 각\u11ab \u212b ﬁ ① ｶﾞ か\u3099 \ufdfa", "\u0301start \u0344 \u1e9b\u0323",
    "\U0001d15e \U0002f800 \u0958 \u2126", "q\u0323\u0307\u0323 d\u0307\u0323", "ΑΣ ΟΔΟΣ ǅ İSTANBUL",
    "  two  spaces  ",
    # Marks and letters that are younger than the tables of the package.
    "a\u1dfa\u0301\u1abf\u0323 e\u0898\u0301 \U00011935\U00011930 \u32ff\ua7f2 \U0001e4ec\u0345\U0001e4ee q\u0345\u07fd",
]


def normalizer_configs():
    for form in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase"):
        yield {"type": form}
    yield {"type": "Prepend", "prepend": "▁"}
    yield {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    yield {"type": "Replace", "pattern": {"Regex": r"\s+|\p{L}(?=\d)"}, "content": "<>"}
    for left in (False, True):
        for right in (False, True):
            yield {"type": "Strip", "strip_left": left, "strip_right": right}
    yield {"type": "Sequence", "normalizers": [
        {"type": "NFKC"}, {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}]},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}


def normalizer_rows():
    for config in normalizer_configs():
        whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": config,
                 "pre_tokenizer": None, "post_processor": None, "decoder": None,
                 "model": {"type": "BPE", "vocab": {}, "merges": []}}
        part = tokenizers.Tokenizer.from_str(json.dumps(whole)).normalizer
        for text in NORMALIZER_TEXTS:
            yield {"config": config, "text": text, "normalized": part.normalize_str(text)}


def added(content, token_id, **flags):
    token = {"id": token_id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": False}
    token.update(flags)
    return token


def small_tokenizer(added_tokens, **parts):
    """Characters a-e, digits, some merges; unknown characters become <unk>."""
    characters = ["<unk>", "▁", " ", "a", "b", "c", "d", "e", "0", "1", "<", ">", "s", "/"]
    merges = [("a", "b"), ("c", "d"), ("ab", "cd"), ("▁", "ab"), ("b", "c"), ("▁", "▁"), ("0", "1"), ("▁▁", "▁▁")]
    vocab = {token: i for i, token in enumerate(characters + [left + right for left, right in merges])}
    model = {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": parts.pop("fuse_unk", False), "byte_fallback": False,
             "ignore_merges": parts.pop("ignore_merges", False), "vocab": vocab,
             "merges": [list(pair) for pair in merges]}
    for token in added_tokens:
        token["id"] = vocab.get(token["content"], len(vocab) + token["id"])
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added_tokens, "normalizer": None,
             "pre_tokenizer": None, "post_processor": None, "decoder": None, "model": model}
    whole.update(parts)
    return whole


def tokenizer_configs():
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
    prepend = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    fused = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    template = {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                           {"SpecialToken": {"id": "</s>", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [22], "tokens": ["<s>"]},
                                   "</s>": {"id": "</s>", "ids": [23], "tokens": ["</s>"]}}}
    flags = [{}, {"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True}, {"single_word": True},
             {"special": True}, {"single_word": True, "lstrip": True}]
    for flag in flags:
        yield small_tokenizer([added("<s>", 0, **flag), added("</s>", 1, special=True), added("<s><s>", 2, **flag)])
    for normalized in (False, True):
        yield small_tokenizer([added("de", 0, normalized=normalized), added("c d", 1, normalized=normalized)],
                              normalizer={"type": "Lowercase"})
    yield small_tokenizer([added("<s>", 0, special=True), added("</s>", 1, special=True)], normalizer=prepend,
                          decoder=fused, post_processor=template, fuse_unk=True)
    yield small_tokenizer([added("<s>", 0, special=True)], pre_tokenizer=metaspace, decoder=metaspace)
    yield small_tokenizer([added("ab", 0, single_word=True)], ignore_merges=True)
    yield small_tokenizer([], fuse_unk=True)
    yield small_tokenizer([added("<s>", 0, rstrip=True), added("  ", 1), added(" ", 2, lstrip=True, rstrip=True)])


TOKENIZER_TEXTS = [
    "", "a", "abcd", " abcd abcd", "ab  ab   cd", "<s>", "<s>ab</s>", "a <s> b", "a  <s>  <s>  b", "<s><s><s>", "x<s>y",
    "a_<s>_b", "é<s>", "中<s> 中文ab", "xyzab  xyz", "DE de dE c d C D", "0101 01a", "▁ab▁▁▁▁cd", "ab<s>cd<s",
    "\t<s>\n", "abab ab", " ", "    ", "</s></s", "bcbcd",
]


def tokenizer_rows():
    for config in tokenizer_configs():
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(config))
        rows = []
        for text in TOKENIZER_TEXTS:
            row = {"text": text}
            for parse_special in (True, False):
                tokenizer.encode_special_tokens = not parse_special
                row["ids" if parse_special else "ids_of_plain_text"] = tokenizer.encode(text).ids
            row["decoded"] = tokenizer.decode(row["ids"], skip_special_tokens=False)
            row["decoded_without_special"] = tokenizer.decode(row["ids"], skip_special_tokens=True)
            rows.append(row)
        yield {"config": config, "rows": rows}


def unigram_configs():
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    words = ["▁", "a", "b", "c", "ab", "bc", "abc", "▁a", "▁ab", "cd", "▁▁", "é", "中", "中文", "\U0001f600"]
    for byte_fallback in (False, True):
        for part in (metaspace, None):
            drawn = random.Random(len(words) + byte_fallback)
            vocab = [["<unk>", 0.0], ["<s>", 0.0]] + [[word, -drawn.randint(1, 80) / 8] for word in words]
            if byte_fallback:
                vocab += [[f"<0x{byte:02X}>", -12.5] for byte in range(256)]
            decoder = metaspace if part else {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                {"type": "Fuse"}]}
            yield {"version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": part,
                   "post_processor": None, "decoder": decoder, "added_tokens": [added("<s>", 0, special=True) | {"id": 1}],
                   "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": byte_fallback, "vocab": vocab}}


UNIGRAM_TEXTS = ["", "abc", "abcd ab abcab", "  a  b", "xyz abc xyz", "é中文中😀", "e\u0301", "<unk>", "<unk>x", "a<s>b",
                 "<0x41>", "zz" * 3 + "ab" * 5, "\n\t", "▁a▁▁b", "dcbadcba"]


def unigram_rows():
    for config in unigram_configs():
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(config))
        rows = []
        for text in UNIGRAM_TEXTS:
            ids = tokenizer.encode(text).ids
            rows.append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False)})
        yield {"config": config, "rows": rows}


KIMI = "|".join([
    r"""[\p{Han}]+""",
    r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"""
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
    r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"""
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
    r"""\p{N}{1,3}""", r""" ?[^\s\p{L}\p{N}]+[\r\n]*""", r"""\s*[\r\n]+""", r"""\s+(?!\S)""", r"""\s+"""])


def train_ranks(text, size):
    """Byte-pair encoding of the whole text, so that there are tokens that no word may hold, too."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    symbols = [bytes([byte]) for byte in text.encode()]
    while len(ranks) < size:
        (left, right), _ = collections.Counter(zip(symbols, symbols[1:])).most_common(1)[0]
        ranks[left + right] = len(ranks)
        merged, i = [], 0
        while i < len(symbols):
            both = symbols[i:i + 2] == [left, right]
            merged.append(left + right if both else symbols[i])
            i += 2 if both else 1
        symbols = merged
    return ranks


def tiktoken_rows():
    ranks = train_ranks(" ".join(TEXTS * 2), 400)
    named = {"[BOS]": 400, "[EOS]": 401, "<|im_end|>": 402}
    special = {next((name for name, i in named.items() if i == token), f"<|reserved_token_{token}|>"): token
               for token in range(400, 656)}
    encoding = tiktoken.Encoding("kimi", pat_str=KIMI, mergeable_ranks=ranks, special_tokens=special)
    config = {"tokenizer_class": "TikTokenTokenizer", "bos_token": "[BOS]", "eos_token": "[EOS]",
              "added_tokens_decoder": {str(token): {"content": name, "special": True} for name, token in named.items()}}
    file = "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())
    yield {"file": file, "config": config}
    for text in TEXTS + [SCRIPTS, "", "[BOS]a[EOS]<|im_end|>", "<|reserved_token_500|><|reserved_token_399|>", "1234567 89",
                         "Ünïcödé's WE'LL 漢字かな交じりATextInCamelCaseABC"]:
        yield {"text": text, "ids": encoding.encode(text, allowed_special="all"),
               "ids_of_plain_text": encoding.encode(text, disallowed_special=())}


def main():
    FOLDER.mkdir(exist_ok=True)
    for name, rows in (("pre_tokenizers", pre_tokenizer_rows()), ("normalizers", normalizer_rows()),
                       ("tokenizers", tokenizer_rows()), ("unigram", unigram_rows()), ("tiktoken", tiktoken_rows())):
        with open(FOLDER / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
