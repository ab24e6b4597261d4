"""Interpolated modified Kneser-Ney 5-grams (Chen and Goodman, 1998) over any symbols, in numpy.

An n-gram type is a row number in the table of its order; its key is made of the row of its first
n - 1 symbols and its last symbol. Tables are sorted by key, so that looking up is a binary search.
"""

import numpy as np


class KneserNey:
    def __init__(self, train: np.ndarray, symbols: int, order: int = 5):
        self.symbols, self.order = symbols, order
        train = train.astype(np.int64)
        ids, self.keys = [train], [np.arange(symbols)]
        first_seen = [None]
        for _ in range(1, order):
            keys = ids[-1][:-1] * symbols + train[len(train) - len(ids[-1]) + 1 :]
            table, first, rows = np.unique(keys, return_index=True, return_inverse=True)
            self.keys.append(table)
            first_seen.append(first)
            ids.append(rows)
        self.levels = []
        for n in range(1, order + 1):
            if n == order:
                counts = np.bincount(ids[-1], minlength=len(self.keys[-1]))
            else:
                # Lower orders count the distinct symbols that stand before, once per longer type:
                # type t of order n + 1, first seen at i, ends in type ids[n-1][i + 1] of order n.
                counts = np.bincount(ids[n - 1][first_seen[n] + 1], minlength=len(self.keys[n - 1]))
            contexts = self.keys[n - 1] // symbols if n > 1 else np.zeros(symbols, np.int64)
            rows = len(self.keys[n - 2]) if n > 1 else 1
            self.levels.append(self.level(counts, contexts, rows))

    @staticmethod
    def level(counts, contexts, rows):
        """Discounted counts of every type, and of every context the sum and the mass set free."""
        of = [np.count_nonzero(counts == n) for n in range(5)]
        y = of[1] / max(1, of[1] + 2 * of[2])
        discounts = np.array([0.0] + [
            np.clip(n - (n + 1) * y * of[n + 1] / max(1, of[n]), 0.0, n) for n in (1, 2, 3)
        ])[np.minimum(counts, 3)]
        sums = np.bincount(contexts, weights=counts, minlength=rows)
        freed = np.bincount(contexts, weights=discounts, minlength=rows)
        return counts - discounts, sums, freed

    def bits(self, text: np.ndarray) -> float:
        """Bits of the whole text; the first symbols have shorter contexts."""
        text = text.astype(np.int64)
        rows = text
        discounted, sums, freed = self.levels[0]
        probability = discounted[text] / sums[0] + freed[0] / sums[0] / self.symbols
        for n in range(2, self.order + 1):
            contexts = np.concatenate([[-1], rows[:-1]])
            rows = self.find(n, contexts, text)
            discounted, sums, freed = self.levels[n - 1]
            total = np.where(contexts >= 0, sums[contexts], 0.0)
            seen = total > 0
            own = np.where(rows >= 0, discounted[rows], 0.0)
            safe = np.where(seen, total, 1.0)
            higher = own / safe + freed[contexts] / safe * probability
            probability = np.where(seen, higher, probability)
        return float(-np.log2(probability).sum())

    def find(self, n, contexts, last):
        keys, wanted = self.keys[n - 1], contexts * self.symbols + last
        rows = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where((contexts >= 0) & (keys[rows] == wanted), rows, -1)


def token_symbols(train: np.ndarray, test: np.ndarray, vocabulary: int):
    return train, test, vocabulary


def byte_symbols(train: str, test: str):
    as_bytes = [np.frombuffer(text.encode("utf-8"), np.uint8) for text in (train, test)]
    return *as_bytes, 256


def character_symbols(train: str, test: str):
    """Characters that training never saw are spelt in UTF-8 bytes, which are symbols of their own."""
    ids = {character: 256 + i for i, character in enumerate(sorted(set(train)))}

    def encode(text):
        symbols = []
        for character in text:
            known = ids.get(character)
            symbols.extend([known] if known is not None else character.encode("utf-8"))
        return np.asarray(symbols)

    return encode(train), encode(test), 256 + len(ids)
