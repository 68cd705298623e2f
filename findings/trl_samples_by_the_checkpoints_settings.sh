#!/usr/bin/env bash
# TRL 1.16.0, transformers 5.23.0: GRPOTrainer hands generate a configuration whose other fields are None, and generate fills those from
# the checkpoint's own generation_config.json: min_p, typical_p, no_repeat_ngram_size, min_new_tokens, … change what is sampled,
# while TRL scores softmax(logits/temperature). temperature, top_k, top_p and repetition_penalty are safe: TRL says them.
# No guess was noted before the run: met while reading the source, then run. What a reader of TRL alone expects is that its own settings are all.
# For a user: look into generation_config.json; the rollouts of such a checkpoint are not those that GRPO's ratios are of.
# An environment that has both may be named: bash trl_samples_by_the_checkpoints_settings.sh PYTHON
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
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

words = ["<pad>", "<eos>", *(f"w{i}" for i in range(14))]
plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>", padding_side="left")
model = LlamaForCausalLM(LlamaConfig(vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                                     bos_token_id=None, eos_token_id=1, pad_token_id=0))
model.generation_config = GenerationConfig(eos_token_id=1, no_repeat_ngram_size=1, min_p=0.1, top_k=3, temperature=0.1)
args = GRPOConfig(sys.argv[1], use_cpu=True, bf16=False, per_device_train_batch_size=8, num_generations=8, max_completion_length=8,
                  max_steps=1, report_to="none", save_strategy="no", disable_tqdm=True)
seen = []


def reward(completion_ids, **_):
    seen.extend(completion_ids)
    return [0.0] * len(completion_ids)


trainer = GRPOTrainer(model, reward, args=args, processing_class=tokenizer, train_dataset=Dataset.from_dict({"prompt": ["w1"] * 8}))
original, used = model._get_logits_processor, []


def processors(*positions, **settings):
    found = original(*positions, **settings)
    used.extend(type(x).__name__ for x in found)
    return found


model._get_logits_processor = processors
trainer.train()
repeats = sum(len(ids) != len(set(ids)) for ids in seen)
print(f"between logits and tokens: {used}; completions with a word twice: {repeats} of {len(seen)}")
same = sorted(used) == ["MinPLogitsWarper", "NoRepeatNGramLogitsProcessor"] and repeats == 0
print("as described" if same else "the behaviour has changed")
sys.exit(not same)
PY
