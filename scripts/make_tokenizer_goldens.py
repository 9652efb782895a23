#!/usr/bin/env python3
"""Makes what the tokenizer tests compare with, by the sentencepiece and tokenizers packages.

  make_tokenizer_goldens.py train     trains the small tokenizers of tests/model/tokenizer/data anew (the tokenizers
                                      package breaks ties by chance: goldens have to be made again)
  make_tokenizer_goldens.py strings   writes data/strings.jsonl: texts of all scripts, the same on every run
  make_tokenizer_goldens.py goldens [--only NAME]
                                      writes data/goldens/NAME.txt for every tokenizer that is there; those of
                                      ESPALIER_SHARED_DIR (Llama 2, Llama 3, TinyStories) need that variable
  make_tokenizer_goldens.py show NAME INDEX
                                      prints the text at INDEX (from 0) and its ids, to look into a difference

Made with sentencepiece 0.2.1 and tokenizers 0.23.3:  pip install sentencepiece==0.2.1 protobuf tokenizers==0.23.3

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
import re
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = ROOT / "tests/model/tokenizer/data"
MASK = (1 << 64) - 1
DECODE_LINES = 1500

# ---------------------------------------------------------------------------------------------------------------------
# Texts

SENTENCES = [
    "The gardener ties young branches to a frame so that the tree grows flat against the wall.",
    "One trunk feeds many branches; prune the weak ones early and keep the strong.",
    "Is 3 + 4 * 5 equal to 23? Yes, it is: 4 * 5 = 20, and 20 + 3 = 23.",
    "She said: \"Don't wait for rain, it won't come before 18:45.\"",
    "def add(a, b):\n    return a + b\n\nprint(add(1, 2))\n",
    "Der Gärtner schneidet im März die Äste, über die im Sommer süße Früchte hängen.",
    "L'été dernier, le jardinier a planté des pommiers près du vieux mur, côté sud.",
    "El jardinero poda las ramas débiles; ¿crecerán otra vez en primavera?",
    "Ogrodnik przycina gałęzie, żeby drzewo rosło wzdłuż muru.",
    "Садовник привязывает молодые ветви к решётке, и дерево растёт вдоль стены.",
    "Ο κηπουρός δένει τα κλαδιά στον τοίχο για να μεγαλώσει το δέντρο.",
    "يربط البستاني الأغصان الصغيرة إلى الجدار لكي تنمو الشجرة.",
    "הגנן קושר את הענפים הצעירים אל הקיר כדי שהעץ יגדל שטוח.",
    "माली छोटी शाखाओं को दीवार से बाँधता है ताकि पेड़ सीधा बढ़े।",
    "คนสวนผูกกิ่งไม้อ่อนไว้กับกำแพงเพื่อให้ต้นไม้เติบโต",
    "园丁把嫩枝绑在墙上，让树平平地生长。",
    "庭師は若い枝を壁に結び、木が平らに育つようにします。",
    "정원사는 어린 가지를 벽에 묶어 나무가 납작하게 자라게 한다.",
]

SCRIPTS = {
    "latin": [(0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x17F), (0x1E00, 0x1EFF)],
    "cyrillic": [(0x410, 0x44F), (0x400, 0x40F), (0x460, 0x481)],
    "greek": [(0x391, 0x3A1), (0x3A3, 0x3C9), (0x1F00, 0x1F15)],
    "arabic": [(0x620, 0x64A), (0x64B, 0x652), (0x660, 0x669), (0xFB50, 0xFB60)],
    "hebrew": [(0x5D0, 0x5EA), (0x5B0, 0x5BD)],
    "devanagari": [(0x905, 0x939), (0x93E, 0x94D), (0x966, 0x96F)],
    "bengali": [(0x985, 0x9A8), (0x9BE, 0x9C4)],
    "tamil": [(0xB85, 0xB8A), (0xB92, 0xB95), (0xBBE, 0xBC2)],
    "thai": [(0xE01, 0xE3A), (0xE40, 0xE4E)],
    "georgian": [(0x10D0, 0x10FA)],
    "armenian": [(0x531, 0x556), (0x561, 0x587)],
    "ethiopic": [(0x1200, 0x1248)],
    "tibetan": [(0xF40, 0xF6C), (0xF71, 0xF7E)],
    "khmer": [(0x1780, 0x17B3), (0x17B6, 0x17D3)],
    "cjk": [(0x4E00, 0x9FFF), (0x3000, 0x3011), (0x3400, 0x3500)],
    "kana": [(0x3041, 0x3096), (0x30A1, 0x30FA)],
    "hangul": [(0xAC00, 0xD7A3), (0x1100, 0x1175)],
    "maths": [(0x2200, 0x22FF), (0x1D400, 0x1D4FF), (0x2070, 0x209C)],
    "symbols": [(0x2190, 0x21FF), (0x2500, 0x259F), (0x2600, 0x26FF), (0x20A0, 0x20BF)],
    "private": [(0xE000, 0xE0FF), (0xF0000, 0xF00FF), (0x10FF00, 0x10FFFD)],
    "planes": [(0x10000, 0x100FF), (0x12000, 0x120FF), (0x20000, 0x200FF), (0x2F800, 0x2F8FF)],
    "fullwidth": [(0xFF01, 0xFF5E), (0xFF61, 0xFF9F)],
}
EMOJI = ["😀", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "👩🏿‍🚀", "🇩🇪", "🇯🇵", "1️⃣", "❤️‍🔥", "🧑‍🤝‍🧑", "☕", "🫠", "\U0001faf1\U0001f3fb"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u200b", "\u2028", "\u3000", "\u0085", "\u1680"]
MARKS = ["\u0301", "\u0308", "\u0327", "\u20dd", "\u0489", "\u200d", "\u200e", "\u202e", "\ufe0f", "\ufeff", "\u2060"]
SPECIALS = ["<s>", "</s>", "<unk>", "<pad>", "<|turn|>", "[TREE]", "needle", "<|start_story|>", "<|end_story|>", "<0x0A>",
            "<0xFF>", "<0x41>", "[INST]", "<s", "s>", "<<s>>", "</s></s>", "<mask>", "▁", "▁▁", " ▁ ", "<|im_end|>", "<sep>",
            "▁needle", "<answer>", "\u2047", " \u2047 "]


def make_strings():
    rng = random.Random(20240607)
    out = [""]
    out += SENTENCES
    out += SPACES + MARKS + EMOJI + SPECIALS
    out += [chr(c) for c in range(0x00, 0x180)]
    out += ["a" + chr(c) + "b" for c in range(0x00, 0x21)] + ["a" + chr(c) + "b" for c in range(0x7F, 0xA1)]
    out += ["\ufeffHello", "a\ufeffb", "\u0000", "a\u0000b\u0000", "\uffff", "\ufffe", "\ufffd", "\U0010ffff", "\ud7ff\ue000"]

    def char(name):
        low, high = rng.choice(SCRIPTS[name])
        return chr(rng.randint(low, high))

    def word(name):
        return "".join(char(name) for _ in range(rng.randint(1, 6)))

    for name in SCRIPTS:
        for _ in range(22):
            out.append(rng.choice(["", "", " "]) + " ".join(word(name) for _ in range(rng.randint(1, 5))))
    words = [w for s in SENTENCES for w in s.split(" ")]
    for _ in range(500):  # Words as they are met, oddly spaced.
        parts = []
        for _ in range(rng.randint(1, 8)):
            parts.append(rng.choice(words))
            parts.append(rng.choice([" ", " ", " ", "", "  ", "\n", rng.choice(SPACES)]))
        out.append("".join(parts))
    for _ in range(300):  # Prefixes of sentences: every way for a word to be cut.
        sentence = rng.choice(SENTENCES)
        begin = rng.randrange(len(sentence))
        out.append(sentence[begin : begin + rng.randint(1, 30)])
    for _ in range(300):  # Special tokens and look-alikes within text.
        parts = []
        for _ in range(rng.randint(1, 4)):
            parts.append(rng.choice([rng.choice(words), rng.choice(SPACES), "", word("latin"), rng.choice(EMOJI)]))
            parts.append(rng.choice(SPECIALS))
        out.append("".join(parts) + rng.choice(["", " ", "x", " end"]))
    for _ in range(200):  # Everything mixed.
        parts = [rng.choice([word(rng.choice(list(SCRIPTS))), rng.choice(EMOJI), rng.choice(SPACES), rng.choice(MARKS),
                             str(rng.randrange(10**9)), rng.choice(words), chr(rng.randrange(0x20))])
                 for _ in range(rng.randint(2, 9))]
        out.append("".join(parts))
    for _ in range(100):  # Any scalar value at all.
        out.append("".join(chr(c) for c in (rng.randrange(0x110000) for _ in range(rng.randint(1, 8)))
                           if not 0xD800 <= c < 0xE000))
    for _ in range(150):  # Few different letters: many equal merges that overlap.
        alphabet = rng.choice(["ab", "aab ", "e ", "the ", "nn n", " .", "01", "\n ", "in", "▁ "])
        out.append("".join(rng.choice(alphabet) for _ in range(rng.randint(2, 60))))
    for _ in range(100):
        out.append(rng.choice(["", "x", " "]) + "".join(rng.choice(["1", "23", "007", ".", ",", " ", "-", "%", "e9"])
                                                          for _ in range(rng.randint(1, 20))))
    for n in (2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33, 64, 100, 1000):  # [text, times]: kept short in the file.
        for unit in (" ", "\n", "\t", "a", "0", "1234567890", "ab ", "▁", "é", "你", "😀", "\u0301", "</s>", " the", "\u0000"):
            out.append([unit, n])
    out.append([" ".join(SENTENCES) + " ", 40])
    out.append(["".join(SENTENCES), 30])
    return out


def read_strings():
    strings = []
    for line in (DATA / "strings.jsonl").read_text(encoding="utf-8").split("\n"):
        if line:
            entry = json.loads(line)
            strings.append(entry if isinstance(entry, str) else entry[0] * entry[1])
    return strings


# ---------------------------------------------------------------------------------------------------------------------
# The small tokenizers of the tests


def corpus():
    rng = random.Random(7)
    words = " ".join(SENTENCES).split()
    lines = list(SENTENCES) * 20
    lines += [" ".join(rng.choice(words) for _ in range(12)) for _ in range(600)]
    lines += [f"{rng.randrange(1000)} + {rng.randrange(1000)} = {rng.randrange(2000)}" for _ in range(200)]
    return lines


def added_token(content, id_, special, normalized=False, lstrip=False, rstrip=False):
    return {"id": id_, "content": content, "single_word": False, "lstrip": lstrip, "rstrip": rstrip,
            "normalized": normalized, "special": special}


def train_bpe(vocab_size):
    """Vocabulary and merges over text whose spaces read "▁"."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    byte_tokens = [f"<0x{b:02X}>" for b in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=["<unk>", "<s>", "</s>"] + byte_tokens,
                                  limit_alphabet=120, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(m) for m in model["merges"]]


def decoder_steps():
    return {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}


def template(bos):
    return {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {bos: {"id": bos, "ids": [1], "tokens": [bos]}}}


def bpe_model(vocab, merges, **options):
    model = {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False}
    model.update(options)
    model["vocab"] = vocab
    model["merges"] = merges
    return model


def write_json(name, document):
    folder = DATA / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n",
                                           encoding="utf-8")


def train_json():
    vocab, merges = train_bpe(1000)
    n = len(vocab)
    base = [added_token("<unk>", 0, True), added_token("<s>", 1, True), added_token("</s>", 2, True)]

    # As Llama 2's: the prefix by a normaliser, no pre-tokeniser, merges as pairs. Added tokens of every kind.
    write_json("bpe_prepend", {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": base + [added_token("<|turn|>", n, True, rstrip=True), added_token("[TREE]", n + 1, False, lstrip=True),
                                added_token("needle", n + 2, False, normalized=True)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None, "post_processor": template("<s>"), "decoder": decoder_steps(),
        "model": bpe_model(vocab, [list(m) for m in merges])})

    # As newer Llama-style files: Metaspace, merges as strings.
    small_vocab, small_merges = train_bpe(520)
    write_json("bpe_metaspace", {
        "version": "1.0", "truncation": {"max_length": 8, "stride": 0, "strategy": "LongestFirst", "direction": "Right"},
        "padding": None, "added_tokens": base + [added_token("[INST]", len(small_vocab), True, normalized=True)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True},
        "post_processor": template("<s>"), "decoder": decoder_steps(),
        "model": bpe_model(small_vocab, [" ".join(m) for m in small_merges])})

    # Byte tokens are missing, unknown characters are not fused, words of the vocabulary skip the merges.
    kept = [t for t in small_vocab if not re.fullmatch(r"<0x([0-79A-F]1|E2|F0)>", t)]
    kept = {token: i for i, token in enumerate(kept)}
    write_json("bpe_partial", {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": base, "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False},
        "post_processor": None, "decoder": decoder_steps(),
        "model": bpe_model(kept, [list(m) for m in small_merges[::2] if "".join(m) in kept and m[0] in kept and m[1] in kept],
                           fuse_unk=False, ignore_merges=True)})


LLAMA3_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
                  r"|\s+(?!\S)|\s+")


def byte_characters():
    """How a byte-level vocabulary writes each byte: as in model/tokenizer/byte_level.h."""
    kept = [b for b in range(256) if 0x20 < b < 0x7F or 0xA0 < b and b != 0xAD]
    moved = [b for b in range(256) if b not in kept]
    return [chr(b) if b in kept else chr(0x100 + moved.index(b)) for b in range(256)]


def train_byte_bpe(vocab_size, specials, pre_tokenizer):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=specials, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(corpus(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(m) for m in model["merges"]]


def train_byte_level():
    from tokenizers import Regex, pre_tokenizers

    # As Llama 3's: its pattern, merges as strings. Some words of the vocabulary no merges lead to.
    split = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated"),
                                     pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    vocab, merges = train_byte_bpe(1400, [], split)
    for word in ("ĠSpringkraut", "Ġcrecer", "Ġ123", "ĠĠĠĠĠĠĠ", "espalier", "Ġab", "Ġdela", "Ġne"):
        vocab.setdefault(word, len(vocab))
    n = len(vocab)
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    bos = template("<s>")
    bos["special_tokens"]["<s>"]["ids"] = [n]
    write_json("byte_level", {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [added_token("<s>", n, True), added_token("</s>", n + 1, True), added_token("<|turn|>", n + 2, True, rstrip=True),
                         added_token("[TREE]", n + 3, False, lstrip=True), added_token("needle", n + 4, False, normalized=True),
                         added_token("Größe", n + 5, False), added_token("枝 枝", n + 6, False)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": LLAMA3_PATTERN}, "behavior": "Isolated", "invert": False},
            dict(byte_level, add_prefix_space=False, use_regex=False)]},
        "post_processor": {"type": "Sequence", "processors": [dict(byte_level, trim_offsets=False), bos]},
        "decoder": byte_level,
        "model": bpe_model(vocab, [" ".join(m) for m in merges], unk_token=None, fuse_unk=False, byte_fallback=False,
                           ignore_merges=True)})

    # As GPT-2's: ByteLevel's own pattern, merges as pairs, a special token inside the vocabulary. No beginning of sequence.
    vocab, merges = train_byte_bpe(700, ["<|endoftext|>"], pre_tokenizers.ByteLevel(add_prefix_space=False))
    plain = dict(byte_level, add_prefix_space=False)
    write_json("byte_level_gpt2", {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [added_token("<|endoftext|>", 0, True)],
        "normalizer": None, "pre_tokenizer": plain, "post_processor": byte_level, "decoder": byte_level,
        "model": bpe_model(vocab, [list(m) for m in merges], unk_token=None, fuse_unk=False, byte_fallback=False)})


def train_sentencepiece():
    import sentencepiece

    with tempfile.TemporaryDirectory() as temp:
        text = pathlib.Path(temp) / "corpus.txt"
        text.write_text("\n".join(line.replace("\n", " ") for line in corpus()), encoding="utf-8")
        rules = pathlib.Path(temp) / "rules.tsv"
        # Source and target code points: A -> a, fi ligature -> fi, full-width A -> A, tab -> space, soft hyphen -> nothing.
        rules.write_text("41\t61\nFB01\t66 69\nFF21\t41\n9\t20\nAD\t\n41 42\t78\n", encoding="utf-8")
        common = dict(input=str(text), character_coverage=0.98, num_threads=1, minloglevel=2)
        variants = {
            "sp_bpe": dict(model_type="bpe", vocab_size=700, byte_fallback=True, normalization_rule_name="identity",
                           remove_extra_whitespaces=False, control_symbols=["<|turn|>"],
                           user_defined_symbols=["[TREE]", "needle"], split_digits=True, allow_whitespace_only_pieces=True),
            "sp_unigram": dict(model_type="unigram", vocab_size=320, normalization_rule_tsv=str(rules),
                               hard_vocab_limit=False, self_test_sample_size=5, user_defined_symbols=["<sep>"]),
        }
        for name, options in variants.items():
            folder = DATA / name
            folder.mkdir(parents=True, exist_ok=True)
            prefix = str(pathlib.Path(temp) / name)
            sentencepiece.SentencePieceTrainer.train(model_prefix=prefix, **common, **options)
            model = pathlib.Path(prefix + ".model").read_bytes()
            (folder / "tokenizer.model").write_bytes(model.replace(temp.encode(), b"." * len(temp)))


# ---------------------------------------------------------------------------------------------------------------------
# The packages, in the modes of EncodeOptions


def fallback_byte_ids(pieces):
    return [i for i, piece in enumerate(pieces) if re.fullmatch(r"<0x[0-9A-F]{2}>", piece)]


class SentencePiecePackage:
    name = "sentencepiece"

    def __init__(self, file):
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2

        self.version = sentencepiece.__version__
        self.start = sentencepiece.SentencePieceProcessor(model_file=str(file))
        proto = sentencepiece_model_pb2.ModelProto()
        proto.ParseFromString(pathlib.Path(file).read_bytes())
        proto.normalizer_spec.add_dummy_prefix = False
        proto.ClearField("self_test_data")
        self.continuation = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        self.vocab_size = self.start.get_piece_size()
        self.pieces = [self.start.id_to_piece(i) for i in range(self.vocab_size)]
        self.special = {i for i in range(self.vocab_size) if self.start.is_control(i) or self.start.is_unknown(i)}
        by_length = sorted((self.pieces[i] for i in self.special), key=len, reverse=True)
        self.special_pattern = re.compile("|".join(re.escape(p) for p in by_length))
        self.unprintable = set()

    def byte_ids(self):
        return fallback_byte_ids(self.pieces)

    def encode(self, text, at_start, parse_special):
        ids, prefix, done = [], at_start, 0
        matches = list(self.special_pattern.finditer(text)) if parse_special else []
        for match in matches + [None]:
            section = text[done : match.start()] if match else text[done:]
            if section:
                ids += (self.start if prefix else self.continuation).encode(section)
                prefix = False
            if match:
                ids.append(self.pieces.index(match.group()))
                done = match.end()
        return ids

    def decode(self, ids):
        return self.start.decode(ids)


class TokenizersPackage:
    name = "tokenizers"

    def __init__(self, file):
        import tokenizers

        self.version = tokenizers.__version__
        document = json.loads(pathlib.Path(file).read_text(encoding="utf-8"))
        document["truncation"] = document["padding"] = None
        self.start = tokenizers.Tokenizer.from_str(json.dumps(document))
        normalizer = document["normalizer"]
        if normalizer is not None:
            steps = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
            document["normalizer"] = {"type": "Sequence", "normalizers": [s for s in steps if s["type"] != "Prepend"]}
        if document["pre_tokenizer"] is not None and document["pre_tokenizer"]["type"] == "Metaspace":
            document["pre_tokenizer"]["prepend_scheme"] = "never"
        self.continuation = tokenizers.Tokenizer.from_str(json.dumps(document))
        self.vocab_size = self.start.get_vocab_size()
        self.pieces = [self.start.id_to_token(i) for i in range(self.vocab_size)]
        # Decoding of special tokens that are also normalised is not stable between versions of the package: 0.23 gives
        # their text although special tokens are to be skipped.
        self.byte_level = document["decoder"]["type"] == "ByteLevel"
        self.unprintable = {t["id"] for t in document["added_tokens"] if t["special"] and t["normalized"]}

    def byte_ids(self):
        if not self.byte_level:
            return fallback_byte_ids(self.pieces)
        return [self.pieces.index(character) for character in byte_characters()]

    def encode(self, text, at_start, parse_special):
        tokenizer = self.start if at_start else self.continuation
        tokenizer.encode_special_tokens = not parse_special
        return tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids):
        return self.start.decode(ids, skip_special_tokens=True)


# ---------------------------------------------------------------------------------------------------------------------
# Goldens


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
    return TokenizersPackage(file) if file.suffix == ".json" else SentencePiecePackage(file)


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
    (DATA / "goldens").mkdir(exist_ok=True)
    (DATA / "goldens" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    print(f"{name}: {len(strings)} texts, {DECODE_LINES} id sequences, {package.name} {package.version}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["train", "strings", "goldens", "show"])
    parser.add_argument("args", nargs="*")
    parser.add_argument("--only")
    options = parser.parse_args()
    if options.command == "train":
        train_json()
        train_byte_level()
        train_sentencepiece()
    elif options.command == "strings":
        DATA.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(s, ensure_ascii=False) for s in make_strings()]
        (DATA / "strings.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{len(lines)} texts")
    elif options.command == "goldens":
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
