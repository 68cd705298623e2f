#!/usr/bin/env bash
# transformers 5.23.0, gguf 0.19.0, torch 2.15.0: from_pretrained(folder, gguf_file=...) leaves out what llama.cpp writes and reads,
# and says nothing: the biases of a Llama with attention_bias, and the scaling of the rotation: that of Llama 3 (the tensor
# rope_freqs.weight) and the linear one. Logits of a tiny random network are off by nats. Its tokenizer does not read tokenizer.ggml.pre:
# blanks before a digit are cut as by GPT-2 whatever the file says, so that ids differ from the checkpoint's own (SmolLM2-135M:
# 25 of 218 hard texts; llama.cpp and this project agree on all of them).
# Guess before: the logits of the checkpoint to 1e-4 or an error, and the ids of the checkpoint.
# For a user: transformers is no oracle for a GGUF file unless the file has nothing of this; SmolLM2's logits agree (1.4e-4).
# An environment that has all three may be named: bash transformers_gguf_forgets.sh PYTHON
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python="${1:-$folder/env/bin/python}"
if [ $# = 0 ]; then
  python3 -m venv "$folder/env"
  "$python" -m pip install --quiet --disable-pip-version-check transformers==5.23.0 gguf==0.19.0 torch==2.15.0
fi
TRANSFORMERS_VERBOSITY=error "$python" - "$folder" <<'PY' 2> "$folder/noise"
import sys

import numpy as np
import torch
from gguf import GGUFWriter, RopeScalingType
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

folder, letters = sys.argv[1], "abcdefghijklmnopqrstuvwxyz0123456789"
tokens = ["<|endoftext|>", *letters, "Ġ", "ĠĠ"]
D, H, F, V = 16, 2, 24, len(tokens)
ids = torch.arange(12)[None] % V


def written(model, rope=None, factors=None):
    """As convert_hf_to_gguf.py writes a LlamaForCausalLM: rows of q and k of each head interleaved."""
    w = GGUFWriter(f"{folder}/m.gguf", "llama")
    w.add_context_length(64)
    w.add_embedding_length(D)
    w.add_block_count(1)
    w.add_feed_forward_length(F)
    w.add_head_count(H)
    w.add_head_count_kv(H)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(100.0)
    w.add_vocab_size(V)
    w.add_rope_dimension_count(D // H)
    if rope:
        w.add_rope_scaling_type(RopeScalingType(rope["rope_type"]))
        w.add_rope_scaling_factor(rope["factor"])
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list(tokens)
    w.add_token_types([3] + [1] * (V - 1))
    w.add_token_merges(["Ġ Ġ"])
    w.add_eos_token_id(0)
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
             "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for key, value in model.state_dict().items():
        module, kind = key.rsplit(".", 1)
        x = value.numpy()
        if "q_proj" in key or "k_proj" in key:
            x = x.reshape(H, 2, D // H // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)
        name = whole.get(module) or "blk.0." + names[module.removeprefix("model.layers.0.")]
        w.add_tensor(f"{name}.{kind}", np.ascontiguousarray(x))
    if factors is not None:
        w.add_tensor("rope_freqs.weight", np.array(factors, np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def off(rope=None, factors=None, **settings):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=V, hidden_size=D, intermediate_size=F, num_hidden_layers=1, num_attention_heads=H, rms_norm_eps=1e-5,
        max_position_embeddings=64, attn_implementation="eager", rope_parameters={"rope_type": "default", "rope_theta": 100.0} | (rope or {}),
        **settings)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape) * (p.shape[-1] ** -0.5 * 3 if p.ndim == 2 else 1))
        written(model, None if factors is not None else rope, factors)
        back = AutoModelForCausalLM.from_pretrained(folder, gguf_file="m.gguf", dtype=torch.float32, attn_implementation="eager").eval()
        return float((model(ids).logits - back(ids).logits).abs().max())


llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 4}
found = {
    "plain": off(),
    "attention_bias": off(attention_bias=True),
    "linear": off({"rope_type": "linear", "factor": 8.0}),
    "llama3": off(llama3, [8.0] * (D // H // 2)),
}
for name, value in found.items():
    print(f"{name}: logits off by {value:.1e}")
written(LlamaForCausalLM(LlamaConfig(vocab_size=V, hidden_size=D, intermediate_size=F, num_hidden_layers=1, num_attention_heads=H)))
cut = AutoTokenizer.from_pretrained(folder, gguf_file="m.gguf").tokenize("a  7")
print(f"'a  7' in a file that says smollm: {cut}; llama.cpp: ['a', 'ĠĠ', '7']")
same = found.pop("plain") < 1e-4 and min(found.values()) > 0.1 and cut == ["a", "Ġ", "Ġ", "7"]
print("as described" if same else "the behaviour has changed")
sys.exit(not same)
PY
