"""The Llama used for training: parameter names of Hugging Face's LlamaForCausalLM, explicit attention."""

import torch
import torch.nn.functional as F
from torch import nn

CONFIG = dict(
    vocab_size=640,
    hidden_size=160,
    intermediate_size=480,
    num_hidden_layers=5,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=1024,
    rope_theta=10000.0,
    rms_norm_eps=1e-5,
)


def rope_tables(config, length):
    dim = config["head_dim"]
    inverse = config["rope_theta"] ** (-torch.arange(0, dim, 2).float() / dim)
    angles = torch.outer(torch.arange(length).float(), inverse)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        x = x.float()
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv_heads, self.dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        hidden = c["hidden_size"]
        self.q_proj = nn.Linear(hidden, self.heads * self.dim, bias=False)
        self.k_proj = nn.Linear(hidden, self.kv_heads * self.dim, bias=False)
        self.v_proj = nn.Linear(hidden, self.kv_heads * self.dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.dim, hidden, bias=False)

    def project(self, x, cos, sin):
        """q, k, v as [batch, heads, tokens, head_dim], rotated."""
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, self.heads, self.dim).transpose(1, 2)
        k = self.k_proj(x).view(b, t, self.kv_heads, self.dim).transpose(1, 2)
        v = self.v_proj(x).view(b, t, self.kv_heads, self.dim).transpose(1, 2)
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def mix(self, q, k, v, mask):
        """Attention of q over k, v; the query heads of one GQA group are rows of one product."""
        b, _, t, d = q.shape
        group = self.heads // self.kv_heads
        q = q.reshape(b, self.kv_heads, group * t, d) * d**-0.5
        scores = (q @ k.to(q.dtype).transpose(-1, -2)).view(b, self.kv_heads, group, t, -1) + mask
        weights = scores.float().softmax(-1).to(v.dtype).view(b, self.kv_heads, group * t, -1)
        mixed = (weights @ v).view(b, self.heads, t, d).transpose(1, 2)
        return self.o_proj(mixed.reshape(b, t, self.heads * d))


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.up_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.down_proj = nn.Linear(c["intermediate_size"], c["hidden_size"], bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.self_attn = Attention(c)
        self.mlp = Mlp(c)
        self.input_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.post_attention_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])


class Body(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.norm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])


class Cache:
    """Keys and values of sequences of equal length, with room for `capacity` tokens each."""

    def __init__(self, config, rows, capacity):
        shape = (2, rows, config["num_key_value_heads"], capacity, config["head_dim"])
        self.layers = [torch.zeros(shape) for _ in range(config["num_hidden_layers"])]
        self.length = 0

    def extend(self, index, k, v):
        end = self.length + k.shape[2]
        keys, values = self.layers[index]
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        return keys[:, :, :end], values[:, :, :end]

    def select(self, rows):
        self.layers = [layer[:, rows] for layer in self.layers]


class Llama(nn.Module):
    """Output weights are the embedding (tied)."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.model = Body(config)
        cos, sin = rope_tables(config, config["max_position_embeddings"])
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        deep = (2 * config["num_hidden_layers"]) ** -0.5
        for name, p in self.named_parameters():
            if p.dim() == 2:
                scale = deep if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
                nn.init.normal_(p, std=scale * (0.02 if "embed" in name else config["hidden_size"] ** -0.5))

    def forward(self, ids, cache=None):
        """Logits [batch, tokens, vocab]; a cache, when given, holds the tokens before and takes up these."""
        t = ids.shape[1]
        start = cache.length if cache else 0
        cos, sin = self.cos[start : start + t], self.sin[start : start + t]
        mask = torch.full((t, start + t), float("-inf"), device=ids.device).triu(start + 1)
        x = self.model.embed_tokens(ids)
        for index, layer in enumerate(self.model.layers):
            q, k, v = layer.self_attn.project(layer.input_layernorm(x), cos, sin)
            if cache:
                k, v = cache.extend(index, k, v)
            x = x + layer.self_attn.mix(q, k, v, mask)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        if cache:
            cache.length += t
        return F.linear(self.model.norm(x), self.model.embed_tokens.weight)
