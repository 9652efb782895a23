#!/usr/bin/env python3
"""Trains the demo model on one CPU core, on data that it makes itself, and writes a model folder.

    python3 scripts/train_demo_model.py --out model/demo --minutes 60
    python3 scripts/train_demo_model.py --out model/demo --evaluate 300

The first command trains and writes tokenizer, weights, loss curve and model card. The second measures the folder on
unseen problems, picks the example problems and completes the card. Needs torch, sentencepiece, safetensors and
numpy. Interrupted training leaves its last checkpoint in --work: --resume goes on from it, --export writes the folder.
"""

import argparse
import os
import pathlib
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402  (reads the thread count when it is loaded)

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from demo_model import card, evaluate, examples, export, network, tokenizer, training  # noqa: E402


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="model folder")
    parser.add_argument("--work", type=pathlib.Path, default="build/demo_model", help="checkpoint and log")
    parser.add_argument("--minutes", type=float, default=60, help="length of the training (wall clock)")
    parser.add_argument("--max-steps", type=int, default=10**9, help="ends sooner after this many steps")
    parser.add_argument("--rate", type=float, default=5e-3, help="learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint up to --minutes in all")
    parser.add_argument("--export", action="store_true", help="only write the folder from the last checkpoint")
    parser.add_argument("--evaluate", type=int, metavar="N", help="only measure the folder, on N problems a task")
    return parser.parse_args()


def train(args, model):
    encoder = tokenizer.SegmentEncoder(tokenizer.train(args.out / "tokenizer.model"))
    training.train(
        model,
        encoder,
        args.minutes,
        args.seed,
        args.rate,
        args.work / "checkpoint.pt",
        args.work / "loss.csv",
        resumed=args.resume,
        max_steps=args.max_steps,
    )


def write(args, model):
    state = export.load_checkpoint(args.work / "checkpoint.pt", model)
    export.write_folder(args.out, model)
    export.write_curve(args.work / "loss.csv", args.out)
    export.write_json(args.out / "training.json", {"seed": args.seed, **state})
    card.write(args.out, model.config)


def measure(args, model):
    export.load_folder(args.out, model)
    encoder = tokenizer.SegmentEncoder(tokenizer.load(args.out / "tokenizer.model"))
    result = evaluate.run(model, encoder, args.evaluate, args.seed)
    export.write_json(args.out / "evaluation.json", result)
    examples.write(args.out / "examples", model, encoder)
    card.write(args.out, model.config)


def main():
    args = parse_arguments()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    args.work.mkdir(parents=True, exist_ok=True)
    model = network.Llama(network.CONFIG)
    if args.evaluate:
        measure(args, model)
        return
    if not args.export:
        train(args, model)
    write(args, model)


if __name__ == "__main__":
    main()
