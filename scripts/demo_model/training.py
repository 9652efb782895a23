"""Training of the demo model: packed batches, Muon and AdamW, a schedule in wall-clock time, checkpoints."""

import csv
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F

from . import network, tasks
from .tokenizer import BOS, EOS

# (tokens of a window, windows of a batch, most problems of a document); long windows are dear, so most of
# them come while the rate decays.
SHAPES = ((128, 64, 3), (512, 16, 16), (1024, 8, 32))
SHARES = (0.95, 0.04, 0.01)
SHARES_IN_DECAY = (0.84, 0.12, 0.04)
WARMUP_STEPS = 100
DECAY_SHARE = 0.35
CHECKPOINT_SECONDS = 180
LOG_EVERY = 50


class Packer:
    """Windows of packed documents, each <s> ... </s>; a document that does not fit is cut at the window's end."""

    def __init__(self, encoder, seed):
        self.encoder = encoder
        self.rng = tasks.make_rng("train", seed)

    def document(self, max_problems):
        ids, weights = [BOS], [0.0]
        for index, (text, weight) in enumerate(tasks.random_document(self.rng, max_problems)):
            new = self.encoder.words(" " + text if index == 0 else text)
            ids += new
            weights += [weight] * len(new)
        return ids + [EOS], weights + [0.3]

    def batch(self, length, rows, max_problems):
        """ids, targets [rows, length] and the targets' weights."""
        ids = np.zeros((rows, length + 1), np.int64)
        weights = np.zeros((rows, length + 1), np.float32)
        for row in range(rows):
            filled = 0
            while filled <= length:
                new, weight = self.document(max_problems)
                count = min(len(new), length + 1 - filled)
                ids[row, filled : filled + count] = new[:count]
                weights[row, filled : filled + count] = weight[:count]
                filled += count
        ids = torch.from_numpy(ids)
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.from_numpy(weights)[:, 1:].contiguous()


def loss_of(model, ids, targets, weights):
    logits = model(ids).float()
    each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return (each * weights.flatten()).sum() / weights.sum()


def make_optimizers(model, rate):
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.dim() != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, weight_decay=0.0, betas=(0.9, 0.98), fused=True),
    ]


def rate_factor(progress, step):
    """Warm-up, constant, then a linear decay to zero over the last DECAY_SHARE of the run."""
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    return warm * min(1.0, max(0.0, (1.0 - progress) / DECAY_SHARE))


def save(path, model, optimizers, state):
    """Writes next to the file and renames, so that a reader never sees half a checkpoint."""
    states = [optimizer.state_dict() for optimizer in optimizers]
    torch.save({"model": model.state_dict(), "optimizers": states, **state}, f"{path}.part")
    os.replace(f"{path}.part", path)


def resume(path, model, optimizers):
    """Loads a checkpoint; returns the steps, tokens and minutes that it stands for, and the runs that made it."""
    state = torch.load(path, map_location="cpu")
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state.get("optimizers", [])):
        optimizer.load_state_dict(saved)
    return state["step"], state["tokens"], state["minutes"], state["runs"]


def one_step(model, compiled, optimizers, batch, rate, bf16):
    """A forward and a backward pass and an update; returns the loss."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = compiled(model, *batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item()


def train(model, encoder, minutes, seed, rate, checkpoint, log_path, resumed=False, bf16=True, max_steps=math.inf):
    """`minutes` and `max_steps` count from the first step ever, also when a checkpoint is resumed."""
    optimizers = make_optimizers(model, rate)
    step, tokens, before, runs = resume(checkpoint, model, optimizers) if resumed else (0, 0, 0.0, [])
    # One that goes on from a run cut short, with its rate and up to its length, is the same run.
    runs = (
        runs if runs and runs[-1] == {"minutes": minutes, "rate": rate} else [*runs, {"minutes": minutes, "rate": rate}]
    )
    stream = f"{seed} from step {step}" if resumed else seed
    packer = Packer(encoder, stream)
    shape_rng = tasks.make_rng("shapes", stream)
    compiled = torch.compile(loss_of, dynamic=False)
    start = saved = time.monotonic()
    recent = []

    def store(finished):
        state = dict(step=step, tokens=tokens, minutes=round(spent, 2), runs=runs, finished=finished)
        save(checkpoint, model, optimizers, state)

    def note():
        row = [step, round(spent, 2), tokens, f"{now:.2e}", round(float(np.mean(recent)), 4)]
        log.writerow(row)
        log_file.flush()
        print(*row, flush=True)
        recent.clear()

    with open(log_path, "a" if resumed else "w", newline="") as log_file:
        log = csv.writer(log_file)
        if not resumed:
            log.writerow(["step", "minutes", "tokens", "rate", "loss"])
        while True:
            spent = before + (time.monotonic() - start) / 60
            progress = max(spent / minutes, step / max_steps)
            if progress >= 1:
                break
            shares = SHARES if progress < 1 - DECAY_SHARE else SHARES_IN_DECAY
            batch = packer.batch(*shape_rng.choices(SHAPES, shares)[0])
            now = rate * rate_factor(progress, step)
            recent.append(one_step(model, compiled, optimizers, batch, now, bf16))
            step += 1
            tokens += batch[0].numel()
            if step % LOG_EVERY == 0:
                note()
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                saved = time.monotonic()
                store(finished=False)
        if recent:
            note()
    store(finished=True)
