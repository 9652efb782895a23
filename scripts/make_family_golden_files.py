#!/usr/bin/env python3
"""Makes the golden files of the model families other than Llama with PyTorch and transformers (tests/model/data).

  family_configs.json  random small models of each family, with the keys of config.json that only it has; weights from
                       an integer hash, so that only expectations are stored
  window_configs.json  the same with layers that see a window
  families/NAME/       a small random model of each family with a tokenizer of its kind, as save_pretrained writes
                       them; families.json holds what transformers answers: the figures of make_model_golden_files.py, and
                       for a text the token ids, those that generate() adds, and what they read

Needs: pip install torch transformers tokenizers. Result: the same on every run of the same versions.
"""

import argparse
import json
import random
import shutil

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast,
                          Qwen2Tokenizer)

from make_model_golden_files import (DATA, GREEDY_TOKENS, HEADS, STORY, expectations, fp32_model, hashed_model, write)
from tokenizer_golden_files.training import LLAMA3_PATTERN, train_bpe, train_byte_bpe

GENERATED_TOKENS = 32
LEAST_MARGIN = 0.02  # of a greedy choice that every backend must make alike
POSITIONS = 512

QWEN_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")


# --- What the families have of their own. A key with the value None is written as null. ---


def mistral(rng, index):
    window = [{"sliding_window": None}, {"sliding_window": POSITIONS}, {}, {"sliding_window": None}][index % 4]
    return {"hidden_act": "silu", **window}


def qwen2(rng, index):
    return [
        {"use_sliding_window": False, "sliding_window": 64, "max_window_layers": 1},
        {"use_sliding_window": True, "sliding_window": POSITIONS, "max_window_layers": 1},
        {"use_sliding_window": False, "sliding_window": None, "attention_dropout": 0.0},
        {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 3},  # more than it has
    ][index % 4]


def qwen3(rng, index):
    return {"attention_bias": index % 2 == 1, "use_sliding_window": False, "sliding_window": None, "max_window_layers": 2}


def smollm3(rng, index):
    rotary = [
        {},
        {"no_rope_layer_interval": 2},
        {"no_rope_layers": [rng.randrange(2) for _ in range(6)]},  # more than it has, as transformers allows
        {"no_rope_layers": None, "no_rope_layer_interval": 3, "use_sliding_window": False},
    ][index % 4]
    return {"attention_bias": index % 2 == 1, "mlp_bias": index % 4 > 1, **rotary}


FAMILIES = {
    "mistral": ("MistralForCausalLM", mistral),
    "qwen2": ("Qwen2ForCausalLM", qwen2),
    "qwen3": ("Qwen3ForCausalLM", qwen3),
    "smollm3": ("SmolLM3ForCausalLM", smollm3),
}
# Layers with a window, shorter than the text.
WINDOWS = {
    "mistral": [{"sliding_window": 24}, {"sliding_window": 100}],
    "qwen2": [
        {"use_sliding_window": True, "sliding_window": 17, "max_window_layers": 1},
        {"use_sliding_window": True, "sliding_window": 260, "max_window_layers": 0},
    ],
    "qwen3": [
        {"use_sliding_window": True, "sliding_window": 16, "num_hidden_layers": 3,
         "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
        {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1},
    ],
    "smollm3": [
        {"use_sliding_window": True, "sliding_window": 1},
        {"use_sliding_window": True, "sliding_window": 48, "no_rope_layer_interval": 2},
    ],
}
ROPES = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 2.5},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 64},
]


def random_config(model_type, rng, index):
    """config.json in the form of transformers 5 (even index) or 4."""
    architecture, own_keys = FAMILIES[model_type]
    query_heads, kv_heads = list(HEADS.values())[(index + rng.randrange(2)) % len(HEADS)]
    config = {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": rng.randrange(100, 200),
        "hidden_size": query_heads * 8 * rng.randrange(2, 5),
        "intermediate_size": 8 * rng.randrange(8, 24),
        "num_hidden_layers": rng.randrange(4, 6) if model_type == "smollm3" else rng.randrange(2, 4),
        "num_attention_heads": query_heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": rng.choice([1e-5, 1e-6]),
        "tie_word_embeddings": index % 2 == 0,
        "bos_token_id": None,
        "eos_token_id": rng.choice([2, [2, 5]]),
        "pad_token_id": None,
        **own_keys(rng, index),
    }
    if index % 4 in (1, 2) or model_type == "qwen3" and index % 4 != 3:
        config["head_dim"] = rng.choice([20, 32, 48])  # hidden_size / heads is 16, 24 or 32
    rope = dict(ROPES[index % len(ROPES)])
    theta = rng.choice([10000.0, 1000000.0])
    if index % 2 == 0:
        config["rope_parameters"] = {**rope, **({} if index == 4 else {"rope_theta": theta})}
        config["dtype"] = "float32"
    else:
        config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
        config["torch_dtype"] = "float32"
        if index != 3:  # else the family's own
            config["rope_theta"] = theta
    return config


def answered(name, config, seed_of_weights, prompt):
    hf_config = AutoConfig.for_model(**json.loads(json.dumps(config)), attn_implementation="eager")
    expected = expectations(hashed_model(hf_config, seed_of_weights), prompt, GREEDY_TOKENS, [len(prompt) - 1, -1])
    print(f"{name}: least margin {min(expected['margins']):.4f}, bf16 error {expected['transformers_bfloat16']}", flush=True)
    return {"name": name, "seed": seed_of_weights, "config": config, **expected}


def make_configs(seed, count):
    rng = random.Random(seed)
    cases = []
    for model_type in FAMILIES:
        for index in range(count):
            config = random_config(model_type, rng, index)
            prompt = [rng.randrange(config["vocab_size"]) for _ in range(rng.randrange(20, 80))]
            cases.append(answered(f"{model_type} {index}", config, 100 + len(cases), prompt))
    write(DATA / "family_configs.json", cases)


def make_windows(seed):
    """The second of a family has a text of more than one segment of 256 tokens."""
    rng = random.Random(seed)
    cases = []
    for model_type, all_keys in WINDOWS.items():
        for index, keys in enumerate(all_keys):
            config = {**random_config(model_type, rng, index), **keys}
            prompt = [rng.randrange(config["vocab_size"]) for _ in range(rng.randrange(50, 80) + 250 * index)]
            cases.append(answered(f"{model_type} window {index}", config, 200 + len(cases), prompt))
    write(DATA / "window_configs.json", cases)


# --- Folders ---


def llama_tokenizer():
    vocab, merges = train_bpe(400)
    return LlamaTokenizer(vocab=vocab, merges=merges, add_bos_token=True)


def qwen_tokenizer():
    vocab, merges = train_byte_bpe(380, [], split_by(QWEN_PATTERN))
    return Qwen2Tokenizer(vocab=vocab, merges=merges)


def smollm_tokenizer():
    vocab, merges = train_byte_bpe(380, [], split_by(LLAMA3_PATTERN))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer = split_by(LLAMA3_PATTERN)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>",
                                   pad_token="<|end_of_text|>")


def split_by(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


FOLDERS = {
    "mistral": (llama_tokenizer, {"num_hidden_layers": 2, "head_dim": 24, "sliding_window": None}),
    "qwen2": (qwen_tokenizer, {"num_hidden_layers": 2, "tie_word_embeddings": True}),
    "qwen3": (qwen_tokenizer, {"num_hidden_layers": 2, "head_dim": 24, "tie_word_embeddings": True}),
    "smollm3": (smollm_tokenizer, {"num_hidden_layers": 4}),
}


def random_model(model_type, changes, tokenizer, seed):
    config = AutoConfig.for_model(
        model_type, vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, initializer_range=0.3, **changes)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            parameter.normal_(0.0, 0.3)
        elif name.endswith(("q_norm.weight", "k_norm.weight")):  # made as ones, which would not show whose they are
            parameter.uniform_(0.5, 2.0)
    # Seldom half of a character, whose text could not be compared.
    halves = [i for i in range(len(tokenizer)) if "\ufffd" in tokenizer.decode([i])]
    for matrix in {model.get_input_embeddings().weight, model.get_output_embeddings().weight}:
        matrix[halves] *= 0.1
    return model


def answer(folder, text):
    """What the saved folder says to a text, by transformers' own reading of it."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = fp32_model(folder)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    generated = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=GENERATED_TOKENS)
    new_ids = generated[0, ids.shape[1]:].tolist()
    expected = expectations(model, ids[0].tolist(), GENERATED_TOKENS, [0, ids.shape[1] - 1, -1])
    return {"input": text, "generated": new_ids, "generated_text": tokenizer.decode(new_ids), **expected}


def make_folders(seed):
    text = STORY[:96]
    results = []
    for model_type, (make_tokenizer, changes) in FOLDERS.items():
        folder = DATA / "families" / model_type
        tokenizer = make_tokenizer()
        for attempt in range(seed, seed + 200):
            shutil.rmtree(folder, ignore_errors=True)
            random_model(model_type, changes, tokenizer, attempt).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            result = answer(folder, text)
            sure = min(result["margins"]) >= LEAST_MARGIN
            # A text that ends early, or repeats itself, would show little.
            if sure and len(result["generated"]) == GENERATED_TOKENS and len(set(result["generated"])) > 12 \
                    and "\ufffd" not in result["generated_text"]:
                break
        else:
            raise SystemExit(f"{model_type}: no seed gives sure choices")
        for file in folder.iterdir():
            file.chmod(0o644)
        results.append({"name": model_type, **result})
        print(f"{model_type}: seed {attempt}, least margin {min(result['margins']):.4f}, {result['generated_text']!r}")
    write(DATA / "families.json", results)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", action="store_true", help="make family_configs.json")
    parser.add_argument("--windows", action="store_true", help="make window_configs.json")
    parser.add_argument("--folders", action="store_true", help="make families/ and families.json")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--count", type=int, default=5, help="random configurations of a family")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    if args.configs:
        make_configs(args.seed, args.count)
    if args.windows:
        make_windows(args.seed)
    if args.folders:
        make_folders(args.seed)


if __name__ == "__main__":
    main()
