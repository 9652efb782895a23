"""Example requests for the demo: problems where greedy decoding fails and the tree wins, and few-shot prompts."""

from . import evaluate, search, tasks
from .export import write_json

POOL = 200
PICK_SEEDS = 8
PROVE_SEEDS = 40
FEW_SHOT_EXAMPLES = 9
RULE_LINES = 34


def pick_problems(model, encoder, task, wanted):
    """Unseen problems where greedy is wrong, those first that the tree solves with the most seeds."""
    problems = task.problems(POOL, tasks.make_rng("pick", task.name))
    right, _ = evaluate.solve(model, encoder, task, problems, None, None, 0.0, 0)
    hard = [p for p, solved in zip(problems, right) if not solved]
    lost = len(hard)
    for seed in range(PICK_SEEDS):
        right, _ = evaluate.solve(model, encoder, task, hard, evaluate.TREE, "sum", 1.0, 1000 + seed)
        hard = [p for p, solved in zip(hard, right) if solved]
    print(f"{task.name}: of {POOL} unseen problems greedy lost {lost}, and of those the tree won {len(hard)} with each seed")
    proven = []
    for problem in hard[: 4 * wanted]:
        copies = [problem] * PROVE_SEEDS
        right, _ = evaluate.solve(model, encoder, task, copies, evaluate.TREE, "sum", 1.0, 77)
        proven.append((sum(right), problem))
    return sorted(proven, reverse=True)[:wanted]


def write(folder, model, encoder):
    folder.mkdir(exist_ok=True)
    decoder = search.Decoder(model, encoder, None)
    for task, wanted in ((evaluate.COUNTDOWN, 3), (evaluate.COINS, 1)):
        for number, (wins, (numbers, target)) in enumerate(pick_problems(model, encoder, task, wanted), 1):
            prompt = task.prompt(numbers, target)
            greedy = search.complete(decoder, [encoder.root(prompt)], sum(task.step_tokens) + 3)[0].split("\n\n")[0]
            value = {
                "prompt": prompt,
                "numbers": list(numbers),
                "target": target,
                "greedy": greedy,
                "tree_won": wins,
                "tree_tried": PROVE_SEEDS,
            }
            write_json(folder / f"{task.name}_{number}.json", value)
            print(value, flush=True)
    write_few_shot(folder, model, encoder)
    write_rules(folder, model, encoder)


def write_few_shot(folder, model, encoder):
    """Solved problems and an unseen one that greedy fails and about half of all samples solve."""
    rng = tasks.make_rng("few-shot example")
    shots = evaluate.solved_examples(rng, FEW_SHOT_EXAMPLES)
    decoder = search.Decoder(model, encoder, search.torch.Generator().manual_seed(5))
    best = None
    for numbers, target in evaluate.unseen_countdown(30, rng):
        prompt = shots + tasks.countdown_prompt(numbers, target)
        ids = encoder.root(prompt)
        length = sum(evaluate.COUNTDOWN.step_tokens) + 3
        first = search.complete(decoder, [ids], length)[0].split("\n\n")[0]
        samples = search.complete(decoder, [ids], length, 1.0, copies=16)
        won = sum(tasks.check_countdown(numbers, target, text) for text in samples)
        wrong = not tasks.check_countdown(numbers, target, first)
        rank = (wrong, -abs(won - 6))
        if best is None or rank > best[0]:
            value = {
                "prompt": prompt,
                "prompt_tokens": len(ids),
                "numbers": list(numbers),
                "target": target,
                "greedy": first,
                "samples_right": won,
                "samples": len(samples),
                "samples_different": len(set(samples)),
            }
            best = (rank, value)
    print({k: v for k, v in best[1].items() if k != "prompt"}, flush=True)
    write_json(folder / "few_shot.json", best[1])


def write_rules(folder, model, encoder):
    """Examples of a hidden rule and a list that they do not hold, which greedy decoding gets right."""
    rng = tasks.make_rng("rule example")
    decoder = search.Decoder(model, encoder, search.torch.Generator().manual_seed(6))
    for rule in ("rotate", "down", "reverse", "up"):
        text = "".join("".join(tasks.rule_line(rule, rng)) + "\n" for _ in range(RULE_LINES))
        prompt, answer = tasks.rule_line(rule, rng)
        ids = encoder.root(text + prompt)
        length = len(encoder.inner(answer)) + 1
        expected = answer.lstrip(" ") + "\n"
        if search.complete(decoder, [ids], length)[0].lstrip(" ") != expected:
            continue
        samples = search.complete(decoder, [ids], length, 1.0, copies=16)
        value = {
            "prompt": text + prompt,
            "prompt_tokens": len(ids),
            "rule": rule,
            "answer": answer,
            "samples_right": sum(sample.lstrip(" ") == expected for sample in samples),
            "samples": len(samples),
        }
        write_json(folder / "few_shot_rules.json", value)
        return
