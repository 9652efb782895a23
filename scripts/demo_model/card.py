"""The model card: the facts of training and evaluation filled into its text."""

import csv
import json

TEXT = """---
license: apache-2.0
library_name: transformers
---
# Espalier demo model

A Llama of {parameters:.2f} million parameters ({megabytes:.1f} MB of bf16), trained from scratch on one CPU core by
`scripts/train_demo_model.py` on data that the script makes. It exists so that the server has something real to
serve: tasks small enough for a tiny model, where a tree of thoughts pays because the model can judge a step after
it has taken it better than it can choose it. It knows nothing else. Licence: Apache-2.0, as the repository.
{state}
| | |
|---|---|
| shape | {num_hidden_layers} layers, hidden {hidden_size}, {num_attention_heads} query heads over {num_key_value_heads} key/value heads of {head_dim}, FFN {intermediate_size}, tied embeddings, rope theta {rope_theta:.0f} |
| context | {max_position_embeddings} tokens, all of them trained |
| tokenizer | SentencePiece BPE with byte fallback, {vocab_size} pieces, no normalisation; `<s>` = 1, `</s>` = 2 |

## Tasks and formats

**Countdown**: reach the target with all four numbers (1-13, ascending; target 10-50; no value above 60). Three steps, each
followed by the model's verdict: is the target still within reach?
```
numbers 5 8 12 12 target 24
8 - 5 = 3 left 3 12 12 : ok
12 * 3 = 36 left 12 36 : ok
36 - 12 = 24 left 24 : ok
```
**Coins**: three different coins of nine (1-32, ascending) that add up to the price, with the same verdicts.
```
coins 1 7 11 18 22 23 28 29 31 price 58
take 1 need 57 : ok
take 28 need 29 : ok
take 29 need 0 : ok
```
**Rules**: examples of a hidden rule ({rules}); the model continues the last line.
```
list 5 8 18 37 gives 8 18 37 5
list 26 45 31 gives
```
A blank line stands between two problems, `</s>` ends a document. Solved problems may stand before a new one (few-shot).

## Tokens

Every word, sign and number up to 99 of the tasks is one piece, with the space before it (` ok`, ` :`, ` 12`); a line break is a
piece of its own, and what can stand at the start of a line (`numbers`, `coins`, `take`, `list`, numbers) is one piece without a space too.
At the root of a tree the text gets `<s>` and SentencePiece's dummy prefix; text below the root gets neither. No piece
crosses a space or a line break, so texts cut before a space, or before or behind a line break, and encoded one by one give the same tokens as
the whole text. A tree of thoughts is therefore:

1. given, root: `numbers 5 8 12 12 target 24\\n` (with its line break);
2. generate: 8 branches, temperature 1, stop string ` :` (kept in the tokens, left out of the text), at most 12 new tokens;
3. given, scored: ` ok`, one token; its log-probability is the score of the step;
4. select: keep 5 by the sum of verdicts along the path; then again from 2, three levels in all, keep 1 at the last.

Below the first level the generated text begins with the line break behind the verdict. Plain generation (greedy, few-shot) wants the stop string
`\\n\\n` and at most 40 new tokens: the model writes its own verdicts, and behind a ` bad` it often gives up and goes on to a new problem.

## Training

{commands}
{steps} batches of 8192 tokens ({tokens:.1f} million tokens, {minutes:.0f} minutes on one core of a shared machine), bf16 autocast
over fp32 weights, Muon for matrices and AdamW for embeddings and norms, constant rate, then linear decay to zero over the last 35 %. Documents are
packed into windows of 128, 512 and 1024 tokens. Problems whose hash is 0 modulo 16 are held out. More than half of the paths hold an inserted
wrong step: its arithmetic and its verdict are learned, its choice is not (weight 0); verdicts weigh 3. The data depend on the seed alone, but the
length is counted in minutes: a faster or idle machine takes more steps and ends lower, and the weights come out different.

Loss (weighted): **{final:.4f}** in the last row of the log; mean of the last 500 batches {loss:.4f}, of the 500 before {loss_before:.4f}. The curve levels out
because the rate decays to zero; a longer run would still gain. Much of what is left cannot be learned: the choice among right steps and
the numbers of new problems. Log: `loss.csv`, facts: `training.json`.

![loss](loss.svg)
{evaluation}
## Limits

Nothing but these three formats: no language, no chat. Numbers must be in the trained ranges and in ascending order where the format has them so.
The verdict is a learned judgement and errs; the scripts check every answer with exact arithmetic. Unused pieces and bytes were
never trained.
"""

EVALUATION = """
## Evaluation

Unseen problems (held out by hash), answers checked exactly, weights rounded to bf16, computed in fp32 by the training script:
`python3 scripts/train_demo_model.py --out model/demo --evaluate {count}`. 95 % Wilson intervals. Tokens: grown tokens of a problem with verdicts, prompt
left out. The tree takes 8 samples a step and keeps 5.

{tables}
`examples/` holds problems where greedy decoding is wrong and the tree right (`tree_won` of `tree_tried` seeds), and two few-shot prompts.
They were picked for that: they show the mechanism, the tables show how often it works.
"""


def _table(rows, title, last):
    lines = [f"| {title} | right % | {last.replace('_', ' ')} |", "|---|---|---|"]
    for r in rows:
        percent = 100 * r["right"] / r["problems"]
        lines.append(
            f"| {r['method']} | {percent:.1f} [{r['low']:.1f}, {r['high']:.1f}] of {r['problems']} | {r[last]} |"
        )
    return "\n".join(lines) + "\n"


def _evaluation(folder):
    path = folder / "evaluation.json"
    if not path.exists():
        return ""
    result = json.loads(path.read_text())
    tables = [
        _table(result["countdown"], "Countdown", "tokens"),
        _table(result["coins"], "Coins", "tokens"),
        _table(result["few_shot"], "Few-shot", "prompt_tokens"),
    ]
    return EVALUATION.format(count=result["countdown"][0]["problems"], tables="\n".join(tables))


def _commands(runs):
    lines = ["```"]
    for i, run in enumerate(runs):
        resume = "--resume " if i > 0 else ""
        lines.append(
            f"python3 scripts/train_demo_model.py --out model/demo {resume}--minutes {run['minutes']:g} --rate {run['rate']:g}"
        )
    lines.append("```")
    if len(runs) > 1:
        lines.append("Each run goes on from the one before, raises the rate again and lets it decay.")
    return "\n".join(lines)


def write(folder, config):
    from .tasks import RULES

    training = json.loads((folder / "training.json").read_text())
    log = list(csv.DictReader(open(folder / "loss.csv")))
    losses = [float(r["loss"]) for r in log]
    weights = folder / "model.safetensors"
    minutes = float(log[-1]["minutes"])
    early = (
        ""
        if training["finished"]
        else "\n**An early checkpoint: training goes on; figures and weights will change.**\n"
    )
    text = TEXT.format(
        **config,
        parameters=weights.stat().st_size / 2e6,
        megabytes=weights.stat().st_size / 1e6,
        state=early,
        rules=", ".join(RULES),
        commands=_commands(training["runs"]),
        steps=training["step"],
        tokens=training["tokens"] / 1e6,
        minutes=minutes,
        final=losses[-1],
        loss=sum(losses[-10:]) / len(losses[-10:]),
        loss_before=sum(losses[-20:-10]) / max(1, len(losses[-20:-10])),
        evaluation=_evaluation(folder),
    )
    (folder / "README.md").write_text(text)
