"""Sampling and step-wise search with the training network: what a tree request does, many problems at a time.

All problems of a call have prompts of equal length, and a step of a task has a fixed number of tokens, so that a
whole level is one batch. A branch that has not written its ` :` by then is left in, as it would be on a server;
the exact checker refuses it at the end.
"""

import torch

from .network import Cache


class Decoder:
    """Batches of token sequences with their keys and values."""

    def __init__(self, model, encoder, generator):
        self.model, self.encoder, self.generator = model, encoder, generator
        self.colon, self.ok = (encoder.inner(text)[0] for text in (" :", " ok"))

    @torch.no_grad()
    def prompt(self, rows, new_tokens):
        """Reads one prompt a row; `new_tokens` more will fit."""
        self.cache = Cache(self.model.config, len(rows), len(rows[0]) + new_tokens)
        self.logits = self.model(torch.tensor(rows), self.cache)[:, -1]

    @torch.no_grad()
    def append(self, ids):
        self.logits = self.model(ids[:, None], self.cache)[:, -1]

    def select(self, rows):
        self.cache.select(rows)
        self.logits = self.logits[rows]

    def choose(self, temperature):
        """The next token of each sequence and its log-probability in the model's own distribution."""
        logprobs = self.logits.log_softmax(-1)
        if temperature == 0:
            ids = self.logits.argmax(-1)
        else:
            weights = (self.logits / temperature).softmax(-1)
            ids = torch.multinomial(weights, 1, generator=self.generator)[:, 0]
        return ids, logprobs.gather(1, ids[:, None])[:, 0]


def complete(decoder, prompts, max_tokens, temperature=0.0, copies=1):
    """The model's own continuations of each prompt, its own verdicts included. Temperature 0: greedy."""
    decoder.prompt(prompts, max_tokens)
    if copies > 1:
        decoder.select(torch.arange(len(prompts)).repeat_interleave(copies))
    tokens = []
    for _ in range(max_tokens):
        ids, _ = decoder.choose(temperature)
        tokens.append(ids)
        decoder.append(ids)
    return [decoder.encoder.processor.decode(row) for row in torch.stack(tokens, 1).tolist()]


def search(decoder, prompts, step_tokens, branches, keep, score, temperature=1.0):
    """Texts [problem][kept branch], best first, and the tokens spent on a problem.

    Level i: every branch grows branches[i] samples up to ` :`, each gets the verdict ` ok` and its log-probability,
    and keep[i] branches of the problem stay. `score`: "sum" or "latest" of the verdicts, or "logprob" of all
    generated tokens.
    """
    problems = len(prompts)
    decoder.prompt(prompts, sum(step_tokens) + len(step_tokens))
    width, spent = 1, 0
    texts = torch.zeros(problems, 0, dtype=torch.long)
    verdicts = logprobs = torch.zeros(problems)
    for level, count in enumerate(branches):
        rows = torch.arange(problems * width).repeat_interleave(count)
        decoder.select(rows)
        texts, verdicts, logprobs = texts[rows], verdicts[rows], logprobs[rows]
        width *= count
        ended = torch.zeros(problems * width, dtype=torch.bool)
        # Below the first level a step begins with the line break behind the verdict.
        for _ in range(step_tokens[level]):
            ids, logprob = decoder.choose(temperature)
            logprobs = logprobs + torch.where(ended, 0.0, logprob)
            ended |= ids == decoder.colon
            texts = torch.cat([texts, ids[:, None]], 1)
            decoder.append(ids)
        verdict = decoder.logits.log_softmax(-1)[:, decoder.ok]
        verdicts = verdict if score == "latest" else verdicts + verdict
        ok = torch.full((problems * width,), decoder.ok)
        texts = torch.cat([texts, ok[:, None]], 1)
        decoder.append(ok)
        spent += width * (step_tokens[level] + 1)
        ranking = logprobs if score == "logprob" else verdicts
        kept = min(keep[level], width)
        best = ranking.view(problems, width).sort(dim=1, descending=True, stable=True).indices[:, :kept]
        rows = (best + torch.arange(problems)[:, None] * width).flatten()
        decoder.select(rows)
        texts, verdicts, logprobs = texts[rows], verdicts[rows], logprobs[rows]
        width = kept
    decoded = [decoder.encoder.processor.decode(row) for row in texts.tolist()]
    return [decoded[i * width : (i + 1) * width] for i in range(problems)], spent
