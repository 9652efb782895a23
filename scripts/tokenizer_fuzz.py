#!/usr/bin/env python3
"""Compares Espalier with the `tokenizers` package on tokenizer files put together at random.

    scripts/tokenizer_fuzz.py [--seconds 60] [--seed 1] [--texts 60] [--espalier build/release/bin/espalier] [--keep FOLDER]

Each file has another combination of normalizer, pre-tokenizer, decoder and added tokens (tokenizer_golden_files/combinations.py).
Texts are encoded by both with special tokens parsed and not; the ids, and as many random ones, are decoded by both. A file that
Espalier refuses must be refused by name. Prints the counts; what differs is kept in FOLDER, and the exit code is 1.
Needs the built client and the package (pip install tokenizers==0.23.3).
"""

import argparse
import collections
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from tokenizer_golden_files import combinations  # noqa: E402
from tokenizer_golden_files.packages import TokenizersPackage  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run_client(client, command, file, lines, *flags):
    """What the client prints for each line; or its error, a string."""
    text = "\n".join(json.dumps(line) for line in lines) + "\n"
    run = subprocess.run([client, command, "--tokenizer", file, "--jsonl", "--json", *flags], input=text, capture_output=True, text=True, check=False)
    if run.returncode < 0:
        raise SystemExit(f"error: the client ended by signal {-run.returncode} on {file}")
    if run.returncode != 0:
        return run.stderr.strip()
    return [json.loads(line) for line in run.stdout.split("\n") if line]


class Fuzzer:
    def __init__(self, options):
        self.options = options
        self.counts = collections.Counter()
        self.refusals = collections.Counter()
        self.kept = pathlib.Path(options.keep or tempfile.mkdtemp(prefix="tokenizer-fuzz-"))
        self.kept.mkdir(parents=True, exist_ok=True)

    def run(self):
        models = combinations.make_models(self.options.seed)
        end = time.monotonic() + self.options.seconds
        seed = self.options.seed
        while time.monotonic() < end:
            self.one_file(seed, models)
            seed += 1

    def one_file(self, seed, models):
        rng = random.Random(seed)
        file = self.kept / "tokenizer.json"
        file.write_text(json.dumps(combinations.document_of(combinations.make_case(rng, models), models)))
        texts = combinations.make_texts(rng, self.options.texts)
        try:
            package = TokenizersPackage(file)
            wanted = {parse: [package.encode(text, True, parse) for text in texts] for parse in (False, True)}
            sequences = [[i for i in ids if i not in package.unprintable] for ids in wanted[True]]
            pool = [i for i in range(package.vocab_size) if i not in package.unprintable]
            sequences += [[rng.choice(pool) for _ in range(rng.randrange(1, 12))] for _ in texts]
            decoded = [package.decode(ids) for ids in sequences]
        except BaseException as error:  # The package panics on some files; its panics are no Exceptions.
            if isinstance(error, KeyboardInterrupt):
                raise
            self.counts["files that the package refuses or fails on"] += 1
            return
        self.counts["files"] += 1
        for parse in (False, True):
            got = run_client(self.options.espalier, "tokenize", file, texts, *(["--parse-special"] if parse else []))
            if isinstance(got, str):
                self.counts["files refused"] += 1
                self.refusals[got.split("tokenizer.json: ")[-1].split(": ", 1)[-1]] += 1
                return
            self.compare(seed, f"ids, special tokens {'' if parse else 'not '}parsed", texts, [line["token_ids"] for line in got], wanted[parse])
        got = run_client(self.options.espalier, "detokenize", file, sequences)
        texts_got = [got] * len(decoded) if isinstance(got, str) else [line["text"] for line in got]
        self.compare(seed, "texts", sequences, texts_got, decoded)

    def compare(self, seed, what, inputs, got, wanted):
        different = [i for i, (a, b) in enumerate(zip(got, wanted)) if a != b]
        self.counts[f"{what} compared"] += len(wanted)
        self.counts[f"{what} that differ"] += len(different)
        if not different:
            return
        self.counts["files that differ"] += 1
        kept = self.kept / f"{seed}.json"
        kept.write_text((self.kept / "tokenizer.json").read_text())
        i = different[0]
        print(f"{kept}: {len(different)} {what} differ, first: {inputs[i]!a}\n  got    {got[i]!a}\n  wanted {wanted[i]!a}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1, help="of the first file; each file has the next [%(default)s]")
    parser.add_argument("--texts", type=int, default=60, help="texts a file [%(default)s]")
    parser.add_argument("--espalier", type=pathlib.Path, default=ROOT / "build/release/bin/espalier")
    parser.add_argument("--keep", help="folder for the files that differ")
    fuzzer = Fuzzer(parser.parse_args())
    fuzzer.run()
    for name, count in sorted(fuzzer.counts.items()):
        print(f"{count:9} {name}")
    for name, count in fuzzer.refusals.most_common():
        print(f"{count:9} refused: {name}")
    return 1 if fuzzer.counts["files that differ"] else 0


if __name__ == "__main__":
    sys.exit(main())
