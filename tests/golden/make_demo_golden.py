#!/usr/bin/env python3
"""Makes the golden of the model that ships: what transformers computes with models/demo.

    python3 tests/golden/make_demo_golden.py

writes tests/golden/demo/golden.safetensors, in the form that README.md describes, and its entry in manifest.json. To be run
again whenever the weights change. The weights are given, so prompts whose choices hang on the last bits of fp32 are
passed over instead of seeds.
"""

import itertools
import pathlib

import tokenizers
import torch
import transformers
from safetensors.numpy import save_file

from make_golden import GOLDEN, make_expectations, update_manifest

MODEL = pathlib.Path("models/demo")
FOLDER = GOLDEN / "demo"
# Openings of works that the model was not trained on.
ENGLISH = (
    "The first place that I can well remember was a large pleasant meadow with a pond of clear water in it. Some shady "
    "trees leaned over it, and rushes and water-lilies grew at the deep end. Over the hedge on one side we looked into a "
    "plowed field, and on the other we looked over a gate at our master's house, which stood by the roadside.",
    "The Mole had been working very hard all the morning, spring-cleaning his little home. First with brooms, then with "
    "dusters; then on ladders and steps and chairs, with a brush and a pail of whitewash; till he had dust in his throat "
    "and eyes, and splashes of whitewash all over his black fur, and an aching back and weary arms.",
)
CHINESE = (
    "《点绛唇》蔡伸\n水绕孤城，乱山深锁横江路。\n帆归别浦。\n苒苒兰皋暮。\n人在天涯，雁背南云去。\n空凝伫。\n凤楼何处。\n",
    "《苏武慢》蔡伸\n雁落平沙，烟笼寒水，古垒鸣笳声断。\n青山隐隐，败叶萧萧，天际暝鸦零乱。\n楼上黄昏，片帆千里归程，年华将晚。\n",
)
LENGTH = 32
# First tokens to leave off where the whole opening decides too narrowly.
STARTS = range(8)
# Of 16 KB each. An early one, as a row counts in bf16 only while all choices of experts before it agree.
LOGIT_ROWS = ((3, LENGTH - 1), (LENGTH - 1,))


def main():
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    tokenizer = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    for start, english, chinese in itertools.product(STARTS, ENGLISH, CHINESE):
        prompts = [tokenizer.encode(text).ids[start : start + LENGTH] for text in (english, chinese)]
        tensors, margins, summary = make_expectations(MODEL, prompts, LOGIT_ROWS, greedy_prompts=(0, 1))
        if tensors is not None:
            break
        print(f"{english[:20]!r} and {chinese[:8]!r} decide too narrowly: {margins}")
    else:
        raise SystemExit("no pair of prompts decides clearly")
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / "golden.safetensors"
    save_file(tensors, path)
    size = path.stat().st_size
    print(f"{size} bytes, {summary}")
    update_manifest("demo", {"note": "the model that ships, on held-out text of both languages", "bytes": size} | summary)


if __name__ == "__main__":
    main()
