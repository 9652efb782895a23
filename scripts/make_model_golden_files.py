#!/usr/bin/env python3
"""Makes the golden files of the model tests with PyTorch and transformers (tests/model/data).

  configs.json   random small Llamas that cover every pair of {heads} x {tied} x {rope} x {bias} x {head_dim};
                 weights from an integer hash, so that only expectations are stored
  folders/       tiny models as save_pretrained writes them: float32, bfloat16, float16, sharded, and with a
                 config.json in the form of transformers 4; folders.json holds what they answer
  odd_heads.json the same as configs.json for heads of widths that no vector divides
  found_folders/ the same as folders/ for folders as they are found: a LlamaModel without its wrapper, biases that
                 config.json describes and the files lack, tensors that belong to no part, rope type dynamic
  NAME.json      --folder NAME=PATH: the same for any model folder that is not stored here

Every case holds: prompt, greedy continuation with the margin of each choice (logit of the best token less that of the
second), whole rows of fp32 logits at some positions, the fp32 log-probabilities of the text under teacher forcing,
and the error of transformers' own bfloat16 in these log-probabilities.

Needs: pip install torch transformers sentencepiece. Result: the same on every run of the same versions.
"""

import argparse
import itertools
import json
import pathlib
import random

import numpy as np
import sentencepiece
from safetensors.torch import load_file, save_file
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
import transformers

DATA = pathlib.Path(__file__).resolve().parent.parent / "tests" / "model" / "data"
GREEDY_TOKENS = 48

HEADS = {"mha": (4, 4), "gqa4": (8, 2), "gqa3": (6, 2), "mqa": (5, 1)}
FACTORS = {
    "heads": list(HEADS),
    "tied": [False, True],
    "rope": ["default", "linear", "llama3"],
    "bias": [False, True],
    "head_dim": [32, 64, 80, 128],
}

STORY = (
    "Once upon a time, there was a little girl named Lily. She had a red ball and a small dog named Max. "
    "One day, Lily and Max went to the park to play. The sun was bright and the sky was blue. Lily threw the ball "
    "very far, and Max ran after it. But the ball fell into a deep hole. Max looked into the hole and barked. Lily was "
    "sad. She said, \"Oh no! My ball is gone. What can we do?\" A kind old man heard her and came to help. He had "
    "a long stick. He put the stick into the hole and pushed the ball out. Lily smiled and said, \"Thank you!\" The man "
    "said, \"You are welcome. Be careful next time.\" Lily gave Max a big hug and they went home. That night, she told her "
    "mom about the ball and the kind man. Her mom was happy that Lily had said thank you."
)


# --- Weights: model/hashed_weights.h states the same rule. ---

GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1


def tensor_key(name, seed):
    key = 0xCBF29CE484222325
    for byte in name.encode():
        key = ((key ^ byte) * 0x100000001B3) & MASK
    return (key + seed * GOLDEN) & MASK


def hashed_tensor(name, shape, seed):
    count = int(np.prod(shape))
    with np.errstate(over="ignore"):
        z = np.uint64(tensor_key(name, seed)) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    level = (z >> np.uint64(57)).astype(np.float64)
    if "norm" in name:
        values = 0.75 + (z >> np.uint64(58)).astype(np.float64) / 128
    elif name.endswith(".bias"):
        values = (2 * level - 127) / 512
    else:
        power = 0
        while 4**power < shape[-1]:
            power += 1
        values = (2 * level - 127) / 64 / 2**power
        if name == "lm_head.weight":
            values = values * 4
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def hashed_model(config, seed):
    model = AutoModelForCausalLM.from_config(config)
    model.eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(hashed_tensor(name, tuple(parameter.shape), seed))
    return model


# --- Expectations ---


@torch.no_grad()
def text_logprobs(model, text):
    logits = model(torch.tensor([text])).logits[0].float()
    rows = torch.log_softmax(logits.double(), dim=-1)
    return rows[torch.arange(len(text) - 1), torch.tensor(text[1:])]


def number(value, digits=9):
    return float(f"{float(value):.{digits}g}")


@torch.no_grad()
def expectations(model, prompt, greedy_tokens, logit_positions, text=None):
    """`model` is fp32; it is left in bfloat16."""
    ids, margins = list(prompt), []
    for _ in range(greedy_tokens):
        best = torch.topk(model(torch.tensor([ids])).logits[0, -1], 2)
        margins.append(number(best.values[0] - best.values[1], 4))
        ids.append(int(best.indices[0]))
    rows = model(torch.tensor([ids])).logits[0]
    text = ids if text is None else text
    exact = text_logprobs(model, text)
    error = (text_logprobs(model.to(torch.bfloat16), text) - exact).abs()
    return {
        "prompt": list(prompt),
        "greedy": ids[len(prompt):],
        "margins": margins,
        "logits": [
            {"position": p, "values": [number(v) for v in rows[p]]} for p in (x % len(ids) for x in logit_positions)
        ],
        "text": text,
        "logprobs": [number(v, 8) for v in exact],
        "transformers_bfloat16": {"mean_error": number(error.mean(), 4), "max_error": number(error.max(), 4)},
    }


def fp32_model(path):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()


# --- Random configurations ---


def covers_all_pairs(cases):
    for (a, values_a), (b, values_b) in itertools.combinations(FACTORS.items(), 2):
        if {(case[a], case[b]) for case in cases} != set(itertools.product(values_a, values_b)):
            return False
    return True


def pairwise_cases(rng, count):
    """Every (heads, head_dim) pair once, then random ones, until all pairs are covered."""
    while True:
        cases = [{"heads": h, "head_dim": d} for h in FACTORS["heads"] for d in FACTORS["head_dim"]]
        cases += [{"heads": rng.choice(FACTORS["heads"]), "head_dim": rng.choice(FACTORS["head_dim"])}
                  for _ in range(count - len(cases))]
        for case in cases:
            case.update({key: rng.choice(FACTORS[key]) for key in ("tied", "rope", "bias")})
        if covers_all_pairs(cases):
            return cases


def config_json(case, rng, transformers_5):
    """config.json in the form of transformers 5 or 4."""
    query_heads, kv_heads = HEADS[case["heads"]]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": rng.randrange(300, 700),
        "hidden_size": query_heads * 8 * rng.randrange(3, 6),
        "intermediate_size": 8 * rng.randrange(12, 40),
        "num_hidden_layers": rng.randrange(1, 4),
        "num_attention_heads": query_heads,
        "num_key_value_heads": kv_heads,
        "head_dim": case["head_dim"],
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rms_norm_eps": rng.choice([1e-5, 1e-6]),
        "tie_word_embeddings": case["tied"],
        "attention_bias": case["bias"],
        "mlp_bias": case["bias"],
        "bos_token_id": 1,
        "eos_token_id": rng.choice([2, [2, 5, 9]]),
        "pad_token_id": None,
    }
    theta = rng.choice([10000.0, 500000.0])
    scaling = {
        "default": {},
        "linear": {"factor": rng.choice([2.0, 4.0, 2.5])},
        "llama3": {
            "factor": rng.choice([8.0, 32.0]),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": rng.choice([64, 256]),
        },
    }[case["rope"]]
    if transformers_5:
        config["rope_parameters"] = {"rope_type": case["rope"], "rope_theta": theta, **scaling}
        config["dtype"] = "float32"
    else:
        config["rope_theta"] = theta
        type_key = rng.choice(["type", "rope_type"])
        config["rope_scaling"] = None if case["rope"] == "default" else {type_key: case["rope"], **scaling}
        config["torch_dtype"] = "float32"
    return config


def odd_head_cases(rng):
    """OpenLLaMA-3B has heads of 100, stories260K of 8."""
    for heads, head_dim in (("mha", 100), ("gqa4", 8), ("gqa3", 100), ("mqa", 36), ("gqa4", 2), ("mha", 10)):
        yield {"heads": heads, "head_dim": head_dim, **{key: rng.choice(FACTORS[key]) for key in ("tied", "rope", "bias")}}


def make_configs(file, seed, list_cases):
    rng = random.Random(seed)
    cases = []
    for index, case in enumerate(list_cases(rng)):
        config = config_json(case, rng, transformers_5=index % 2 == 0)
        hf_config = LlamaConfig.from_dict(json.loads(json.dumps(config)), attn_implementation="eager")
        assert hf_config.rope_parameters["rope_type"] == case["rope"]
        prompt = [rng.randrange(config["vocab_size"]) for _ in range(rng.randrange(20, 100))]
        expected = expectations(hashed_model(hf_config, index), prompt, GREEDY_TOKENS, [len(prompt) // 2, len(prompt) - 1, -1])
        name = "{heads} head_dim={head_dim} tied={tied} rope={rope} bias={bias}".format(**case)
        cases.append({"name": name, "seed": index, "config": config, **expected})
        print(f"{index:2d} {name}: least margin {min(expected['margins']):.4f}, "
              f"bf16 error {expected['transformers_bfloat16']}", flush=True)
    write(DATA / file, cases)


# --- Folders ---


def make_folders(seed):
    rng = random.Random(seed)
    root = DATA / "folders"
    config = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 128,
        "bos_token_id": 1, "eos_token_id": [2, 3], "attention_bias": True,
        "rope_parameters": {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0,
                            "high_freq_factor": 4.0, "original_max_position_embeddings": 32},
    }
    forms = {
        "float32": (torch.float32, {"tie_word_embeddings": True}, {}),
        "bfloat16": (torch.bfloat16, {}, {}),
        "float16": (torch.float16, {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}, {}),
        "sharded": (torch.bfloat16, {"mlp_bias": True}, {"max_shard_size": "16KB"}),
        "transformers4": (torch.bfloat16, {"tie_word_embeddings": True}, {}),
    }
    results = []
    for index, (form, (dtype, changes, save_options)) in enumerate(forms.items()):
        torch.manual_seed(seed + index)
        model = LlamaForCausalLM(LlamaConfig(**{**config, **changes}, initializer_range=0.3)).to(dtype)
        folder = root / form
        model.save_pretrained(folder, **save_options)
        for file in folder.iterdir():
            file.chmod(0o644)
        if form == "transformers4":
            as_transformers_4(folder / "config.json")
        prompt = [rng.randrange(64) for _ in range(21)]
        results.append({"name": form, **expectations(fp32_model(folder), prompt, GREEDY_TOKENS, [0, 20, -1])})
    write(DATA / "folders.json", results)


def make_found_folders(seed):
    rng = random.Random(seed)
    root = DATA / "found_folders"
    config = {
        "vocab_size": 64, "hidden_size": 40, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
        "bos_token_id": 1, "eos_token_id": [2, 3], "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }
    forms = {
        "llama_model": {"tie_word_embeddings": True},
        "qkv_bias": {"attention_bias": True},
        "dynamic": {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}},
    }
    results = []
    for index, (form, changes) in enumerate(forms.items()):
        torch.manual_seed(seed + index)
        model = LlamaForCausalLM(LlamaConfig(**{**config, **changes}, initializer_range=0.3)).to(torch.bfloat16)
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.normal_(0.0, 0.3)
        folder = root / form
        (model.model if form == "llama_model" else model).save_pretrained(folder)
        if form == "qkv_bias":
            as_made_from_qwen(folder / "model.safetensors")
        for file in folder.iterdir():
            file.chmod(0o644)
        prompt = [rng.randrange(64) for _ in range(21)]
        results.append({"name": form, **expectations(fp32_model(folder), prompt, GREEDY_TOKENS, [0, 20, -1])})
    write(DATA / "found_folders.json", results)


def as_made_from_qwen(path):
    """Without biases of o_proj, and with tensors that transformers passes over."""
    tensors = {name: tensor for name, tensor in load_file(path).items() if not name.endswith("o_proj.bias")}
    tensors["model.layers.2.input_layernorm.weight"] = torch.ones(40, dtype=torch.bfloat16)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(5)
    tensors["model.layers.1.mlp.up_proj.bias"] = torch.zeros(48)
    tensors["v_head.summary.weight"] = torch.ones(1, 40)
    save_file(tensors, path, metadata={"format": "pt"})


def as_transformers_4(path):
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config, indent=2) + "\n")


def encode(path, text):
    if (path / "tokenizer.json").exists():
        return AutoTokenizer.from_pretrained(path).encode(text)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path / "tokenizer.model"))
    return processor.encode(text, add_bos=True)


def make_folder(name, path, text):
    text = encode(path, text)
    prompt = text[:12]
    expected = expectations(fp32_model(path), prompt, 64, [len(prompt) - 1, -1], text)
    print(f"{name}: least margin {min(expected['margins']):.4f}, bf16 error {expected['transformers_bfloat16']}")
    write(DATA / f"{name}.json", [{"name": name, **expected}])


def write(path, cases):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"torch": torch.__version__, "transformers": transformers.__version__}
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    path.write_text(json.dumps(header)[:-1] + ', "cases": [\n' + lines + "\n]}\n")
    print(f"{path}: {path.stat().st_size} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", action="store_true", help="make configs.json")
    parser.add_argument("--odd-heads", action="store_true", help="make odd_heads.json")
    parser.add_argument("--found-folders", action="store_true", help="make found_folders/ and found_folders.json")
    parser.add_argument("--folders", action="store_true", help="make folders/ and folders.json")
    parser.add_argument("--folder", metavar="NAME=PATH", action="append", default=[], help="make NAME.json")
    parser.add_argument("--text", default=STORY, help="text of --folder; its first 12 tokens are the prompt")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--count", type=int, default=20, help="number of random configurations")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    if args.configs:
        make_configs("configs.json", args.seed, lambda rng: pairwise_cases(rng, args.count))
    if args.odd_heads:
        make_configs("odd_heads.json", args.seed, odd_head_cases)
    if args.found_folders:
        make_found_folders(args.seed)
    if args.folders:
        make_folders(args.seed)
    for folder in args.folder:
        name, path = folder.split("=", 1)
        make_folder(name, pathlib.Path(path), args.text)


if __name__ == "__main__":
    main()
