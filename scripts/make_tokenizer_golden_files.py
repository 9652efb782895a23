#!/usr/bin/env python3
"""Makes what the tokenizer tests compare with, by the sentencepiece and tokenizers packages.

  make_tokenizer_golden_files.py train     trains the small tokenizers of tests/model/tokenizer/data anew (the tokenizers
                                      package breaks ties by chance: golden files have to be made again)
  make_tokenizer_golden_files.py strings   writes data/strings.jsonl: texts of all scripts, the same on every run
  make_tokenizer_golden_files.py golden-files [--only NAME]
                                      writes data/golden_files/NAME.txt for every tokenizer that is there; those of
                                      ESPALIER_SHARED_DIR (Llama 2, Llama 3, TinyStories) need that variable
  make_tokenizer_golden_files.py combinations
                                      writes data/combinations.json: tokenizer files of known models and at random (see
                                      tokenizer_golden_files/combinations.py), texts, and hashes as below for each file and text
  make_tokenizer_golden_files.py show NAME INDEX
                                      prints the text at INDEX (from 0) and its ids, to look into a difference

Made with sentencepiece 0.2.1, tokenizers 0.23.3 and, for folders with a tokenizer_config.json next to a tokenizer.model,
transformers 5.24:  pip install sentencepiece==0.2.1 protobuf tokenizers==0.23.3 transformers==5.24.0

A golden line is "COUNT HASH": number of ids of the text at the start of a sequence, and the low half of a 64-bit FNV-1a hash over the
ids in four modes (start and continuation, each without and with special tokens parsed) and the decoded text. Lines
after "decode" are hashes of the text of pseudo-random ids, which the test draws with the same generator. What the
modes mean is said in model/tokenizer/tokenizer.h:
  continuation: the package with add_dummy_prefix (SentencePiece), Prepend or Metaspace's prefix (tokenizers) off;
  special tokens not parsed: encode_special_tokens of the tokenizers package; sentencepiece itself never parses them,
  so parsing them is written out here.
"""

import argparse
import json
import os
import pathlib
import random
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from tokenizer_golden_files import combinations, training  # noqa: E402
from tokenizer_golden_files.packages import SentencePiecePackage, TokenizersPackage, TransformersFolder  # noqa: E402
from tokenizer_golden_files.texts import DATA, ROOT, make_strings, read_strings  # noqa: E402

MASK = (1 << 64) - 1
DECODE_LINES = 1500
COMBINATION_CASES, COMBINATION_TEXTS, COMBINATION_DECODES = 90, 90, 60


class Hash:
    """FNV-1a over 32-bit words and bytes."""

    def __init__(self):
        self.value = 0xCBF29CE484222325

    def add(self, item):
        self.value = ((self.value ^ item) * 0x100000001B3) & MASK

    def ids(self, ids):
        for item in ids:
            self.add(item)
        self.add(0xFFFFFFFF)

    def text(self, text):
        for byte in text.encode("utf-8"):
            self.add(byte)
        self.add(0xFFFFFFFF)


class SplitMix64:
    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)


def random_ids(index, package, byte_ids):
    """Ids of the decode line `index`: tokens, single bytes and whole characters in bytes."""
    rng = SplitMix64(index)
    ids = []
    for _ in range(1 + rng.next() % 16):
        kind, value = rng.next() % 4, rng.next()
        if kind >= 2 or len(byte_ids) < 256:
            ids.append(value % package.vocab_size)
        elif kind == 1:
            ids.append(byte_ids[value % 256])
        else:
            code_point = value % 0xD000 if value & (1 << 40) else 0x10000 + value % 0x100000
            ids += [byte_ids[b] for b in chr(code_point).encode("utf-8")]
    return [i for i in ids if i not in package.unprintable]


def tokenizer_files():
    files = {name: DATA / name / "tokenizer.json" for name in ("bpe_prepend", "bpe_metaspace", "bpe_partial",
                                                                          "byte_level", "byte_level_gpt2")}
    files.update({name: DATA / name / "tokenizer.model" for name in ("sp_bpe", "sp_unigram")})
    files["demo"] = ROOT / "model/demo/tokenizer.model"
    shared = os.environ.get("ESPALIER_SHARED_DIR")
    if shared:
        files["llama2"] = pathlib.Path(shared) / "tokenizers/llama2/tokenizer.model"
        files["llama3"] = pathlib.Path(shared) / "tokenizers/llama3/tokenizer.json"
        files["tinystories"] = pathlib.Path(shared) / "models/TinyStories-656K/tokenizer.json"
    return {name: file for name, file in files.items() if file.exists()}


def load(file):
    if file.suffix == ".json":
        return TokenizersPackage(file)
    has_config = (file.parent / "tokenizer_config.json").exists()
    return TransformersFolder(file) if has_config else SentencePiecePackage(file)


def make_golden(name, file, strings):
    package = load(file)
    lines = [f"{package.name} {package.version} unprintable"
             + "".join(f" {i}" for i in sorted(package.unprintable))]
    for text in strings:
        digest = Hash()
        modes = [package.encode(text, at_start, parse) for at_start in (True, False) for parse in (False, True)]
        for ids in modes:
            digest.ids(ids)
        digest.text(package.decode([i for i in modes[0] if i not in package.unprintable]))
        lines.append(f"{len(modes[0])} {digest.value & 0xFFFFFFFF:08x}")
    lines.append("decode")
    byte_ids = package.byte_ids()
    for index in range(DECODE_LINES):
        digest = Hash()
        digest.text(package.decode(random_ids(index, package, byte_ids)))
        lines.append(f"{digest.value & 0xFFFFFFFF:08x}")
    (DATA / "golden_files").mkdir(exist_ok=True)
    (DATA / "golden_files" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    print(f"{name}: {len(strings)} texts, {DECODE_LINES} id sequences, {package.name} {package.version}")


def folder_document(tokenizer, files, models):
    """The tokenizer.json of a case, with what transformers would take from the other files of its folder."""
    document = json.loads(json.dumps(combinations.document_of(tokenizer, models)))
    for content, id_ in files.get("added_tokens.json", {}).items():
        document["added_tokens"].append(training.added_token(content, id_, False, normalized=True))
    return document


def combination_golden(name, tokenizer, files, models, texts):
    """A case of data/combinations.json; None where the package fails on it."""
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(folder_document(tokenizer, files, models), file)
            file.flush()
            package = TokenizersPackage(file.name)
        encoded = []
        for text in texts:
            modes = [package.encode(text, at_start, parse) for at_start in (True, False) for parse in (False, True)]
            digest = Hash()
            for ids in modes:
                digest.ids(ids)
            digest.text(package.decode([i for i in modes[0] if i not in package.unprintable]))
            encoded.append(f"{digest.value & 0xFFFFFFFF:08x}")
        decoded = []
        for index in range(COMBINATION_DECODES):
            rng = SplitMix64(index)
            ids = [rng.next() % package.vocab_size for _ in range(1 + rng.next() % 12)]
            digest = Hash()
            digest.text(package.decode([i for i in ids if i not in package.unprintable]))
            decoded.append(f"{digest.value & 0xFFFFFFFF:08x}")
    except BaseException as error:  # Panics of the package are no Exceptions.
        if isinstance(error, KeyboardInterrupt):
            raise
        return None
    return {"name": name, "tokenizer": tokenizer, "files": files, "unprintable": sorted(package.unprintable),
            "texts": " ".join(encoded), "ids": " ".join(decoded)}


def make_combinations():
    models = combinations.make_models(7)
    texts = combinations.make_texts(random.Random(7), COMBINATION_TEXTS)
    cases = [combination_golden(*family, models, texts) for family in combinations.families(models)]
    assert None not in cases
    seed = 0
    while len(cases) < COMBINATION_CASES:
        case = combination_golden(f"seed {seed}", combinations.make_case(random.Random(seed), models), {}, models, texts)
        seed += 1
        # A first word is refused in some places.
        if case is not None and '"first"' not in json.dumps(case["tokenizer"]["pre_tokenizer"]):
            cases.append(case)
    lines = [json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in cases]
    head = json.dumps({"models": models, "text_list": texts}, ensure_ascii=False, separators=(",", ":"))
    (DATA / "combinations.json").write_text(head[:-1] + ',"cases":[\n' + ",\n".join(lines) + "\n]}\n", encoding="utf-8")
    print(f"{len(cases)} files, {len(texts)} texts")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["train", "strings", "golden-files", "combinations", "show"])
    parser.add_argument("args", nargs="*")
    parser.add_argument("--only")
    options = parser.parse_args()
    if options.command == "train":
        training.train_json()
        training.train_byte_level()
        training.train_sentencepiece()
    elif options.command == "strings":
        DATA.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(s, ensure_ascii=False) for s in make_strings()]
        (DATA / "strings.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{len(lines)} texts")
    elif options.command == "combinations":
        make_combinations()
    elif options.command == "golden-files":
        strings = read_strings()
        for name, file in tokenizer_files().items():
            if options.only in (None, name):
                make_golden(name, file, strings)
    else:
        name, index = options.args[0], int(options.args[1])
        package, text = load(tokenizer_files()[name]), read_strings()[int(index)]
        print(json.dumps(text))
        for at_start in (True, False):
            for parse in (False, True):
                ids = package.encode(text, at_start, parse)
                print(f"at_start={at_start} parse_special={parse}", ids, [package.pieces[i] for i in ids])
        print("decoded", json.dumps(package.decode(package.encode(text, True, False))))


if __name__ == "__main__":
    sys.exit(main())
