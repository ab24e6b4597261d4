"""Fills the figures, tables and samples of README.md, between markers, from what was measured."""

import csv
import json
import re
from pathlib import Path

from .corpus import LANGUAGES

NAMES = {"en": "English", "zh": "Chinese"}
LOG_COLUMNS = ("step", "tokens", "seconds", "loss", "balance", "smallest_share", "rate", "validation_en", "validation_zh")


def bits_table(languages) -> str:
    baselines = list(languages["en"]["baselines"])
    lines = ["| held out | bytes | **this model** | " + " | ".join(baselines)
             + " | below the byte 5-gram by | below the best 5-gram by |",
             "|---|--:|--:|" + "--:|" * len(baselines) + "--:|--:|"]
    for language in LANGUAGES:
        row = languages[language]
        others = [row["baselines"][name] for name in baselines]
        best = min(row["baselines"][name] for name in baselines if "5-gram" in name)
        gains = " | ".join(f"{100 * (1 - row['bits_per_byte'] / other):.1f}%" for other in (row["baselines"]["byte 5-gram"], best))
        figures = " | ".join(f"{figure:.3f}" for figure in others)
        lines.append(f"| {NAMES[language]} | {row['bytes']:,} | **{row['bits_per_byte']:.3f}** | {figures} | {gains} |")
    return "\n".join(lines)


def load_table(languages) -> str:
    experts = len(languages["en"]["expert_share_by_layer"][0])
    lines = ["| layer | text | " + " | ".join(f"expert {e}" for e in range(experts)) + " |",
             "|--:|---|" + "--:|" * experts]
    for layer in range(len(languages["en"]["expert_share_by_layer"])):
        for language in LANGUAGES:
            shares = languages[language]["expert_share_by_layer"][layer]
            lines.append(f"| {layer} | {NAMES[language]} | " + " | ".join(f"{100 * s:.1f}%" for s in shares) + " |")
    return "\n".join(lines)


def load_summary(languages) -> str:
    """How far the languages' loads lie apart: half the sum of differences, averaged over layers."""
    layers = list(zip(*(languages[language]["expert_share_by_layer"] for language in LANGUAGES)))
    apart = [sum(abs(a - b) for a, b in zip(en, zh)) / 2 for en, zh in layers]
    both = [(a + b) / 2 for en, zh in layers for a, b in zip(en, zh)]
    single = min(share for layer in layers for shares in layer for share in shares)
    return (f"With both languages weighted alike, the least used expert of any layer has {100 * min(both):.1f}% of the "
            f"layer's choices (an equal share is 12.5%) and the busiest {100 * max(both):.1f}%. By layer, "
            + ", ".join(f"{100 * a:.0f}%" for a in apart)
            + " of the choices would have to move to make the loads of the two languages equal. "
            f"The smallest share of an expert within one language is {100 * single:.1f}%.")


def agreement_table(agreement) -> str:
    tokens = agreement["en"]["tokens"]
    rows = {"moed, fp32: worst logit over the largest": ("fp32_worst_logit", "moed", "{:.1e}"),
            "moed, fp32: same most likely token": ("fp32_same_argmax", "moed", f"{{}} of {tokens}"),
            "this trainer, fp32: worst logit over the largest": ("fp32_worst_logit", "trainer", "{:.1e}"),
            "moed, bf16: relative L2 error": ("bf16_relative_error", "moed", "{:.4f}"),
            "transformers, bf16: relative L2 error": ("bf16_relative_error", "transformers", "{:.4f}")}
    lines = ["| against transformers in fp32 | English | Chinese |", "|---|--:|--:|"]
    for title, (figure, who, form) in rows.items():
        if who not in agreement["en"][figure]:
            continue  # evaluated without moed
        figures = (form.format(agreement[language][figure][who]) for language in LANGUAGES)
        lines.append(f"| {title} | " + " | ".join(figures) + " |")
    return "\n".join(lines)


def quote(text: str) -> str:
    return "\n".join("> " + line + "  " for line in text.strip("\n").split("\n"))


def samples_section(samples) -> str:
    parts = []
    for language in LANGUAGES:
        for i, row in enumerate(samples[language], 1):
            parts.append(f"#### {NAMES[language]} {i}\n\nPrompt:\n\n{quote(row['prompt'])}\n\nGreedy:\n\n"
                         f"{quote(row['greedy'])}\n\nSampled:\n\n{quote(row['sampled'])}\n")
    return "\n".join(parts)


def training_log(log: Path, out: Path, rows: int = 200) -> None:
    """A thinned copy of the log: every n-th step, and every validation."""
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    stride = max(1, len(entries) // rows)
    kept = [entry for i, entry in enumerate(entries) if i % stride == 0 or "validation_en" in entry]
    with open(out, "w", newline="") as file:
        writer = csv.DictWriter(file, LOG_COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)


def fill(readme: Path, sections) -> None:
    text = readme.read_text(encoding="utf-8")
    for name, content in sections.items():
        pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        text, count = pattern.subn(lambda match: match.group(1) + content + "\n" + match.group(2), text)
        if count != 1:
            raise SystemExit(f"README.md has {count} sections named {name}")
    readme.write_text(text, encoding="utf-8")


def write_card(model_dir: Path, samples_path: Path) -> None:
    evaluation = json.loads((model_dir / "evaluation.json").read_text())
    languages = evaluation["languages"]
    samples = json.loads(samples_path.read_text())
    fill(model_dir / "README.md", {
        "bits": bits_table(languages),
        "loads": load_table(languages) + "\n\n" + load_summary(languages),
        "agreement": agreement_table(evaluation["logits_against_transformers"]),
        "samples": samples_section(samples),
    })
