"""Tokenizer files put together at random: models, normalizers, pre-tokenizers, decoders and added tokens."""

import json
import random

from tokenizer_golden_files.texts import SENTENCES

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
# Of models that are served, or built to be difficult.
PATTERNS = [
    LLAMA3, r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+",
    "[一-龥ࠀ-一가-퟿]+", r"\s+$", r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", r"\p{N}", r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓ]+", r"^\s", r"[^\w\s]", r"\w+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|\s+", r"[^\r\n\p{L}\p{N}]?+\p{L}+", r"\d", r"\p{Lu}", r"(?i:the|is)",
    r".$", r"[aeiou]+(?=\s)", r"\P{L}", r"\S+", r"a|b", r"(\s)+", r"x{2,3}", r"\p{Sc}|\p{Sm}", r"[\p{Lu}\p{Nd}_]+", r"\D\D",
]
LITERALS = [" ", "a", "the", "\n", ". ", "▁", "é", "ing", "  ", "?", "|", "\\", "枝"]
CONTENTS = ["", "▁", " ", "x", "<>", "--", "é", "e\u0301"]
BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
ADDED = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "the", "needle", "Größe", "<a b>", "枝 枝", " x", "ing", "É", "ﬁ", "12"]
ATOMS = [
    " ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u3000", "\u200b", "\u200d", "\x00", "\x1c", "\x85", "the", "The ", "is", "ing ", "list 5 8",
    "12345", "１２", "٣", "½", "²", "Ⅷ", "x", "xxx", "aeiou", "é", "e\u0301", "\u0301", "\u0323\u0301", "\u0301\u0323", "Å", "A\u030a", "ﬁ", "ﷺ", "İ", "ẞ", "ǅ", "Σ", "한국",
    "\u1112\u1161\u11ab", "\u1161", "中文字", "枝 枝", "ไทย", "क्षि", "\u09c7\u09be", "Größe", "É", "…", "!!", "?", ". ", "$€", "+", "_", "'s", "’s", "://", "|", "\\", "▁", "▁▁", "👩‍👩‍👧‍👦",
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "needle", "needles", "<a b>", "<0x41>", "\U0001e030", "\u32ff", "\u0344", "\u0958", "\u1e9b\u0323", "\ufb1d", "\u2126", "\u212b",
]


def byte_level_model(rng):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(corpus(rng), trainers.BpeTrainer(vocab_size=520, initial_alphabet=alphabet, show_progress=False))
    return json.loads(tokenizer.to_str())["model"]


def character_model(rng, byte_fallback):
    """Merges go across spaces, digits and punctuation: what is cut at the wrong place shows."""
    from tokenizers import Tokenizer, models, normalizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=byte_fallback, fuse_unk=byte_fallback))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    special = ["<unk>"] + ([f"<0x{b:02X}>" for b in range(256)] if byte_fallback else [])
    trainer = trainers.BpeTrainer(vocab_size=len(special) + 360, special_tokens=special, limit_alphabet=170, show_progress=False)
    tokenizer.train_from_iterator(corpus(rng), trainer)
    return json.loads(tokenizer.to_str())["model"]


def corpus(rng):
    atoms = [atom for atom in ATOMS if not atom.startswith("<")]  # Those are added tokens.
    lines = SENTENCES * 6 + ["".join(rng.choice(atoms) for _ in range(12)) for _ in range(600)]
    return lines + ["".join(rng.choice(list("the is 12.x\n e\u0301é")) for _ in range(40)) for _ in range(300)]


def make_models(seed):
    rng = random.Random(seed)
    models = {"bytes": byte_level_model(rng), "fallback": character_model(rng, True), "characters": character_model(rng, False)}
    hole = json.loads(json.dumps(models["fallback"]))
    last = max(hole["vocab"], key=hole["vocab"].get)
    hole["vocab"][last] += 3
    models["hole"] = hole
    return models


def pattern(rng):
    return {"Regex": rng.choice(PATTERNS)} if rng.random() < 0.7 else {"String": rng.choice(LITERALS)}


def normalizer_step(rng):
    kind = rng.choice(["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "Prepend", "Replace", "Replace"])
    if kind == "Strip":
        return {"type": kind, "strip_left": rng.random() < 0.5, "strip_right": rng.random() < 0.5}
    if kind == "Prepend":
        return {"type": kind, "prepend": rng.choice(["▁", " ", "x"])}
    if kind == "Replace":
        return {"type": kind, "pattern": pattern(rng), "content": rng.choice(CONTENTS)}
    return {"type": kind}


def metaspace(rng):
    scheme = rng.choice(["always", "first", "never"])
    step = {"type": "Metaspace", "replacement": rng.choice(["▁", "▁", "▁", "_", "x"]), "prepend_scheme": scheme, "split": rng.random() < 0.5}
    if scheme != "first" and rng.random() < 0.2:
        step.update(add_prefix_space=scheme != "never")
    return step


def byte_level(rng):
    return {"type": "ByteLevel", "add_prefix_space": rng.random() < 0.3, "trim_offsets": True, "use_regex": rng.random() < 0.5}


def pre_tokenizer_step(rng):
    kind = rng.choice(["Split", "Split", "Split", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit", "CharDelimiterSplit", "Metaspace", "ByteLevel"])
    if kind == "Split":
        return {"type": kind, "pattern": pattern(rng), "behavior": rng.choice(BEHAVIORS), "invert": rng.random() < 0.25}
    if kind == "Digits":
        return {"type": kind, "individual_digits": rng.random() < 0.5}
    if kind == "Punctuation":
        return {"type": kind, "behavior": rng.choice(BEHAVIORS)}
    if kind == "CharDelimiterSplit":
        return {"type": kind, "delimiter": rng.choice([" ", "e", "▁", "é"])}
    if kind == "Metaspace":
        return metaspace(rng)
    if kind == "ByteLevel":
        return byte_level(rng)
    return {"type": kind}


def sequence(steps, kind, rng):
    if not steps:
        return None
    if len(steps) == 1 and rng.random() < 0.7:
        return steps[0]
    return {"type": "Sequence", kind: steps}


def decoder(rng, model):
    replace = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    fuse, strip = {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": rng.choice([1, 2]), "stop": 0}
    level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": rng.choice(["always", "first", "never"]), "split": True}
    fallback = {"type": "ByteFallback"}
    steps = rng.choice([[replace, fallback, fuse, strip], [replace, fallback, fuse], [fallback], [space], [space, fallback, fuse], [fuse], [strip, fuse],
                        [replace], [level], [level], [strip, level], [{"type": "Replace", "pattern": {"Regex": r"\s?[aeiou]"}, "content": "_"}, fallback], []])
    if model == "bytes" and rng.random() < 0.7:
        steps = [level]
    if not steps:
        return None
    return steps[0] if len(steps) == 1 and rng.random() < 0.5 else {"type": "Sequence", "decoders": steps}


def added_tokens(rng, model):
    vocab = model["vocab"]
    out, next_id = [], len(vocab)
    for content in rng.sample(ADDED, rng.choice([0, 0, 2, 4])):
        known = vocab.get(content)
        # The package numbers these itself: only ids that it would give mean the same to both.
        if known is None and max(vocab.values()) >= len(vocab):
            continue
        special = rng.random() < 0.5
        out.append({"id": known if known is not None else next_id, "content": content, "single_word": rng.random() < 0.2, "lstrip": rng.random() < 0.2,
                    "rstrip": rng.random() < 0.2, "normalized": not special and rng.random() < 0.6, "special": special})
        next_id += known is None
    return sorted(out, key=lambda token: token["id"])


def make_case(rng, models):
    """A tokenizer.json in which "model" is the name of one of `models`."""
    name = rng.choice(sorted(models))
    steps = [pre_tokenizer_step(rng) for _ in range(rng.choice([0, 1, 1, 2, 3, 4]))]
    if name == "bytes" and rng.random() < 0.9:
        steps = [s for s in steps if s["type"] not in ("ByteLevel", "Metaspace")] + [byte_level(rng)]
    elif rng.random() < 0.5:
        steps = [s for s in steps if s["type"] not in ("ByteLevel", "Metaspace")] + [metaspace(rng)]
    normalizers = [normalizer_step(rng) for _ in range(rng.choice([0, 0, 1, 1, 2, 3]))]
    return {"added_tokens": added_tokens(rng, models[name]), "normalizer": sequence(normalizers, "normalizers", rng),
            "pre_tokenizer": sequence(steps, "pretokenizers", rng), "post_processor": None, "decoder": decoder(rng, name), "model": name}


def document_of(case, models):
    return dict({"version": "1.0", "truncation": None, "padding": None}, **dict(case, model=models[case["model"]]))


def make_texts(rng, count):
    texts = []
    for _ in range(count):
        text = "".join(rng.choice(ATOMS) for _ in range(rng.randrange(0, 10)))
        texts.append(rng.choice(SENTENCES)[:40] + text if rng.random() < 0.2 else text)
    return texts


def families(models):
    """Tokenizers as models that are served have them, by what made them known; and what other files of the folder add."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    by_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    mark = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    steps = [mark, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    llama2 = {"type": "Sequence", "decoders": steps}
    first = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}

    def split(regex):
        return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}

    def case(model, words, decoder, normalizer=None, added=()):
        return {"added_tokens": list(added), "normalizer": normalizer, "pre_tokenizer": words, "post_processor": None,
                "decoder": decoder, "model": model}

    def words(*parts):
        return {"type": "Sequence", "pretokenizers": list(parts)}

    size = len(models["fallback"]["vocab"])
    chat = {"<|im_end|>": size, "<|im_start|>": size + 1}
    to_mark = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                                                   {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    return [
        ("Llama 2, old", case("fallback", None, llama2, to_mark), {}),
        ("Llama 2", case("fallback", first, llama2), {}),
        ("Llama 2, legacy", case("fallback", dict(first, prepend_scheme="always"), llama2), {}),
        ("ChatML", case("fallback", first, llama2), {"added_tokens.json": chat}),
        ("Llama 3", case("bytes", words(split(LLAMA3), level), by_level), {}),
        ("SmolLM", case("bytes", words({"type": "Digits", "individual_digits": True}, dict(level, use_regex=True)), by_level), {}),
        ("DeepSeek", case("bytes", words(*[split(p) for p in PATTERNS[2:6]], {"type": "Digits", "individual_digits": True}, level),
                          by_level), {}),
        ("DeepSeek coder", case("bytes", words(*[split(p) for p in (PATTERNS[2], PATTERNS[10], PATTERNS[6], PATTERNS[5])], level),
                                by_level), {}),
        ("DeepSeek V3", case("bytes", words(*[split(p) for p in (PATTERNS[7], PATTERNS[8], PATTERNS[14])], level), by_level), {}),
        ("CausalLM", case("bytes", words(split(LLAMA3.replace("{1,3}", "")), level), by_level, {"type": "NFC"}), {}),
        ("Metaspace both ways", case("fallback", dict(first, split=True), dict(first, split=True)), {}),
        ("no decoder", case("bytes", dict(level, add_prefix_space=True, use_regex=True), None), {}),
    ]
