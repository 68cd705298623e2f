#!/usr/bin/env bash
# trl 1.16.0 (transformers 5.23.0, torch 2.15.0): GRPOTrainer.train() may be called again, but the count of micro-batches and the buffer of
# rollouts are those of the call before. Where a callback has stopped training inside a set of rollouts (num_iterations=4, one step), the
# next train() makes its first steps on the old rollouts, of weights and a dataset that are gone, samples in the middle, and says
# nothing. And where the dataset is the same every call begins with the same prompts: the sampler is seeded anew.
# Guess before the run, from the source of _prepare_inputs: both as described; before that, reading the documentation, neither was expected.
# For a user of several short train() calls: never stop inside a set; or set trainer._step = 0 and trainer._buffered_inputs = None
# before each, and give every call its own rows, as TrlTeam does.
# An environment that has all three may be named: bash trl_trains_again_on_old_rollouts.sh PYTHON
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
import sys

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

words = ["<pad>", "<eos>", *(f"w{i}" for i in range(30))]
base = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
base.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, pad_token="<pad>", eos_token="<eos>", padding_side="left")
model = LlamaForCausalLM(
    LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
                pad_token_id=0, eos_token_id=1, bos_token_id=None)
)


class StopAfterOneStep(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = True


sampled = []  # the prompts of every set of rollouts


def reward(prompts, completions, **_):
    sampled.append(prompts[::2])
    return [float(i % 2) for i in range(len(prompts))]


args = GRPOConfig(output_dir="out", use_cpu=True, bf16=False, per_device_train_batch_size=4, num_generations=2, num_iterations=4,
                  max_completion_length=3, max_steps=4, report_to=[], logging_strategy="no", save_strategy="no", disable_tqdm=True)
trainer = GRPOTrainer(model=model, args=args, reward_funcs=reward, processing_class=tokenizer,
                      train_dataset=Dataset.from_list([{"prompt": f"w{i}"} for i in range(20)]))
stop = StopAfterOneStep()
trainer.add_callback(stop)
trainer.train()
trainer.train_dataset = Dataset.from_list([{"prompt": f"w{i}"} for i in range(20, 30)])
trainer.train()
old_rollouts = len(sampled)  # 2 if the second call sampled
trainer.remove_callback(stop)
trainer._step, trainer._buffered_inputs = 0, None
sampled.clear()
trainer.train()
trainer.train()
same_prompts = sampled[0] == sampled[1]
print(f"{old_rollouts} set of rollouts for two calls; the same prompts in two whole calls: {same_prompts}")
as_described = old_rollouts == 1 and same_prompts
print("as described" if as_described else "the behaviour has changed")
sys.exit(not as_described)
PY
