"""Make `decoders/`: tiny random Llama and Qwen2 folders and what `transformers` says of them.

Run with a Python that has torch, transformers and tokenizers (an environment of the benchmarks):
`python tests/golden/make_decoders.py`. Made with transformers 5.24.0, torch 2.13.0.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

FOLDER = Path(__file__).parent / "decoders"
VOCABULARY, ROWS, TEXTS = 32, 12, 3
SIZES = dict(
    vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3,
)  # fmt: skip
CASES = {
    "llama": (LlamaConfig(**SIZES, rope_theta=500.0, rms_norm_eps=1e-5), torch.float32),
    "qwen2": (Qwen2Config(**SIZES, tie_word_embeddings=True), torch.bfloat16),
}


def main():
    for seed, (name, (config, dtype)) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        folder = FOLDER / name
        model = AutoModelForCausalLM.from_config(config)
        for weights in model.parameters():  # biases and norms too, which start as 0 and 1
            weights.data += 0.1 * torch.randn_like(weights)
        model.to(dtype).save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        words = {word: i for i, word in enumerate(["<end>", *"abcdefghijklmnopqrstuvwxyz"])}
        made = Tokenizer(models.WordLevel(words, unk_token="<end>"))
        made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        made.save(str(folder / "tokenizer.json"), pretty=False)
        tokens = np.random.default_rng(seed).integers(0, VOCABULARY, (TEXTS, ROWS))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.no_grad():
            logits = model(torch.from_numpy(tokens)).logits.numpy()
        save_file({"tokens": tokens, "logits": logits}, folder / "said.safetensors")
        print(name, json.loads((folder / "config.json").read_text())["model_type"], logits.std())


if __name__ == "__main__":
    main()
