#!/usr/bin/env python3
"""Makes the demo model: corpora in, a Hugging Face folder out.

    train.py prepare  --corpora DIR --work-dir DIR     tokenizer, held-out split, token streams
    train.py train    --work-dir DIR --minutes 100     goes on from the last checkpoint, if any
    train.py train    --work-dir DIR --run final --start-from main --minutes 60 --rates 1 0
    train.py release  --work-dir DIR --run final       writes the Hugging Face folder beside this file
    train.py evaluate --work-dir DIR                   measures it on the held-out works
    train.py card     --work-dir DIR                   samples from it, fills README.md and the log

Tested with Python 3.11, torch 2.15, transformers 5.24, tokenizers 0.23, safetensors 0.8, numpy 2.4.
"""

import argparse
import shutil
import sys
from pathlib import Path

MODEL_DIR = Path(__file__).resolve().parent
sys.path.insert(0, str(MODEL_DIR))


def prepare(arguments):
    from training.corpus import prepare as prepare_corpora

    prepare_corpora(arguments.corpora, MODEL_DIR, arguments.work_dir / "data", arguments.vocab_size)


def train(arguments):
    import torch

    from training.loop import Trainer, TrainingOptions

    torch.set_num_threads(arguments.threads)
    options = TrainingOptions(
        length=arguments.length,
        english_windows=arguments.english_windows,
        chinese_windows=arguments.chinese_windows,
        micro_batches=arguments.micro_batches,
        balance_weight=arguments.balance_weight,
    )
    run_dir = arguments.work_dir / arguments.run
    trainer = Trainer(options, arguments.work_dir / "data", run_dir)
    if (run_dir / "checkpoint.pt").exists():
        trainer.load(run_dir / "checkpoint.pt")
    elif arguments.start_from:
        trainer.load(arguments.work_dir / arguments.start_from / "checkpoint.pt")
        shutil.copy(arguments.work_dir / arguments.start_from / "log.jsonl", run_dir / "log.jsonl")
    trainer.run(arguments.minutes, arguments.rates)


def release(arguments):
    from training.release import release as write_folder

    write_folder(arguments.work_dir / arguments.run / "checkpoint.pt", MODEL_DIR, arguments.weights)


def evaluate(arguments):
    import torch

    from training.evaluate import write_evaluation

    torch.set_num_threads(arguments.threads)
    write_evaluation(MODEL_DIR, arguments.work_dir / "data", arguments.context, arguments.moed)


def card(arguments):
    import torch

    from training.card import training_log, write_card
    from training.evaluate import samples
    from training.release import write_json

    torch.set_num_threads(arguments.threads)
    samples_path = arguments.work_dir / "samples.json"
    write_json(samples_path, samples(MODEL_DIR, arguments.work_dir / "data", arguments.count, arguments.max_new_tokens))
    write_card(MODEL_DIR, samples_path)
    training_log(arguments.work_dir / arguments.run / "log.jsonl", MODEL_DIR / "training_log.csv")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    def command(function, help_text):
        sub = commands.add_parser(function.__name__, help=help_text)
        sub.set_defaults(function=function)
        sub.add_argument("--work-dir", type=Path, required=True, help="state that is not part of the model")
        return sub

    sub = command(prepare, "train the tokenizer, split the corpora, write token streams")
    sub.add_argument("--corpora", type=Path, required=True, help="holds en_gutenberg/ and zh_classical/")
    sub.add_argument("--vocab-size", type=int, default=4096)

    sub = command(train, "train, or go on training")
    sub.add_argument("--run", default="main", help="name of the run's folder in the work dir")
    sub.add_argument("--start-from", help="run whose checkpoint a new run starts from, for a decay branch")
    sub.add_argument("--minutes", type=float, required=True, help="wall-clock time of this sitting")
    sub.add_argument("--rates", type=float, nargs=2, default=(1.0, 1.0), metavar=("FIRST", "LAST"),
                     help="learning rate at the start and at the end of this sitting, as parts of its peak")
    sub.add_argument("--threads", type=int, default=1)
    sub.add_argument("--length", type=int, default=256, help="tokens a window")
    sub.add_argument("--english-windows", type=int, default=4, help="windows of English a step")
    sub.add_argument("--chinese-windows", type=int, default=28, help="windows of Chinese a step")
    sub.add_argument("--micro-batches", type=int, default=4)
    sub.add_argument("--balance-weight", type=float, default=0.01)

    sub = command(release, "write config, tokenizer settings and BF16 weights")
    sub.add_argument("--run", default="main")
    sub.add_argument("--weights", choices=("model", "average"), default="average",
                     help="the weights as they are, or their average over about the last hundred steps")

    sub = command(evaluate, "bits per byte, expert loads and agreement with transformers, into evaluation.json")
    sub.add_argument("--context", type=int, default=512, help="longest context; a token has at least half of it")
    sub.add_argument("--moed", type=Path, help="the program, to compare its logits too")
    sub.add_argument("--threads", type=int, default=1)

    sub = command(card, "continuations, tables and the training log")
    sub.add_argument("--run", default="main", help="the run whose log is kept")
    sub.add_argument("--count", type=int, default=10)
    sub.add_argument("--max-new-tokens", type=int, default=80)
    sub.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    arguments = parse_arguments()
    arguments.function(arguments)
