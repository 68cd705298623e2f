#!/usr/bin/env bash
# TRL 1.16.0, transformers 5.23.0, torch 2.15.0: GRPOTrainer calls model.generate while the model is in train mode, and generate does not
# change that: with attention_dropout or lora_dropout every token of a rollout is drawn by another random part of the network.
# Guess before: generate samples in eval mode, and only TRL's scoring (train mode) suffers from dropout.
# For a user: with dropout the rollouts are of no one policy; no scoring gives their law, and ratios to it mean nothing.
# GRPOConfig(disable_dropout=True) sets modules of the kind nn.Dropout (LoRA's too), not a number such as attention_dropout.
# An environment that has all three may be named: bash trl_samples_in_train_mode.sh PYTHON
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python="${1:-$folder/env/bin/python}"
if [ $# = 0 ]; then
  python3 -m venv "$folder/env"
  "$python" -m pip install --quiet --disable-pip-version-check trl==1.16.0 transformers==5.23.0 torch==2.15.0
fi
CUDA_VISIBLE_DEVICES= HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$python" - "$folder" <<'PY' 2> "$folder/noise"
import sys

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

words = ["<pad>", "<eos>", *(f"w{i}" for i in range(14))]
plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>", padding_side="left")
found = {}
for disable in (False, True):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                                         bos_token_id=None, eos_token_id=1, pad_token_id=0, attention_dropout=0.5))
    args = GRPOConfig(sys.argv[1], use_cpu=True, bf16=False, per_device_train_batch_size=4, num_generations=4, max_completion_length=4,
                      max_steps=1, report_to="none", save_strategy="no", disable_tqdm=True, disable_dropout=disable)
    trainer = GRPOTrainer(model, lambda completions, **_: [float(len(c)) for c in completions], args=args, processing_class=tokenizer,
                          train_dataset=Dataset.from_dict({"prompt": ["w1 w2 w3"] * 8}))
    original, modes = model.generate, []

    def generate(*positions, **settings):
        modes.append(model.training)
        ids = torch.tensor([[2, 3, 4, 5]])
        with torch.no_grad():  # two forward passes of one network, as generate finds it
            modes.append(not torch.equal(model(ids).logits, model(ids).logits))
        return original(*positions, **settings)

    model.generate = generate
    trainer.train()
    found[disable] = tuple(modes)
    print(f"disable_dropout={disable}: generate is called in train mode: {modes[0]}; two passes differ: {modes[1]}")
same = found == {False: (True, True), True: (True, True)}
print("as described" if same else "the behaviour has changed")
sys.exit(not same)
PY
