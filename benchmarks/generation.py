"""Tokens per second of the compiled loop beside `transformers`' generate, and a GRPO step beside TRL's, in turn.

    python benchmarks/generation.py --peer ENV_WITH_TRL/bin/python     # three pairs; a row goes to generation.jsonl

Both sides have a Llama decoder of the same sizes, random weights, float32, the same batch and lengths, a cache of keys
and values, and sample at temperature 1 from all tokens; no answer ends before its last token. Here a prompt is read
token by token, and only the answers' tokens are counted on both sides. A step is: answers to the prompts, rewards, one
gradient step of Adam, no reference. PyTorch has one thread or two, whichever makes its warm-up faster.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "generation.jsonl"
LETTERS, GROUP = 26, 8
SIZE = {"n_layers": 2, "d_model": 64, "n_heads": 4, "d_ff": 176}


def timed(work: Callable[[], Any], times: int) -> float:
    """Median seconds of so many calls."""
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return median(seconds)


# ------------------------------------------------------------------ here


def task(prompt: int, new: int) -> Any:
    """Prompts of one length; answers are as long as their room, and an even sum of tokens is right."""
    import dataclasses

    import jax.numpy as jnp

    from actrix.envs.tokens.env import END
    from actrix.envs.tokens.tasks import Copy

    @dataclasses.dataclass(frozen=True)
    class Endless(Copy):
        answer_room = new

        def draw(self, key):
            drawn = super().draw(key)
            letters = jnp.maximum(drawn.prompt, 2).at[-1].set(1)
            length = jnp.asarray(self.prompt_room, jnp.int32)
            return drawn._replace(prompt=letters, length=length, solution=jnp.full(new, END, jnp.int32))

        def mask(self, state):
            return super().mask(state).at[END].set(False)

        def right(self, instance, answer):
            return jnp.sum(answer) % 2 == 0

    return Endless(length=prompt - 1, letters=LETTERS, group=GROUP)


def ours(prompt: int, new: int, batch: int, steps: int) -> dict[str, Callable[[], Any]]:
    """'generate': a batch of answers; 'step': so many iterations of GRPO."""
    import jax

    from actrix import GRPO
    from actrix.loops import compiled

    env = task(prompt, new)
    model = GRPO(
        "MlpTransformerPolicy", env, n_envs=batch, seed=0, learning_rate=1e-6, ref_kl_coef=0.0,
        policy_kwargs=SIZE | {"context": prompt + new},
    )  # fmt: skip
    runner = model.runner
    algorithm, acting = runner.algorithm, runner.learners[0].acting
    start = compiled.reset(algorithm, acting, env, batch, jax.random.key(0), jax.numpy.uint32(0))
    rows = algorithm.rows(env.spec)

    @jax.jit
    def collect(key):
        _, chunk, _ = compiled.collect(algorithm, acting, env, start, key, key, rows)
        return chunk.action, chunk.log_prob

    runner.set_training(total_steps=10**9)
    return {
        "generate": lambda: jax.block_until_ready(collect(jax.random.key(1))),
        "step": lambda: runner.advance(steps),
    }


# ------------------------------------------------------------------ in the other environment


def peer_model(prompt: int, new: int) -> Any:
    """A Llama of the same sizes; 3 tokens more than letters: end, the question's last one, padding."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=LETTERS + 3, hidden_size=SIZE["d_model"], intermediate_size=SIZE["d_ff"],
        num_hidden_layers=SIZE["n_layers"], num_attention_heads=SIZE["n_heads"], max_position_embeddings=prompt + new,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=None, pad_token_id=LETTERS + 2,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def peer_generate(prompt: int, new: int, batch: int) -> Callable[[], Any]:
    """A batch of answers by `generate`."""
    import torch

    model = peer_model(prompt, new).eval()
    asked = torch.randint(0, LETTERS, (batch, prompt))
    given = dict(max_new_tokens=new, min_new_tokens=new, do_sample=True, top_k=0, top_p=1.0, use_cache=True)

    def work() -> None:
        with torch.inference_mode():
            out = model.generate(asked, attention_mask=torch.ones_like(asked), **given)
        assert out.shape == (batch, prompt + new), out.shape

    return work


def peer_trainer(prompt: int, new: int, batch: int, steps: int) -> Callable[[], Any]:
    """So many steps of TRL's GRPOTrainer: one batch of answers each, one gradient step."""
    import tempfile

    import torch
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    letters = [chr(ord("a") + i) for i in range(LETTERS)] + [":", ".", "_"]
    plain = Tokenizer(models.WordLevel({x: i for i, x in enumerate(letters)}, unk_token="_"))
    plain.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokens = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="_", eos_token=".", unk_token="_")
    drawn = torch.randint(0, LETTERS, (4 * batch, prompt - 1))
    questions = Dataset.from_list([{"prompt": "".join(letters[i] for i in row) + ":"} for row in drawn])
    config = GRPOConfig(
        tempfile.mkdtemp(), per_device_train_batch_size=batch, num_generations=GROUP, max_completion_length=new,
        max_steps=10**6, beta=0.0, learning_rate=1e-6, report_to=[], logging_strategy="no", save_strategy="no",
        use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True, top_k=0,
        generation_kwargs={"min_new_tokens": new},
    )  # fmt: skip
    trainer = GRPOTrainer(
        peer_model(prompt, new), lambda completion_ids, **_: [float(sum(x) % 2) for x in completion_ids], config,
        questions, processing_class=tokens,
    )  # fmt: skip

    class Stops(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            marks.append(time.perf_counter())
            control.should_training_stop = len(marks) > steps

    trainer.add_callback(Stops())
    marks: list[float] = []

    def work() -> float:
        marks.clear()
        with contextlib.redirect_stdout(sys.stderr):  # what it prints is no answer
            trainer.train()
        assert len(marks) == steps + 1, marks
        return marks[-1] - marks[0]  # from the end of the first step: `train` itself sets much up

    return work


def serve(args: argparse.Namespace) -> None:
    """Answer each line 'generate' or 'step' with seconds; first with versions."""
    import torch
    import transformers
    import trl

    def faster(work: Callable[[], Any]) -> int:
        took = {}
        for threads in (1, 2):
            torch.set_num_threads(threads)
            work()
            took[threads] = timed(work, 2)
        return min(took, key=lambda threads: took[threads])

    train = peer_trainer(args.prompt, args.new, args.batch, args.steps)
    works = {"generate": peer_generate(args.prompt, args.new, args.batch), "step": train}
    threads = {name: faster(work) for name, work in works.items()}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__}
    print(json.dumps({"versions": versions, "threads": threads}), flush=True)
    for line in sys.stdin:
        name = line.strip()
        torch.set_num_threads(threads[name])
        seconds = train() if name == "step" else timed(works[name], args.repeats)
        print(json.dumps(seconds), flush=True)


# ------------------------------------------------------------------ in turn


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--peer", help="a python with trl and transformers; without it only this side is timed"
    )
    parser.add_argument("--prompt", type=int, default=16)
    parser.add_argument("--new", type=int, default=48, help="tokens of an answer")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3, help="of GRPO in one measurement")
    parser.add_argument("--repeats", type=int, default=5, help="batches in one measurement")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args)
    import record
    from machine import machine

    from actrix.files import manifest

    record.read(args.results, "generate_ratio", "step_ratio")  # a broken record is found before the work
    if args.peer is not None and (why := record.lacks(args.peer, "trl", "transformers", "datasets")):
        record.refuse(f"--peer {args.peer}: generate and GRPO of TRL are not there ({why}).")
    works, peer, said = ours(args.prompt, args.new, args.batch, args.steps), None, {}
    for work in works.values():
        work()
    if args.peer:
        sizes = [f"--{n}={getattr(args, n)}" for n in ("prompt", "new", "batch", "steps", "repeats")]
        # -P: `datasets` is theirs, not the script beside this one.
        command = [args.peer, "-P", __file__, "--serve", *sizes]
        peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        said = json.loads(peer.stdout.readline())  # type: ignore[union-attr]
    seconds: dict[str, list[list[float]]] = {name: [] for name in works}
    for name, work in works.items():
        for _ in range(args.pairs):
            pair = [timed(work, args.repeats)]
            if peer is not None:
                print(name, file=peer.stdin, flush=True)
                pair.append(json.loads(peer.stdout.readline()))  # type: ignore[union-attr]
            seconds[name].append(pair)
    if peer is not None:
        peer.communicate()
    row = {
        "size": SIZE, "prompt": args.prompt, "new": args.new, "batch": args.batch, "steps": args.steps,
        "tokens_per_second": [[args.new * args.batch / s for s in pair] for pair in seconds["generate"]],
        "seconds_per_step": [[s / args.steps for s in pair] for pair in seconds["step"]],
        "peer": said, "versions": manifest.package_versions(), "machine": machine(),
        "date": datetime.date.today().isoformat(),
    }  # fmt: skip
    for name in works if peer else ():
        row[f"{name}_ratio"] = median(theirs / mine for mine, theirs in seconds[name])
    print(json.dumps(row))
    if peer is not None:
        record.append(args.results, row)


if __name__ == "__main__":
    main()
