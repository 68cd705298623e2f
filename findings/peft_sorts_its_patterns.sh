#!/usr/bin/env bash
# peft 0.21.2, torch 2.15.0: of the keys of alpha_pattern and rank_pattern that fit a module PEFT takes the first, and save_pretrained
# sorts them. An adapter whose general key stood first is loaded with another scale than it was trained with, and nothing is said:
# {"q": 8, "layers.1.q": 32} trains every q at 8 and loads layer 1 at 32. (With rank_pattern the shapes differ, and loading fails.)
# Guess before: what was saved is what is loaded; or the key that fits best counts, whatever the order.
# For a user: never let two keys with different values fit one module. Here load_adapters refuses such a config, because the file
# does not say which scale was trained.
# An environment that has both may be named: bash peft_sorts_its_patterns.sh PYTHON
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python="${1:-$folder/env/bin/python}"
if [ $# = 0 ]; then
  python3 -m venv "$folder/env"
  "$python" -m pip install --quiet --disable-pip-version-check peft==0.21.2 torch==2.15.0
fi
"$python" - "$folder/adapter" <<'PY'
import json
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model

path = sys.argv[1]


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q = torch.nn.Linear(4, 4)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([Layer(), Layer()])

    def forward(self, x):
        for layer in self.layers:
            x = layer.q(x)
        return x


torch.manual_seed(0)
weights, x = Net().state_dict(), torch.ones(1, 4)


def net():
    out = Net()
    out.load_state_dict(weights)
    return out


def scales(model):
    return [layer.q.scaling["default"] for layer in model.base_model.model.layers]


config = LoraConfig(r=2, target_modules=["q"], alpha_pattern={"q": 8, "layers.1.q": 32}, init_lora_weights=False)
trained = get_peft_model(net(), config).eval()
trained.save_pretrained(path)
kept = json.load(open(f"{path}/adapter_config.json"))["alpha_pattern"]
loaded = PeftModel.from_pretrained(net(), path).eval()
off = float((trained(x) - loaded(x)).abs().max())
print(f"trained with scales {scales(trained)}; the file says {kept}; loaded with {scales(loaded)}; outputs differ by {off:.2f}")
same = scales(trained) == [4.0, 4.0] and list(kept) == ["layers.1.q", "q"] and scales(loaded) == [4.0, 16.0] and off > 0.01
print("as described" if same else "the behaviour has changed")
sys.exit(not same)
PY
