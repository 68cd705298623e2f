#!/usr/bin/env bash
# transformers 5.23.0 (tokenizers 0.23.3, Python 3.11): AutoTokenizer builds a tokenizer again from its class and takes only a part of
# tokenizer.json. Where tokenizer_config.json says GPT2Tokenizer, the pre-tokenizer of tokenizer.json (cut digits apart,
# then bytes) is replaced by GPT-2's, which does not cut: "12 + 12" becomes [256, 220, 10, 220, 256] instead of
# [16, 17, 220, 10, 220, 16, 17]. With PreTrainedTokenizerFast in the same folder the file counts. Nothing is said.
# Guess before the run: tokenizer.json says all, and the class only names special tokens.
# For a user: compare AutoTokenizer with tokenizers.Tokenizer.from_file on numbers; the file is what the checkpoint was trained with.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/env/bin/python" - <<'PY'
import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer

TEXT, END = "12 + 12", "<|endoftext|>"
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
tokenizer = Tokenizer(models.BPE({text: i for i, text in enumerate([*alphabet, "12"])}, [("1", "2")]))
digits, letters = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, letters])
tokenizer.decoder = decoders.ByteLevel()
tokenizer.add_special_tokens([END])
found = {"tokenizer.json": tokenizer.encode(TEXT).ids}
for name in ("PreTrainedTokenizerFast", "GPT2Tokenizer"):
    folder = Path(name)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    says = {"tokenizer_class": name, "bos_token": END, "eos_token": END, "unk_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(says))
    found[name] = AutoTokenizer.from_pretrained(str(folder))(TEXT)["input_ids"]
for name, ids in found.items():
    print(f"{name:24}", ids)
apart, whole = [16, 17, 220, 10, 220, 16, 17], [256, 220, 10, 220, 256]
as_described = found == {"tokenizer.json": apart, "PreTrainedTokenizerFast": apart, "GPT2Tokenizer": whole}
print("as described" if as_described else "the behaviour has changed")
sys.exit(not as_described)
PY
