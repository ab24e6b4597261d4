"""Reads the corpora, keeps whole works out of training, trains the tokenizer, writes token streams.

Documents are whole books (English) and single poems, arias or chapters (Chinese). The split is by
*work*: a book, all of a poet's ci, or all arias of a drama. It depends on names only, so that it
is the same wherever it is made.
"""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from .config import END_OF_TEXT, SPECIAL_TOKENS

LANGUAGES = ("en", "zh")
SPLITS = ("train", "validation", "test")

ENGLISH_HELD_OUT = {
    "FIVE CHILDREN AND IT": "validation",
    "BLACK BEAUTY": "test",
    "THE WIND IN THE WILLOWS": "test",
}

# One work in 32 is tested and one in 64 validated, drawn by the hash of its name.
HASH_BUCKETS = 64
BUCKET_SPLIT = {0: "test", 1: "test", 2: "validation"}

# The pre-tokenizer of Qwen2 and Qwen3: single digits, and contractions apart.
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def english_documents(corpora: Path):
    """Yields (work, split, text) for every book."""
    text = (corpora / "en_gutenberg" / "all.txt").read_text(encoding="utf-8")
    for book in text.split("<|book|>\n"):
        title = book.lstrip().split("\n", 1)[0].strip()
        yield title, ENGLISH_HELD_OUT.get(title, "train"), book


def split_of_work(work: str) -> str:
    digest = hashlib.sha256(work.encode("utf-8")).digest()
    return BUCKET_SPLIT.get(int.from_bytes(digest[:4], "big") % HASH_BUCKETS, "train")


def poems(path: Path):
    """Blank lines separate poems; each keeps its final newline."""
    for poem in path.read_text(encoding="utf-8").split("\n\n"):
        if poem.strip():
            yield poem.strip("\n") + "\n"


def heading(poem: str):
    """The title and the author of a first line 《title》author."""
    match = re.match(r"《(.*?)》(.*)", poem)
    return (match.group(1), match.group(2).strip()) if match else ("", "")


def songci_documents(corpora: Path):
    """Ci of the Song: the work is everything by one poet. Anonymous ci are trained on."""
    for poem in poems(corpora / "zh_classical" / "songci_simplified.txt"):
        author = heading(poem)[1]
        named = author and author != "无名氏"
        yield "songci/" + author, split_of_work("songci/" + author) if named else "train", poem


def classics_documents(corpora: Path):
    """Classics and Yuan drama: the work is a drama of at least five arias, 《drama・aria》.

    The rest (the Analects, the Book of Songs, primers, sanqu) is trained on.
    """
    documents = list(poems(corpora / "zh_classical" / "classics_misc_simplified.txt"))
    dramas = [heading(poem)[0].split("・")[0] if "・" in heading(poem)[0] else "" for poem in documents]
    arias = Counter(dramas)
    for drama, poem in zip(dramas, documents):
        # Names of four characters and fewer are tune names (《越调・…》), shared by many works.
        is_drama = len(drama) > 4 and arias[drama] >= 5
        yield "drama/" + drama, split_of_work("drama/" + drama) if is_drama else "train", poem


def documents_of(language: str, corpora: Path):
    if language == "en":
        return list(english_documents(corpora))
    return list(songci_documents(corpora)) + list(classics_documents(corpora))


def original_text(language: str, texts) -> str:
    """The held-out bytes as the corpus has them: the text that bits per byte are counted over."""
    return "\n".join(texts) if language == "zh" else "".join(texts)


def train_tokenizer(english: str, chinese: str, vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN_PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    # Specials are added after training and so get the last ids, as in Qwen's vocabularies.
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        # Long merges would be whole verses of frequent poems.
        max_token_length=24,
        show_progress=False,
    )
    tokenizer.train_from_iterator(english.split("\n") + chinese.split("\n"), trainer)
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    return tokenizer


def encode_stream(tokenizer: Tokenizer, texts) -> np.ndarray:
    """All documents one after another, each ended by <|endoftext|>."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    ids = []
    for encoding in tokenizer.encode_batch(list(texts)):
        ids.extend(encoding.ids)
        ids.append(end)
    return np.asarray(ids, dtype=np.uint16)


def prepare(corpora: Path, model_dir: Path, work_dir: Path, vocab_size: int) -> None:
    """Writes tokenizer.json to `model_dir`; token streams, held-out texts and the split to `work_dir`."""
    work_dir.mkdir(parents=True, exist_ok=True)
    documents = {language: documents_of(language, corpora) for language in LANGUAGES}
    training_text = {
        language: "\n".join(text for _, split, text in documents[language] if split == "train")
        for language in LANGUAGES
    }
    tokenizer = train_tokenizer(training_text["en"], training_text["zh"], vocab_size)
    tokenizer.save(str(model_dir / "tokenizer.json"))
    summary = {}
    for language in LANGUAGES:
        for split in SPLITS:
            chosen = [(work, text) for work, where, text in documents[language] if where == split]
            texts = [text for _, text in chosen]
            stream = encode_stream(tokenizer, texts)
            original = original_text(language, texts).encode("utf-8")
            np.save(work_dir / f"{language}.{split}.npy", stream)
            (work_dir / f"{language}.{split}.txt").write_bytes(original)
            works = dict(Counter(work for work, _ in chosen))
            summary[f"{language}.{split}"] = {
                "bytes": len(original), "tokens": len(stream), "documents": len(texts),
                "works": len(works) if split == "train" else works,
            }
    (work_dir / "split.json").write_text(json.dumps(summary, ensure_ascii=False, indent=1))
    print(json.dumps(summary, ensure_ascii=False))
