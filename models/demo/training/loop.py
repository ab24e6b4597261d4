"""The training loop: resumable at any step, its end given by the clock or by held-out loss."""

import copy
import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from .config import ModelShape
from .corpus import LANGUAGES
from .model import DemoModel
from .optimizer import make_optimizers


@dataclass
class TrainingOptions:
    seed: int = 1
    length: int = 256
    # Windows of a language in a step; a micro-batch holds a part of each. Chinese gets most: it has
    # as many tokens as English in the corpora, and is much harder to predict.
    english_windows: int = 4
    chinese_windows: int = 28
    micro_batches: int = 4
    muon_lr: float = 0.02
    embedding_lr: float = 0.005
    scalar_lr: float = 0.003
    warmup_steps: int = 40
    balance_weight: float = 0.01
    z_weight: float = 0.001
    ema_decay: float = 0.99
    checkpoint_seconds: float = 240.0
    validate_seconds: float = 1200.0
    # Validations without a better loss after which training ends.
    patience: int = 3

    def windows_of(self, language: str) -> int:
        return {"en": self.english_windows, "zh": self.chinese_windows}[language]

    @property
    def tokens_per_step(self) -> int:
        return sum(self.windows_of(language) for language in LANGUAGES) * self.length


class WindowSampler:
    """Window `i` of a language is a function of (seed, i): each epoch shifts and shuffles all windows."""

    def __init__(self, stream: np.ndarray, length: int, seed: int):
        self.stream, self.length, self.seed = stream, length, seed
        self.per_epoch = (len(stream) - 1) // length - 1
        self.epoch = -1

    def window(self, index: int) -> np.ndarray:
        epoch, place = divmod(index, self.per_epoch)
        if epoch != self.epoch:
            random = np.random.default_rng((self.seed, self.length, epoch))
            self.epoch, self.shift = epoch, int(random.integers(self.length))
            self.order = random.permutation(self.per_epoch)
        start = self.shift + int(self.order[place]) * self.length
        return self.stream[start : start + self.length + 1].astype(np.int64)


class Trainer:
    def __init__(self, options: TrainingOptions, data_dir: Path, run_dir: Path):
        self.options, self.data_dir, self.run_dir = options, data_dir, run_dir
        run_dir.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(options.seed)
        self.model = DemoModel(ModelShape())
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.model.compile_layers()
        self.optimizers = make_optimizers(self.model, options.muon_lr, options.embedding_lr, options.scalar_lr)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["peak_lr"] = group["lr"]
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.windows_read = {language: 0 for language in LANGUAGES}
        self.tokens_read = {language: 0 for language in LANGUAGES}
        self.best_validation, self.bad_validations = float("inf"), 0
        self.asked_to_stop = False
        self.samplers = {
            language: WindowSampler(np.load(data_dir / f"{language}.train.npy"), options.length, options.seed + i)
            for i, language in enumerate(LANGUAGES)
        }

    def save(self):
        state = {
            "model": self.model.state_dict(), "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step, "tokens": self.tokens, "seconds": self.seconds,
            "windows_read": self.windows_read, "tokens_read": self.tokens_read,
            "best_validation": self.best_validation, "bad_validations": self.bad_validations,
            "options": asdict(self.options),
        }
        # A reader, or a crash half way, sees the old file or the new one.
        torch.save(state, self.run_dir / "checkpoint.tmp")
        os.replace(self.run_dir / "checkpoint.tmp", self.run_dir / "checkpoint.pt")

    def load(self, path: Path):
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"]):
            peaks = [group["peak_lr"] for group in optimizer.param_groups]
            optimizer.load_state_dict(saved)
            for group, peak in zip(optimizer.param_groups, peaks):
                group["peak_lr"] = peak
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]
        self.tokens_read = state["tokens_read"]
        # Another length cuts the text elsewhere, and starts its own epochs.
        if state["options"]["length"] == self.options.length:
            self.windows_read = state["windows_read"]
        self.best_validation, self.bad_validations = state["best_validation"], state["bad_validations"]

    def micro_batches(self):
        """Yields ids [windows, length + 1]; each language has its share in every one."""
        for _ in range(self.options.micro_batches):
            windows = []
            for language in LANGUAGES:
                count = self.options.windows_of(language) // self.options.micro_batches
                first = self.windows_read[language]
                windows += [self.samplers[language].window(index) for index in range(first, first + count)]
                self.windows_read[language] += count
                self.tokens_read[language] += count * self.options.length
            yield torch.from_numpy(np.stack(windows))

    def set_learning_rate(self, rate: float):
        factor = min(1.0, (self.step + 1) / self.options.warmup_steps) * rate
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
        self.optimizers[0].param_groups[0]["momentum"] = 0.85 + 0.1 * min(1.0, self.step / 200)

    def train_step(self, rate: float):
        options, model = self.options, self.model
        self.set_learning_rate(rate)
        tokens = options.tokens_per_step
        sums, loads = np.zeros(3), 0
        for batch in self.micro_batches():
            loss, balance, z, load = model.loss_sum(batch[:, :-1], batch[:, 1:])
            auxiliary = options.balance_weight * balance + options.z_weight * z
            (loss / tokens + auxiliary / options.micro_batches).backward()
            sums += [loss.item() / tokens, balance.item() / options.micro_batches, z.item() / options.micro_batches]
            loads = loads + load
        for optimizer in self.optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)
        self.update_average()
        self.step, self.tokens = self.step + 1, self.tokens + tokens
        smallest = (loads / loads.sum(dim=1, keepdim=True)).min().item()
        return {"loss": sums[0], "balance": sums[1], "z": sums[2], "smallest_share": smallest}

    @torch.no_grad()
    def update_average(self):
        decay = min(self.options.ema_decay, (self.step + 1) / (self.step + 10))
        for average, parameter in zip(self.average.parameters(), self.model.parameters()):
            average.lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def validate(self, max_windows: int = 40):
        """Nats a token on held-out validation works, of the averaged weights, by language."""
        losses = {}
        for language in LANGUAGES:
            stream = np.load(self.data_dir / f"{language}.validation.npy")
            starts = range(0, len(stream) - 513, 512)[:max_windows]
            ids = np.stack([stream[start : start + 513] for start in starts]).astype(np.int64)
            total = sum(
                self.average.loss_sum(part[:, :-1], part[:, 1:])[0].item()
                for part in torch.from_numpy(ids).split(4)
            )
            losses[language] = total / (len(ids) * 512)
        return losses

    def log(self, **fields):
        with open(self.run_dir / "log.jsonl", "a") as file:
            file.write(json.dumps({
                "step": self.step, "tokens": self.tokens, "seconds": round(self.seconds, 1),
                **{key: round(float(value), 5) for key, value in fields.items()},
            }) + "\n")

    def should_stop_early(self, losses) -> bool:
        mean = sum(losses.values()) / len(losses)
        if mean < self.best_validation:
            self.best_validation, self.bad_validations = mean, 0
        else:
            self.bad_validations += 1
        return self.bad_validations >= self.options.patience

    def run(self, minutes: float, rates: tuple[float, float]):
        """Trains for `minutes`; the learning rate goes from one part of its peak to another in a line.

        The schedule follows the clock and not a step count, as the machine is shared and nobody
        knows how many steps fit. SIGTERM ends it after the current step, with a checkpoint.
        """
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "asked_to_stop", True))
        started = saved = validated = time.monotonic()
        base_seconds = self.seconds
        while (left := started + 60 * minutes - time.monotonic()) > 0 and not self.asked_to_stop:
            rate = rates[1] + (rates[0] - rates[1]) * left / (60 * minutes)
            before = time.monotonic()
            figures = self.train_step(rate)
            now = time.monotonic()
            self.seconds = base_seconds + now - started
            self.log(**figures, rate=rate, tokens_per_second=self.options.tokens_per_step / (now - before))
            if now - saved > self.options.checkpoint_seconds:
                self.save()
                saved = now
            if now - validated > self.options.validate_seconds:
                validated = now
                losses = self.validate()
                self.log(**{f"validation_{language}": loss for language, loss in losses.items()})
                if self.should_stop_early(losses):
                    break
        if not self.asked_to_stop:
            losses = self.validate()
            self.log(**{f"validation_{language}": loss for language, loss in losses.items()})
        self.save()
