"""Writes the model as a Hugging Face folder: bf16 safetensors, config.json, the curve of the loss."""

import csv
import json
import shutil

import torch
from chart import Series, line_chart
from safetensors.torch import load_file, save_file

from .tokenizer import BOS, EOS


def write_folder(out, model):
    """`out` already holds tokenizer.model."""
    c = model.config
    tensors = {name: p.detach().to(torch.bfloat16).contiguous() for name, p in model.state_dict().items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": c["vocab_size"],
        "hidden_size": c["hidden_size"],
        "intermediate_size": c["intermediate_size"],
        "num_hidden_layers": c["num_hidden_layers"],
        "num_attention_heads": c["num_attention_heads"],
        "num_key_value_heads": c["num_key_value_heads"],
        "head_dim": c["head_dim"],
        "hidden_act": "silu",
        "max_position_embeddings": c["max_position_embeddings"],
        "rms_norm_eps": c["rms_norm_eps"],
        "rope_theta": c["rope_theta"],
        "rope_scaling": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": c["rope_theta"]},
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "pretraining_tp": 1,
        "tie_word_embeddings": True,
        "use_cache": True,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "torch_dtype": "bfloat16",
    }
    write_json(out / "config.json", config)
    generation = {"_from_model_config": True, "bos_token_id": BOS, "eos_token_id": EOS}
    write_json(out / "generation_config.json", generation)
    write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "legacy": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": c["max_position_embeddings"],
        },
    )


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_curve(log_path, out):
    """Copies the log and draws the loss against the tokens seen."""
    shutil.copyfile(log_path, out / "loss.csv")
    with open(log_path, encoding="utf-8") as log:
        points = [(int(row["tokens"]) / 1e6, float(row["loss"])) for row in csv.DictReader(log)]
    line_chart(
        out / "loss.svg",
        [Series("loss", points, markers=False)],
        title="Training: weighted loss, mean of 50 batches",
        x_label="training tokens, millions",
        y_label="loss, logarithmic",
        log_y=True,
    )


def load_checkpoint(path, model):
    """Loads the weights and rounds them to bf16, as they are served; returns the other entries."""
    state = torch.load(path, map_location="cpu")
    weights = {name: p.to(torch.bfloat16).float() for name, p in state.pop("model").items()}
    model.load_state_dict(weights)
    state.pop("optimizers", None)
    return state


def load_folder(folder, model):
    weights = {name: p.float() for name, p in load_file(folder / "model.safetensors").items()}
    model.load_state_dict(weights)
