"""The packages to compare with, in the modes of EncodeOptions (model/tokenizer/tokenizer.h)."""

import json
import pathlib
import re
import shutil
import tempfile


def byte_characters():
    """How a byte-level vocabulary writes each byte: as in model/tokenizer/byte_level.h."""
    kept = [b for b in range(256) if 0x20 < b < 0x7F or 0xA0 < b and b != 0xAD]
    moved = [b for b in range(256) if b not in kept]
    return [chr(b) if b in kept else chr(0x100 + moved.index(b)) for b in range(256)]


def fallback_byte_ids(pieces):
    return [i for i, piece in enumerate(pieces) if re.fullmatch(r"<0x[0-9A-F]{2}>", piece)]


def steps_of(component, name):
    if component is None:
        return []
    return [s for step in component[name] for s in steps_of(step, name)] if component["type"] == "Sequence" else [component]


def continuation_of(document):
    """The tokenizer of text that continues a sequence: nothing is put before it."""
    normalizers = [step for step in steps_of(document["normalizer"], "normalizers") if step["type"] != "Prepend"]
    words = [dict(step) for step in steps_of(document["pre_tokenizer"], "pretokenizers")]
    for step in words:
        if step["type"] == "Metaspace":
            step["prepend_scheme"] = "never"
            step.pop("add_prefix_space", None)
        elif step["type"] == "ByteLevel":
            step["add_prefix_space"] = False
    return dict(document, normalizer={"type": "Sequence", "normalizers": normalizers} if normalizers else None,
                pre_tokenizer={"type": "Sequence", "pretokenizers": words} if words else None)


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
        if "self_test_data" in proto.DESCRIPTOR.fields_by_name:
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
        self.continuation = tokenizers.Tokenizer.from_str(json.dumps(continuation_of(document)))
        # Ids may have holes.
        self.vocab_size = max(self.start.get_vocab().values()) + 1
        self.pieces = [self.start.id_to_token(i) for i in range(self.vocab_size)]
        # Decoding of special tokens that are also normalised is not stable between versions of the package: 0.23 gives
        # their text although special tokens are to be skipped.
        self.byte_level = any(step["type"] == "ByteLevel" for step in steps_of(document["decoder"], "decoders"))
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


class TransformersFolder(SentencePiecePackage):
    """A tokenizer.model next to a tokenizer_config.json: texts are encoded as transformers does it."""

    name = "transformers"

    def __init__(self, file):
        import transformers

        super().__init__(file)
        self.version = transformers.__version__
        with tempfile.TemporaryDirectory() as folder:
            for name in ("tokenizer.model", "tokenizer_config.json"):
                shutil.copy(pathlib.Path(file).parent / name, folder)
            document = json.loads(transformers.AutoTokenizer.from_pretrained(folder).backend_tokenizer.to_str())
            converted = pathlib.Path(folder) / "converted.json"
            converted.write_text(json.dumps(document), encoding="utf-8")
            self.converted = TokenizersPackage(converted)

    def encode(self, text, at_start, parse_special):
        return self.converted.encode(text, at_start, parse_special)
