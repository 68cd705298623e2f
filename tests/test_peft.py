"""Adapters in PEFT's format and exported networks: what PEFT and transformers compute, out and back, whole or not at all."""

import json
import shutil
import stat
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_files import CHECKPOINTS, FIXTURES, same

from teamtr_jax.llm.language_model import logits_of
from teamtr_jax.llm.llama.adapters import merged
from teamtr_jax.llm.llama.config import config_of
from teamtr_jax.llm.llama.export import export_folder
from teamtr_jax.llm.llama.load import load_agent
from teamtr_jax.llm.llama.lora import Lora
from teamtr_jax.llm.llama.peft_adapters import load_adapters, read_lora, save_adapters
from teamtr_jax.llm.llama.peft_config import lora_of, module_name
from teamtr_jax.validation import InputError

safetensors = pytest.importorskip("safetensors")
safetensors_numpy = pytest.importorskip("safetensors.numpy")
pytest.importorskip("tokenizers")

PEFT = FIXTURES / "peft"


@pytest.fixture(scope="module")
def agents():
    return {name: load_agent(CHECKPOINTS / name) for name in ("smollm2", "qwen2", "qwen3", "llama3")}


def logits(model, params, name):
    ids = jnp.asarray(np.load(CHECKPOINTS / name / "expected.npz")["ids"][-1:])
    features, _ = model.features(params, ids, jnp.ones(ids.shape, bool))
    return np.asarray(logits_of(features, model.head(params)))


@pytest.mark.parametrize("kind", ["plain", "patterns", "rslora", "layers"])
def test_adapters_made_by_peft_give_its_logits_and_go_out_and_back(kind, agents, tmp_path):
    name = (PEFT / kind / "checkpoint.txt").read_text().strip()
    base = agents[name]
    model, params = load_adapters(PEFT / kind, base.model, base.params)
    assert read_lora(PEFT / kind, base.model) == model.lora
    expected = np.load(PEFT / kind / "expected.npz")["logits"]
    assert np.abs(logits(model, params, name) - expected).max() < 1e-4
    assert params["embedding"] is base.params["embedding"]
    assert params["layers"]["q"]["kernel"] is base.params["layers"]["q"]["kernel"]

    save_adapters(tmp_path / "out", model, params, "the base")
    again, back = load_adapters(tmp_path / "out", base.model, base.params)
    assert again == model
    same(back, params)
    theirs, ours = (
        safetensors_numpy.load_file(folder / "adapter_model.safetensors") for folder in (PEFT / kind, tmp_path / "out")
    )
    assert theirs.keys() == ours.keys()
    assert all(np.array_equal(theirs[key], ours[key]) for key in theirs)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "the base"
    assert config["peft_type"] == "LORA"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_which_modules_ranks_and_scales_is_read_as_peft_reads_it():
    """`plans.json` holds what PEFT 0.21 made of each; None where it raised. In 12 layers 1 and 11 begin alike."""
    model = config_of(json.loads((CHECKPOINTS / "smollm2" / "config.json").read_text()) | {"num_hidden_layers": 12})
    plans = json.loads((PEFT / "plans.json").read_text())
    assert len(plans) == 20
    for plan in plans:
        json_ = {"peft_type": "LORA", **plan["settings"]}
        if plan["modules"] is None:
            with pytest.raises(InputError, match="target_modules"):
                lora_of(json_, model)
            continue
        lora = lora_of(json_, model)
        every = {module_name(model, m, i): (m, i) for m in lora.targets for i in range(12) if lora.rank_of(m, i)}
        found = {name: [lora.rank_of(*at), pytest.approx(lora.scale_of(*at))] for name, at in every.items()}
        assert plan["modules"] == found, plan["settings"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"peft_type": "IA3"}, "peft_type"),
        ({"peft_type": None}, "peft_type"),
        ({"task_type": "SEQ_CLS"}, "task_type"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "lora_only"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights"),
        ({"init_lora_weights": "olora"}, "init_lora_weights"),
        ({"init_lora_weights": 1}, "init_lora_weights"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"target_parameters": ["q_proj.weight"]}, "target_parameters"),
        ({"something_of_peft_1_0": "x"}, "something_of_peft_1_0"),
        ({"ensure_weight_tying": True}, "ensure_weight_tying"),
        ({"target_modules": ["q_proj", "lm_head"]}, "target_modules"),
        ({"target_modules": r".*(embed_tokens|q_proj)"}, "target_modules"),
        ({"target_modules": "("}, "target_modules"),
        ({"target_modules": None}, "target_modules"),
        ({"target_modules": [3]}, "target_modules"),
        ({"target_modules": ".*q_proj", "layers_to_transform": [0]}, "layers_to_transform"),
        ({"r": 0}, "r"),
        ({"lora_alpha": 0}, "lora_alpha"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 3, "layers.1.self_attn.q_proj": 4}}, "alpha_pattern"),
    ],
)
def test_what_is_no_plain_adapter_of_linear_maps_is_refused(changes, named, agents):
    config = json.loads((PEFT / "plain" / "adapter_config.json").read_text())
    with pytest.raises(InputError) as caught:
        lora_of(
            {key: value for key, value in (config | changes).items() if value is not None or key in config},
            agents["smollm2"].model,
        )
    assert caught.value.name == named


def test_whatever_stands_in_a_config_is_read_or_refused(agents):
    """Every entry with every kind of value that JSON has: no other error."""
    config = json.loads((PEFT / "plain" / "adapter_config.json").read_text())
    numbers = [None, True, False, 0, 1, -1, 2.5, float("nan"), float("inf"), 10**30]
    texts = ["", "x", "(", "layers", [], [1], [-1], ["q_proj"], ["("], [None], [["a"]]]
    objects = [{}, {"q_proj": 2}, {"q_proj": "x"}, {"(": 3}, {"q_proj": None}, {"q_proj": [1]}, {"a": {}}]
    read = 0
    for key in (*config, "new_entry"):
        for value in (*numbers, *texts, *objects):
            try:
                found = lora_of(config | {"layers_to_transform": [1]} | {key: value}, agents["smollm2"].model)
            except InputError:
                continue
            assert found.rank >= 1
            read += 1
    assert read > 300


def test_ways_to_begin_that_leave_the_base_alone_are_read(agents):
    config = json.loads((PEFT / "plain" / "adapter_config.json").read_text())
    for begin in (True, False, "gaussian", "eva", "orthogonal"):
        assert lora_of(config | {"init_lora_weights": begin, "lora_dropout": 0.1}, agents["smollm2"].model).rank == 4


A = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: {k: v for k, v in t.items() if k != A}, "found no such tensor"),
        (lambda t: {**t, A.replace("q_proj", "k_proj"): t[A]}, "k_proj.*found a tensor that adapter_config.json does not name"),
        (lambda t: {**t, "base_model.model.lm_head.lora_A.weight": t[A]}, "lm_head.*where tables are tied"),
        (lambda t: {**t, A: t[A][:3].copy()}, r"found shape \[3, 48\], expected \[4, 48\]"),
        (lambda t: {**t, A: t[A].T.copy()}, r"found shape \[48, 4\]"),
        (lambda t: {**t, A: np.where(t[A] == t[A][2, 5], np.inf, t[A])}, "found 1 entries that are not finite"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused(change, match, agents, tmp_path):
    shutil.copy(PEFT / "plain" / "adapter_config.json", tmp_path)
    tensors = safetensors_numpy.load_file(PEFT / "plain" / "adapter_model.safetensors")
    safetensors_numpy.save_file(change(tensors), tmp_path / "adapter_model.safetensors")
    base = agents["smollm2"]
    with pytest.raises(InputError, match=match):
        load_adapters(tmp_path, base.model, base.params)


def test_files_that_are_missing_or_damaged_are_refused(agents, tmp_path):
    base = agents["smollm2"]
    with pytest.raises(InputError, match=r"adapter_config\.json: found no such file"):
        load_adapters(tmp_path, base.model, base.params)
    shutil.copy(PEFT / "plain" / "adapter_config.json", tmp_path)
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: found no such file"):
        load_adapters(tmp_path, base.model, base.params)
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80")
    with pytest.raises(InputError, match="a pickle"):
        load_adapters(tmp_path, base.model, base.params)
    whole = (PEFT / "plain" / "adapter_model.safetensors").read_bytes()
    (tmp_path / "adapter_model.safetensors").write_bytes(whole[:-9])
    with pytest.raises(InputError, match="a damaged file"):
        load_adapters(tmp_path, base.model, base.params)


def test_half_precision_adapters_become_float32(agents, tmp_path):
    shutil.copy(PEFT / "plain" / "adapter_config.json", tmp_path)
    tensors = safetensors_numpy.load_file(PEFT / "plain" / "adapter_model.safetensors")
    half = {key: value.astype(jnp.bfloat16) for key, value in tensors.items()}
    safetensors_numpy.save_file(half, tmp_path / "adapter_model.safetensors")
    base = agents["smollm2"]
    _, params = load_adapters(tmp_path, base.model, base.params)
    found = np.asarray(params["layers"]["q"]["lora_a"][1])
    assert found.dtype == np.float32
    assert np.array_equal(found, half[A].astype(np.float32).T)


def test_adapters_replace_those_that_are_there(agents):
    base = agents["smollm2"]
    first = load_adapters(PEFT / "patterns", base.model, base.params)
    model, params = load_adapters(PEFT / "plain", *first)
    expected = load_adapters(PEFT / "plain", base.model, base.params)
    assert model == expected[0]
    same(params, expected[1])


# ------------------------------------------------------------------------------------------- writing, whole or not at all


def places(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_nothing_is_left_half_written(agents, tmp_path):
    base = agents["smollm2"]
    model, params = load_adapters(PEFT / "plain", base.model, base.params)
    params["layers"]["v"]["lora_b"] = params["layers"]["v"]["lora_b"].at[1, 0, 0].set(jnp.nan)
    with pytest.raises(InputError, match=r"1\.self_attn\.v_proj\.lora_B\.weight: found 1 entries that are not finite"):
        save_adapters(tmp_path / "out", model, params)
    broken = {**base.params, "norm": {"scale": base.params["norm"]["scale"].at[3].set(jnp.inf)}}
    with pytest.raises(InputError, match=r"norm/scale: found entries of model\.norm\.weight that are not finite"):
        export_folder(tmp_path / "out", base.model, broken, CHECKPOINTS / "smollm2")
    assert places(tmp_path) == []
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    for write in (
        lambda: save_adapters(tmp_path / "out", model, params),
        lambda: export_folder(tmp_path / "out", base.model, base.params, CHECKPOINTS / "smollm2"),
    ):
        with pytest.raises(InputError, match="which is not empty"):
            write()
    with pytest.raises(InputError, match="a file"):
        save_adapters(tmp_path / "out" / "mine", model, params)
    assert places(tmp_path) == ["mine", "out"]
    assert (tmp_path / "out" / "mine").read_text() == "kept"
    with pytest.raises(InputError, match=r"model\.lora: found None"):
        save_adapters(tmp_path / "other", base.model, base.params)


def test_a_full_disk_is_an_error_and_leaves_nothing(agents, tmp_path, monkeypatch):
    base = agents["smollm2"]

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors_numpy, "save_file", full)
    with pytest.raises(InputError, match="No space left on device"):
        save_adapters(tmp_path / "out", *load_adapters(PEFT / "plain", base.model, base.params))
    with pytest.raises(InputError, match="No space left on device"):
        export_folder(tmp_path / "out", base.model, base.params, CHECKPOINTS / "smollm2")
    assert places(tmp_path) == []


def test_leaves_on_the_host_in_any_order_go_out_as_they_are(agents, tmp_path):
    base = agents["smollm2"]
    model, params = load_adapters(PEFT / "plain", base.model, base.params)
    save_adapters(tmp_path / "out", model, jax.tree.map(np.asfortranarray, params))
    same(load_adapters(tmp_path / "out", base.model, base.params)[1], params)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert len(modes) == 1, "safetensors gives its files to the owner alone"


def test_an_empty_folder_and_missing_parents_will_do(agents, tmp_path):
    base = agents["smollm2"]
    model, params = load_adapters(PEFT / "plain", base.model, base.params)
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "a" / "b"):
        save_adapters(folder, model, params)
        assert load_adapters(folder, base.model, base.params)[0] == model


# ------------------------------------------------------------------------------------------------------- exported networks


@pytest.mark.parametrize(("name", "shard"), [("smollm2", 2**30), ("qwen3", 20_000), ("llama3", 2**30)])
def test_a_trained_network_goes_out_and_back(name, shard, agents, tmp_path):
    base = agents[name]
    params = jax.tree.map(lambda leaf: leaf * 1.25, base.params)
    export_folder(tmp_path / "out", replace(base.model, remat=True, unroll=True), params, CHECKPOINTS / name, shard)
    again = load_agent(tmp_path / "out")
    assert again.model == base.model
    same(again.params, params)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    names = [key for file in files for key in safetensors_numpy.load_file(file)]
    assert len(names) == len(set(names))
    assert ("lm_head.weight" in names) is (name != "smollm2")
    assert len(files) == (7 if name == "qwen3" else 1)
    index = tmp_path / "out" / "model.safetensors.index.json"
    assert index.exists() is (name == "qwen3")
    if name == "qwen3":
        listed, held = json.loads(index.read_text()), {file.name: safetensors_numpy.load_file(file) for file in files}
        assert listed["weight_map"] == {key: file for file, arrays in held.items() for key in arrays}
        assert listed["metadata"]["total_size"] == sum(x.nbytes for arrays in held.values() for x in arrays.values())
    q = safetensors_numpy.load_file(files[0]) | safetensors_numpy.load_file(files[-1])
    assert np.array_equal(q["model.embed_tokens.weight"], params["embedding"])
    before, after = (
        json.loads((folder / "config.json").read_text()) for folder in (CHECKPOINTS / name, tmp_path / "out")
    )
    for config in (before, after):
        config.pop("torch_dtype", None)
    assert "torch_dtype" not in json.loads((tmp_path / "out" / "config.json").read_text())
    assert after.pop("dtype") == "float32"
    before.pop("dtype", None)
    assert before == after
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "out" / file).read_bytes() == (CHECKPOINTS / name / file).read_bytes()
    assert (tmp_path / "out" / "chat_template.jinja").exists() is (name == "qwen3")


def test_every_file_of_a_tokenizer_goes_along(agents, tmp_path):
    """As transformers names them, of any age; nothing else of the source."""
    source = shutil.copytree(CHECKPOINTS / "smollm2", tmp_path / "source")
    names = [
        "tokenizer.model",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
    ]
    for name in (*names, "notes.txt"):
        (source / name).write_text(name)
    export_folder(tmp_path / "out", agents["smollm2"].model, agents["smollm2"].params, source)
    for name in (*names, "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
    assert not (tmp_path / "out" / "notes.txt").exists()


def test_adapters_are_merged_in_float32_alone(agents, tmp_path):
    base = agents["smollm2"]
    model, params = load_adapters(PEFT / "patterns", base.model, base.params)
    export_folder(tmp_path / "out", model, params, CHECKPOINTS / "smollm2")
    again = load_agent(tmp_path / "out")
    assert again.model == base.model
    same(again.params, merged(model, params))
    assert model.lora is not None
    scale, a, b = model.lora.scale_of("q", 1), *(np.asarray(params["layers"]["q"][f"lora_{x}"][1]) for x in "ab")
    expected = np.asarray(base.params["layers"]["q"]["kernel"][1]) + scale * a @ b
    assert (
        np.abs(np.asarray(again.params["layers"]["q"]["kernel"][1]) - expected).max()
        < 1e-5
        < np.abs(scale * a @ b).max()
    )
    half = load_agent(CHECKPOINTS / "smollm2", dtype="bfloat16", lora=Lora())
    with pytest.raises(InputError, match="adapters on a bfloat16 base"):
        export_folder(tmp_path / "half", half.model, half.params, CHECKPOINTS / "smollm2")
    assert places(tmp_path)[0] != "half"


def test_the_source_is_what_the_network_came_from(agents, tmp_path):
    base = agents["smollm2"]
    with pytest.raises(InputError, match="the config of another network"):
        export_folder(tmp_path / "out", base.model, base.params, CHECKPOINTS / "llama3")
    with pytest.raises(InputError, match="the config of another network"):
        export_folder(tmp_path / "out", replace(base.model, norm_eps=1e-6), base.params, CHECKPOINTS / "smollm2")
    short = {**base.params, "embedding": base.params["embedding"][:-1]}
    with pytest.raises(InputError, match=r"embedding: found shape \[299, 48\]"):
        export_folder(tmp_path / "out", base.model, short, CHECKPOINTS / "smollm2")
    assert places(tmp_path) == []
