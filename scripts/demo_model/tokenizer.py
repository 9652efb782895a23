"""SentencePiece tokenizer of the demo model: one piece for each word and number of the tasks."""

import io
import itertools
import re

import sentencepiece as spm

from . import tasks

BOS, EOS = 1, 2
WORDS = "numbers target left ok bad coins price take need list gives".split()
SIGNS = ["+", "-", "*", "/", "=", ":"]
VOCAB_SIZE = 640
_WORD = re.compile(r"\n| ?[^ \n]+")


def _corpus():
    """Each piece wanted, often enough to be merged, once after a space and once at the start of a line."""
    numbers = [str(n) for n in range(tasks.NUMBER_MAX + 1)]
    spaced = " ".join(WORDS + numbers + SIGNS)
    bare = "".join(f"\n{w}" for w in ["numbers", "coins", "take", "list"] + numbers)
    printable = "".join(chr(c) for c in range(33, 127))
    return itertools.chain([spaced, bare] * 50, [" ".join(printable)])


def train(path):
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=_corpus(),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCAB_SIZE,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        split_by_unicode_script=False,
        split_by_number=False,
        user_defined_symbols=["\n"],
        unk_id=0,
        bos_id=BOS,
        eos_id=EOS,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())
    return load(path)


def load(path):
    return spm.SentencePieceProcessor(model_file=str(path))


class SegmentEncoder:
    """Encodes texts as a tree server does: the dummy prefix and the beginning token only at the root."""

    def __init__(self, processor):
        self.processor = processor
        self._words = {}

    def root(self, text):
        return [BOS] + self.processor.encode(text)

    def inner(self, text):
        """Tokens of a text below the root: no dummy prefix (cut off behind a leading line break)."""
        return self.processor.encode("\n" + text)[2:]

    def words(self, text):
        """inner() of a text made of the task's words only: word by word, remembered."""
        ids = []
        for word in _WORD.findall(text):
            known = self._words.get(word)
            if known is None:
                known = self._words[word] = self.inner(word)
            ids += known
        return ids
