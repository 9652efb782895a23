"""The small tokenizers of the tests, trained anew."""

import json
import pathlib
import random
import re
import tempfile

from tokenizer_golden_files.texts import DATA, SENTENCES


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
