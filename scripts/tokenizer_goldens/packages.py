"""The packages to compare with, in the modes of EncodeOptions (model/tokenizer/tokenizer.h)."""

import json
import pathlib
import re


def byte_characters():
    """How a byte-level vocabulary writes each byte: as in model/tokenizer/byte_level.h."""
    kept = [b for b in range(256) if 0x20 < b < 0x7F or 0xA0 < b and b != 0xAD]
    moved = [b for b in range(256) if b not in kept]
    return [chr(b) if b in kept else chr(0x100 + moved.index(b)) for b in range(256)]


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
