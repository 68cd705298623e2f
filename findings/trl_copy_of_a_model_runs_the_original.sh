#!/usr/bin/env bash
# trl 1.16.0 (transformers 5.23.0, torch 2.15.0): copy.deepcopy(trainer.model) of a GRPOTrainer is not a model of its own. TRL has put a
# `forward` on the instance, with the model inside; the copy has that forward too, and runs the ORIGINAL's weights. A KL between
# "before" and "after", taken with a copy, is exactly 0 however far the update went.
# No guess was noted: a test of ours took a deep copy for independent, until an exact KL was 0.0000 beside an estimate of 0.05.
# For a user: copy parameters, not the model ({name: p.detach().clone() …}), and load them back to score; or load a second model.
# An environment that has all three may be named: bash trl_copy_of_a_model_runs_the_original.sh PYTHON
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python="${1:-$folder/env/bin/python}"
if [ $# = 0 ]; then
  python3 -m venv "$folder/env"
  "$python" -m pip install --quiet --disable-pip-version-check trl==1.16.0 transformers==5.23.0 torch==2.15.0
fi
cd "$folder"
HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1 "$python" -W ignore - <<'PY'
import copy
import sys

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

words = ["<pad>", "<eos>", *(f"w{i}" for i in range(30))]
base = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
base.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, pad_token="<pad>", eos_token="<eos>", padding_side="left")
model = LlamaForCausalLM(
    LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
                pad_token_id=0, eos_token_id=1, bos_token_id=None)
)
ids = torch.tensor([[3, 4, 5]])


def moves(network):
    """Whether a copy's logits stay when the original's weights change."""
    kept = copy.deepcopy(network)
    with torch.no_grad():
        before = kept(input_ids=ids).logits
        network.lm_head.weight.mul_(2)
        after = kept(input_ids=ids).logits
    return not torch.equal(before, after)


alone = moves(model)
args = GRPOConfig(output_dir="out", use_cpu=True, bf16=False, per_device_train_batch_size=2, num_generations=2, report_to=[])
trainer = GRPOTrainer(model=model, args=args, reward_funcs=lambda **x: [0.0] * len(x["prompts"]), processing_class=tokenizer,
                      train_dataset=Dataset.from_list([{"prompt": "w1"}] * 4))
inside = moves(trainer.model)
print(f"the copy moves with the original: before it was in a trainer {alone}, in a GRPOTrainer {inside}")
as_described = (alone, inside) == (False, True)
print("as described" if as_described else "the behaviour has changed")
sys.exit(not as_described)
PY
