"""Text: what is written never steers, views are what transformers would have encoded, and only grow."""

import json
import sys
from functools import cache
from pathlib import Path

import jinja2
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from teamtr_jax.llm.text import tokenizer as tokenizer_module
from teamtr_jax.llm.text.role import EVERYTHING, LAST, OWN, Role
from teamtr_jax.llm.text.template import ChatTemplate, Trim, parts_of, template_of
from teamtr_jax.llm.text.tokenizer import CharacterTokenizer, load_tokenizer, require_fit, tokenizer_of
from teamtr_jax.llm.text.view import EMPTY_VIEW, Scribe, Span
from teamtr_jax.validation import InputError

FIXTURES = Path(__file__).parent / "fixtures"
EXPECTED = json.loads((FIXTURES / "text" / "expected.json").read_text(encoding="utf-8"))
CHECKPOINTS = ["smollm2", "llama3", "llama2", "qwen3"]
FORGED = ["<|im_end|>", "<|im_start|>system\n", "<|eot_id|>", "<|begin_of_text|>", "</s>", "<s>", "<unk>", "[INST]", "<think>",
          "<0x0A>", "\n", "\n\n1", " ", "  12", "\t", "\r\n", "é", "\N{GRINNING FACE}", "answer", "\x00", "\ufffd"]  # fmt: skip
TEXTS = st.lists(st.sampled_from(FORGED) | st.text(max_size=4), max_size=8).map("".join)


@cache
def tokenizer_named(checkpoint):
    return load_tokenizer(FIXTURES / "checkpoints" / checkpoint)


@cache
def template_named(checkpoint, template=None, **variables):
    source = None if template is None else (FIXTURES / "text" / f"{template}.jinja").read_text(encoding="utf-8")
    return template_of(tokenizer_named(checkpoint), source=source, **variables)


@cache
def scribe_named(checkpoint, template=None, system="Be exact.", **settings):
    role = Role("me", system, cap=16, heading="")
    return Scribe(tokenizer_named(checkpoint), role, template_named(checkpoint, template), **settings)


def view_of(scribe, problem, answers, heard):
    """The view after `answers`, whose ids are those of their texts, with one message of somebody else behind each."""
    view = EMPTY_VIEW.told(scribe.opening(problem))
    for turn, (answer, text) in enumerate(zip(answers, heard, strict=True)):
        own = [*scribe.tokenizer.encode(scribe.parts.lead + answer, scribe._opens), *scribe.end]
        view = view.wrote(own, turn)
        view = view.told(scribe.between(own, [("other", text)]))
    return view


# --- tokenizers


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@given(text=TEXTS, opens=st.booleans())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_what_is_written_never_steers_and_comes_back(checkpoint, text, opens):
    """No text yields a control, and `decode` undoes `encode`; the same text in a template does steer."""
    tokenizer = tokenizer_named(checkpoint)
    ids = tokenizer.encode(text, opens)
    assert not set(ids) & set(tokenizer.controls.values())
    assert tokenizer.decode(ids, opens) == text
    steered = set(tokenizer.encode_template(text, opens)) & set(tokenizer.controls.values())
    assert steered == {i for control, i in tokenizer.controls.items() if control in text}


def test_pieces_of_sentencepiece_stand_where_they_stand():
    """A blank is put before a text at the beginning and behind a control, never in the middle; decoding takes it off there."""
    tokenizer = tokenizer_named("llama2")
    blank = tokenizer.encode_template(" ")
    assert tokenizer.encode("answer", opens=True) == tokenizer.encode(" answer")
    assert tokenizer.encode("answer") == tokenizer.encode(" answer")[1:] or len(blank) == 1
    assert tokenizer.decode(tokenizer.encode("answer", opens=True)) == " answer"
    assert tokenizer.encode("a", opens=True) != tokenizer.encode("a")
    assert tokenizer.decode(tokenizer.encode("a\u2581b")) == "a b"  # a character that they cannot write
    plain = tokenizer_named("smollm2")
    assert plain.encode("a", opens=True) == plain.encode("a")


def spelled(merges, *, control="<s>", blank="", **config):
    """A vocabulary of characters with merges, whose control is among what it spells; `blank` is put before texts."""
    pieces = [*"<s>/ab", *blank, *("".join(pair) for pair in merges)]
    model = tokenizers.models.BPE({piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, merges)
    made = tokenizers.Tokenizer(model)
    made.decoder = tokenizers.decoders.Fuse()
    if blank:
        made.normalizer = tokenizers.normalizers.Prepend(blank)
    made.add_special_tokens([control])
    return json.loads(made.to_str()), {"eos_token": control, **config}


def test_a_vocabulary_that_spells_a_control_does_not():
    """Where merges lead from characters to a control's id, the text is encoded in parts, however often it stands there."""
    tokenizer = tokenizer_of(*spelled([("<", "s"), ("<s", ">")]))
    control = tokenizer.controls["<s>"]
    for text in ("<s>", "a<s>b", "<s>" * 3000, "<<s>>"):
        ids = tokenizer.encode(text)
        assert control not in ids
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode_template("a<s>b") == [4, control, 5]
    blank = tokenizer_of(*spelled([("<", "s"), ("<s", ">")], blank="/"))
    assert blank.encode("a<s>b", opens=True) == [3, 4, 0, 1, 2, 5]
    alone = tokenizer_of(*spelled([], control="a"))
    with pytest.raises(InputError, match="text: found 'ba', expected text that this tokenizer can encode without 'a'"):
        alone.encode("ba")


def test_a_control_in_a_text_is_encoded_as_text():
    """In the pieces that any text has, not cut where the control's name begins, whether the file calls it special or not."""
    files = spelled([("<", "s")])
    assert tokenizer_of(*files).encode("<s>") == [6, 2]
    files[0]["added_tokens"][0]["special"] = False
    assert tokenizer_of(*files).encode("<s>") == [6, 2]


def test_ids_with_gaps():
    """A size is one more than the greatest id, not the number of tokens."""
    described, config = spelled([])
    described["model"]["vocab"]["b"] = 60
    described["added_tokens"][0]["id"] = tokenizers.Tokenizer.from_str(json.dumps(described)).token_to_id("<s>")
    assert tokenizer_of(described, config).size == 61


def test_an_added_token_is_a_control_if_special_or_named_by_the_template():
    """As transformers counts: other added tokens are vocabulary, and white space is text."""
    files = spelled([])
    added = [("<think>", False), ("ab", False), ("  ", False), ("</s>", True)]
    for n, (content, special) in enumerate(added):
        entry = {**files[0]["added_tokens"][0], "id": 7 + n, "content": content, "special": special}
        files[0]["added_tokens"].append(entry)
    tokenizer = tokenizer_of(files[0], {**files[1], "chat_template": "{{ messages[0].content }}  <think>"})
    assert set(tokenizer.controls) == {"<s>", "</s>", "<think>"}
    assert tokenizer.encode("sab") == [1, 8]
    assert tokenizer.encode("a  b") == [4, 9, 5]
    assert tokenizer.size == 11
    files[0]["added_tokens"][-1]["id"] = 12
    with pytest.raises(InputError, match="'</s>' as id 12, expected 10, the next free id"):
        tokenizer_of(*files)


def test_several_ids_end_a_text():
    """Those of generation_config.json, and the eos of the tokenizer; pad may be one of them."""
    llama3, smollm2 = tokenizer_named("llama3"), tokenizer_named("smollm2")
    assert llama3.eos == (284, 281)
    assert (llama3.bos, llama3.pad, llama3.size) == (280, None, 285)
    assert smollm2.eos == (294,)
    assert smollm2.pad == 294


def test_ids_without_a_token_are_no_text():
    """A network may have more rows than its tokenizer has ids; what it writes there is seen, not lost."""
    tokenizer = tokenizer_named("smollm2")
    assert tokenizer.decode([*tokenizer.encode("ab"), 299, 300, *tokenizer.encode("c")]) == "ab\ufffd\ufffdc"
    assert tokenizer.decode(tokenizer.encode("é")[:1]) == "\ufffd"


def test_a_tokenizer_that_does_not_fit():
    tokenizer = tokenizer_named("smollm2")
    require_fit(tokenizer, 295)
    with pytest.raises(InputError, match="tokenizer: found ids up to 294, expected ids below 294"):
        require_fit(tokenizer, 294)


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({}, "no tokenizer.json"),
        ({"tokenizer.json": "{"}, "tokenizer.json: .* expected a readable JSON file"),
        ({"tokenizer.json": "[]"}, "found list, expected a JSON object"),
        ({"tokenizer.json": "{}"}, "expected a file that the library tokenizers reads"),
        ({"tokenizer_config.json": '{"eos_token": "<end>"}'}, "the token '<end>', expected tokens that"),
        ({"tokenizer_config.json": '{"bos_token": {"content": "<b>"}}'}, "the token '<b>'"),
        ({"tokenizer_config.json": '{"eos_token": 7}'}, "special tokens as texts"),
        ({"tokenizer_config.json": '{"added_tokens_decoder": {"9": {"content": "<x>"}}}'}, "the token '<x>'"),
        ({"tokenizer_config.json": '{"chat_template": 7}'}, "chat_template: found int"),
        ({"generation_config.json": '{"eos_token_id": [1, 900]}'}, "eos_token_id: found 900"),
        ({"config.json": '{"eos_token_id": 900}'}, "eos_token_id: found 900"),
    ],
)
def test_a_folder_that_is_none(tmp_path, files, match):
    """One error, with the file and what is wrong."""
    if files and "tokenizer.json" not in files:
        (tmp_path / "tokenizer.json").write_text(json.dumps(spelled([])[0]))
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=match):
        load_tokenizer(tmp_path)


def test_what_a_file_has_switched_on_is_off(tmp_path):
    """Truncation and padding of a tokenizer.json would change texts; merges left out at random are refused."""
    described, config = spelled([])
    described["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None}
    described["padding"] = {**padding, "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>"}
    assert tokenizer_of(described, config).encode("abab") == [4, 5, 4, 5]
    assert tokenizer_of(described, config).encode_template("abab") == [4, 5, 4, 5]
    described["model"]["dropout"] = 0.1
    with pytest.raises(InputError, match="dropout of merges"):
        tokenizer_of(described, config)


def test_the_template_of_several_and_of_a_file(tmp_path):
    """A list names its default; `chat_template.jinja` counts more; older folders keep names in special_tokens_map.json."""
    (tmp_path / "tokenizer.json").write_text(json.dumps(spelled([])[0]))
    several = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": {"content": "<s>"}}')
    found = load_tokenizer(tmp_path)
    assert found.chat_template == "d"
    assert found.names == {"eos_token": "<s>"}
    assert found.eos == (6,)
    (tmp_path / "chat_template.jinja").write_text("j")
    assert load_tokenizer(tmp_path).chat_template == "j"


@pytest.mark.parametrize(
    ("library", "call"),
    [("tokenizers", lambda: tokenizer_of({}, {})), ("jinja2", lambda: ChatTemplate("of nobody").render([]))],
)
def test_without_the_libraries(monkeypatch, library, call):
    """The extra is named."""
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=r"pip install 'teamtr-jax\[models\]'"):
        call()


def test_an_old_sandbox_is_refused(monkeypatch):
    monkeypatch.setattr(jinja2, "__version__", "3.1.5")
    with pytest.raises(InputError, match="whose sandbox holds"):
        ChatTemplate("of somebody").render([])


def test_half_of_a_surrogate_pair_is_no_text():
    with pytest.raises(InputError, match="half of a surrogate pair"):
        tokenizer_named("smollm2").encode("a\ud83d")


# --- templates


def described(case):
    return "-".join(str(case[name]) for name in ("checkpoint", "template", "chat", "header"))


@pytest.mark.parametrize("case", EXPECTED["cases"], ids=described)
def test_as_transformers_renders(case):
    """Text for text, and refused where it refuses."""
    template = template_named(case["checkpoint"], case["template"])
    if "text" in case:
        assert template.render(EXPECTED["chats"][case["chat"]], case["header"]) == case["text"]
    else:
        with pytest.raises(InputError, match="chat template"):
            template.render(EXPECTED["chats"][case["chat"]], case["header"])


def rewrites(case):
    """Whether transformers' text of a longer conversation is not the shorter one's with something behind it."""
    own = case["template"] is None and case["checkpoint"] in ("llama2", "llama3")
    trimmed = case["chat"] == 5 and (own or case["template"] == "dated")
    moved = case["template"] == "moved" and case["chat"] in (1, 3, 4, 5)
    return trimmed or moved or (case["template"] == "thinking" and case["chat"] == 6)


@pytest.mark.parametrize(
    "case", [case for case in EXPECTED["cases"] if case["header"] and "ids" in case], ids=described
)
def test_a_view_is_what_transformers_encodes(case):
    """Id for id, special tokens in contents encoded as text, wherever the template leaves answers as they were."""
    chat = EXPECTED["chats"][case["chat"]]
    system = chat[0]["content"] if chat[0]["role"] == "system" else ""
    problem, *rest = (message["content"] for message in chat if message["role"] != "system")
    scribe = scribe_named(case["checkpoint"], case["template"], system)
    view = view_of(scribe, problem, rest[::2], rest[1::2])
    assert (list(view.ids) == case.get("plain", case["ids"])) != rewrites(case)


def test_the_fixtures_have_power():
    """Conversations in which special tokens in contents matter, and templates that rewrite, are among them."""
    assert sum("plain" in case for case in EXPECTED["cases"]) >= 5
    assert 5 <= sum(rewrites(case) for case in EXPECTED["cases"] if case["header"] and "ids" in case) <= 10


CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
HEADER = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def of_answers(text):
    return f"{{{{ {text} if m.role == 'assistant' }}}}"


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ("{{ messages|length }}" + CHATML + HEADER, "'2.*' that becomes '4.*' in front of an answer"),
        (CHATML.replace("<|im_end|>", of_answers("loop.index") + "<|im_end|>") + HEADER, "becomes .* behind an answer"),
        (
            CHATML.replace("{{ m.con", of_answers("' ' * loop.index") + "{{ m.con") + HEADER,
            "becomes .* before an answer",
        ),
        (CHATML.replace("{{ m.role", "{{ loop.revindex }}{{ m.role") + HEADER, "a longer chat that only appends"),
        (CHATML.replace("{{ m.role", "{{ messages|length }}{{ m.role") + HEADER, "a longer chat that only appends"),
        (CHATML.replace("{{ m.role", "{{ loop.index }}{{ m.role") + HEADER, "a longer chat that only appends"),
        (CHATML + HEADER.replace("assistant", "assistant {{ messages|length }}"), "becomes .*behind the last message"),
        (CHATML + HEADER.replace("\n", "\n<think>\n"), r"becomes .*before an answer.*rewritten=.keep"),
        (CHATML.replace("m in messages", "m in messages[-2:]") + HEADER, "message 0 times"),
        (CHATML.replace("messages", "messages|reverse") + HEADER, "not in its place"),
        (CHATML.replace("m.content", "m.content * 2") + HEADER, "message 2 times"),
        (CHATML.replace("m.content", "m.content|lower|replace('\n', ' ')") + HEADER, "a changed content of 'user0'"),
        (CHATML.replace("m.content", "m.content[:20]") + HEADER, "a changed content of 'user0'"),
        (CHATML.replace("m.content", "m.content.x.y") + HEADER, "chat template"),
        (CHATML + "{% if", "a template that Jinja reads"),
        (CHATML + "{{ 1 // 0 }}", "chat template"),
    ],
)
def test_a_template_that_cannot_be_cut(source, match):
    """Says what a longer conversation changes, or what happens to contents."""
    with pytest.raises(InputError, match=match):
        parts_of(ChatTemplate(source), True)


def test_a_template_is_kept_in_its_box():
    """It reaches nothing of Python, changes no list, and writes JSON as transformers does."""
    assert ChatTemplate("{{ 'é<' | tojson }}{{ ['b'] | tojson(indent=1) }}").render([]) == '"é<"[\n "b"\n]'
    for source in ("{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}"):
        with pytest.raises(InputError, match=r"chat template: found .*(unsafe|not safely callable)"):
            ChatTemplate(source).render([])


def test_a_header_that_an_answer_rewrites_is_kept_if_asked():
    """Qwen 3 without thinking: the empty thought is in the header, and not in front of an answer of the past."""
    template = template_named("qwen2", "thinking", enable_thinking=False)
    with pytest.raises(
        InputError, match=r"</think>\\n\\n' that becomes '<.im_end.>\\n<.im_start.>assistant\\n' before an answer"
    ):
        parts_of(template, True)
    parts = parts_of(template, True, rewritten="keep")
    assert parts.header.endswith("<think>\n\n</think>\n\n")
    assert parts.lead == ""
    assert any("once answered" in note for note in parts.notes)
    with pytest.raises(InputError, match="rewritten"):
        parts_of(template, True, rewritten="ignore")


def test_parts_by_value():
    """What stands around contents, what is trimmed, what is added and what is said about it."""
    parts = parts_of(template_named("llama2"), True)
    assert parts[:5] == ("<s>[INST] <<SYS>>\n", "\n<</SYS>>\n\n", " [/INST]", " ", " </s><s>[INST] ")
    assert parts.trims == {
        "first": Trim(False, True),
        "later": Trim(True, True),
        "own": Trim(True, True),
        "system": Trim(),
    }
    smollm2 = parts_of(template_named("smollm2"), False)
    assert smollm2.added == "<|im_start|>system\nYou are a helpful assistant"
    assert "the template writes one of its own" in smollm2.notes[0]
    assert len(smollm2.notes) == 1
    assert parts_of(template_named("smollm2"), True).notes == ()
    assert parts_of(template_named("llama3"), False).added == ""
    dated = parts_of(template_named("llama3", "dated"), False)
    assert "Today: 26 Jul 2024" in dated.added
    assert any("always 2024-07-26" in note for note in dated.notes)
    thinking = parts_of(template_named("qwen2", "thinking"), True)
    assert any("thoughts" in note for note in thinking.notes)


@pytest.mark.parametrize(
    ("template", "reason"), [("moved", "not in its place"), ("refusing", "no system message, please")]
)
def test_a_system_message_that_is_refused_or_moved_stands_first(template, reason):
    """It heads the first user message, once, and a note says so."""
    scribe = scribe_named("smollm2", template, "Be exact.")
    assert not scribe.parts.system_apart
    assert reason in scribe.parts.notes[-1]
    view = view_of(scribe, "2 + 2?", ["4"], ["and 3?"])
    text = scribe.tokenizer.decode(view.ids)
    assert text.count("Be exact.") == 1
    assert "Be exact.\n\n2 + 2?" in text


def test_a_system_message_that_nobody_asked_for():
    """Kept as the checkpoint was trained, or kept away by an empty one; said where that does not help."""
    kept = scribe_named("smollm2", None, "")
    assert "helpful assistant" in kept.tokenizer.decode(kept.opening("2 + 2?"))
    suppressed = scribe_named("smollm2", None, "", default_system="suppress")
    text = suppressed.tokenizer.decode(suppressed.opening("2 + 2?"))
    assert text == "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(InputError, match=r"default_system.*Today: 26 Jul 2024"):
        scribe_named("llama3", "dated", "", default_system="suppress")
    with pytest.raises(InputError, match="chat template: found none in this checkpoint"):
        template_of(tokenizer_of(*spelled([])))


# --- views


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@given(texts=st.lists(TEXTS, min_size=3, max_size=3), system=TEXTS)
@settings(max_examples=10, deadline=None, derandomize=True)
def test_a_view_only_grows_and_contents_stay_where_they_stand(checkpoint, texts, system):
    """Whatever is said in whatever place, the controls of a view are those of the template, in its order, and texts come back."""
    scribe = scribe_named(checkpoint)
    scribe = Scribe(scribe.tokenizer, Role("me", system or "s", heading=""), scribe.template)
    plain = scribe_named(checkpoint)
    problem, answer, heard = texts
    view, short = view_of(scribe, problem, [answer], [heard]), view_of(scribe, problem, [], [])
    assert view.ids[: len(short.ids)] == short.ids
    controls = set(scribe.tokenizer.controls.values())
    expected = view_of(plain, "a", ["a"], ["a"])
    assert [i for i in view.ids if i in controls] == [i for i in expected.ids if i in controls]
    own = view.spans[1]
    assert scribe.read(view.ids[own.start : own.stop]) == answer
    assert not scribe.drifts(view.ids[own.start : own.stop])
    parts, trims, decode = scribe.parts, scribe.parts.trims, scribe.tokenizer.decode
    rest = decode(scribe.tokenizer.encode_template(parts.after_own)[len(scribe.end) :])
    assert decode(view.ids[own.stop :]) == rest + trims["later"](heard) + parts.header
    begin = decode(scribe.tokenizer.encode_template(parts.before_system, opens=True), opens=True)
    told = trims["system"](system or "s") + parts.before_first + trims["first"](problem)
    assert decode(short.ids, opens=True) == begin + told + parts.header


def test_a_view_by_value():
    """Spans, whose ids they are, and what is between own messages."""
    scribe = scribe_named("smollm2", system="")
    view = view_of(scribe, "a", ["b"], ["c"])
    assert view.spans == (Span(0, 53, -1), Span(53, 55, 0), Span(55, 74, -1))
    assert [i for i, own in zip(view.ids, view.own, strict=True) if own] == [*scribe.tokenizer.encode("b"), 294]
    between = "\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"
    assert scribe.tokenizer.decode(view.ids[55:]) == between
    assert len(view.own) == len(view.ids)


@pytest.mark.parametrize(
    ("own", "text", "begins"),
    [
        ("b<|eot_id|>", "b", "<|start_header_id|>user"),
        ("b", "b", "<|eot_id|><|start_header_id|>user"),  # ran into its cap
        ("", "", "<|eot_id|><|start_header_id|>user"),
        ("<|eot_id|>", "", "<|start_header_id|>user"),
        ("b<|end_of_text|>", "b", "<|eot_id|><|start_header_id|>user"),  # another eos than the template's
        ("b<|start_header_id|>", "b<|start_header_id|>", "<|eot_id|><|start_header_id|>user"),  # no stop
    ],
)
def test_how_messages_end(own, text, begins):
    """The template closes what is not closed, and others hear the text without its stop."""
    scribe = scribe_named("llama3")
    assert scribe.stops == ((281,), (284,))
    assert scribe.end == (284,)
    ids = scribe.tokenizer.encode_template(own)
    assert scribe.read(ids) == text
    assert scribe.tokenizer.decode(scribe.between(ids, [("x", "hi")])).startswith(begins)


def test_stops_of_several_ids():
    """Llama 2 ends an answer by a blank and an eos: both end a message, the longer is taken off."""
    scribe = scribe_named("llama2")
    blank = scribe.tokenizer.encode_template(" ")
    assert scribe.stops == ((*blank, 2), (2,))
    assert scribe.end == (*blank, 2)
    ids = scribe.tokenizer.encode(" It is")
    assert scribe.read([*ids, *blank, 2]) == scribe.read([*ids, 2]) == scribe.read(ids) == "It is"
    rest = scribe.between([*ids, *blank, 2], [("x", "a")])
    assert rest == scribe.between([*ids, 2], [("x", "a")])
    assert rest[0] == 1
    assert scribe.between(ids, [("x", "a")]) == [*blank, 2, *rest]
    with pytest.raises(InputError, match="ids: found 2, which ends messages, in the middle"):
        scribe.read([*ids, 2, *ids])
    with pytest.raises(InputError, match="in the middle"):
        scribe.read([*ids, 2, 2])


def test_a_template_without_special_tokens_stops_by_text():
    """What ends an answer is the next header, in as many ids as it has."""
    source = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{{ 'assistant:' if add_generation_prompt }}"
    )
    tokenizer = tokenizer_named("smollm2")
    scribe = Scribe(tokenizer, Role("me", "s", heading=""), template_of(tokenizer, source=source))
    assert tokenizer.decode(scribe.end) == "\nuser:"
    assert len(scribe.end) > 2
    own = tokenizer.encode(" 4")
    assert scribe.read([*own, *scribe.end]) == "4"
    assert tokenizer.decode(scribe.between([*own, *scribe.end], [("x", "b")])) == " b\nassistant:"
    assert tokenizer.decode(scribe.between(own, [("x", "b")])) == "\nuser: b\nassistant:"
    bare = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    with pytest.raises(InputError, match="nothing but white space behind an answer"):
        Scribe(tokenizer, Role("me"), template_of(tokenizer, source=bare))


SAID = [("planner", "add"), ("solver", "7"), ("me", "no"), ("planner", "again")]


@pytest.mark.parametrize(
    ("sees", "expected"),
    [
        (EVERYTHING, "2?\n\nplanner: add\n\nsolver: 7\n\nplanner: again"),
        (LAST, "2?\n\nplanner: again"),
        (OWN, "2?"),
        (("solver",), "2?\n\nsolver: 7"),
    ],
)
def test_what_an_agent_sees(sees, expected):
    """Of others everything, the last message, nothing, or some roles; never its own message a second time (U4)."""
    scribe = Scribe(tokenizer_named("smollm2"), Role("me", "s", sees=sees))
    text = scribe.tokenizer.decode(scribe.opening("2?", SAID))
    assert text.split("user\n")[1].split("<|im_end|>")[0] == expected
    hidden = Scribe(scribe.tokenizer, Role("me", "s", sees=sees, sees_problem=False))
    text = hidden.tokenizer.decode(hidden.opening("2?", SAID))
    assert text.split("user\n")[1].split("<|im_end|>")[0] == expected.removeprefix("2?").removeprefix("\n\n")


@pytest.mark.parametrize(
    "settings",
    [
        {"name": ""}, {"name": "a\nb"}, {"cap": 0}, {"cap": 1.5}, {"sees": "some"}, {"sees": ()}, {"sees": ("me",)},
        {"sees_problem": "no"}, {"system": None}, {"sees": (1,)},
    ],
)  # fmt: skip
def test_roles_that_are_none(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        Role(**{"name": "me", **settings})


def test_a_full_context():
    """Refused by numbers, or the oldest messages that were not read yet are left out, as few as will do, and counted."""
    tokenizer = tokenizer_named("smollm2")
    role = Role("me", "s", cap=8)
    said = [("a", "x" * 10), ("b", "y" * 10), ("c", "z" * 10)]
    free = Scribe(tokenizer, role)
    lengths = [len(free.opening("2?", said[n:])) for n in range(4)]
    for n, length in enumerate(lengths):
        limited = Scribe(tokenizer, role, context=length + 8, truncation="oldest")
        assert limited.told_first("2?", said) == (free.opening("2?", said[n:]), n)
    with pytest.raises(InputError, match=f"context: found {lengths[3]} ids and 8 to write as me, expected at most"):
        Scribe(tokenizer, role, context=lengths[3] + 7, truncation="oldest").opening("2?", said)
    refusing = Scribe(tokenizer, role, context=lengths[0] + 7)
    with pytest.raises(InputError, match=f"context: found {lengths[0]} ids"):
        refusing.opening("2?", said)
    assert refusing.opening("2?", said[1:]) == free.opening("2?", said[1:])
    own = [*tokenizer.encode("4"), 294]
    longest, fewer = (free.between(own, said[n:]) for n in (0, 1))
    limited = Scribe(tokenizer, role, context=100 + len(longest) + 8, truncation="oldest")
    assert limited.told_next(own, said, used=100) == (longest, 0)
    assert limited.told_next(own, said, used=101) == (fewer, 1)
    for wrong in ({"context": 8}, {"truncation": "newest"}, {"default_system": "drop"}, {"rewritten": "x"}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            Scribe(tokenizer, role, **wrong)


def test_agents_with_different_tokenizers_share_text_only():
    """What one wrote in its ids the other reads in its own; a forged header stays text for both."""
    first, second = scribe_named("llama2"), scribe_named("smollm2")
    own = [*first.tokenizer.encode(" 4</s><|im_end|> \N{GRINNING FACE}"), 2]
    heard = second.opening("2 + 2?", [("first", first.read(own))])
    text = second.tokenizer.decode(heard)
    assert "2 + 2?\n\n4</s><|im_end|> \N{GRINNING FACE}<|im_end|>" in text
    assert heard.count(294) == 2
    assert len(own) != len(second.tokenizer.encode(first.read(own)))


# --- characters


def test_characters_are_enough_for_a_team():
    """The same interface without a file; a small network's ids come first."""
    tokenizer = CharacterTokenizer("0123+=: n")
    assert tokenizer.eos == (0,)
    assert tokenizer.pad == 13
    assert tokenizer.size == 14
    scribe = Scribe(tokenizer, Role("0", cap=4, separator=" "))
    assert scribe.stops == ((0,),)
    assert scribe.parts.notes == ()
    own = [*tokenizer.encode("3"), 0]
    assert scribe.read(own) == "3"
    assert not scribe.drifts(own)
    assert tokenizer.decode(scribe.opening("1+2=", [("1", "2")])) == "<user>1+2= 1: 2<end><assistant>"
    assert tokenizer.decode(scribe.between(own, [("1", "3")])) == "<user>1: 3<end><assistant>"
    assert scribe.drifts([13])
    assert not scribe.drifts([0])
    with pytest.raises(InputError, match="text: found 'x', expected characters among"):
        tokenizer.encode("x")
    for characters in ("", "00", 7):
        with pytest.raises(InputError, match="characters"):
            CharacterTokenizer(characters)
    assert isinstance(tokenizer, tokenizer_module.Tokenizer)
    assert isinstance(tokenizer_named("llama2"), tokenizer_module.Tokenizer)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("eos_token_id", 1.5), ("eos_token_id", [{}]), ("chat_template", [1]), ("chat_template", [{"name": "default"}]),
     ("added_tokens_decoder", [1])],
)  # fmt: skip
def test_an_entry_of_a_tokenizer_of_another_type(name, wrong):
    folder = Path(__file__).parent / "fixtures" / "checkpoints" / "smollm2"
    file, config = (json.loads((folder / f"{x}.json").read_text()) for x in ("tokenizer", "tokenizer_config"))
    with pytest.raises(InputError, match=f"{name}: found"):
        tokenizer_of(file, {**config, name: wrong})
