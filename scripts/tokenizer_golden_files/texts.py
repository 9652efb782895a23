"""Texts of all scripts, the same on every run."""

import json
import pathlib
import random

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DATA = ROOT / "tests/model/tokenizer/data"

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
