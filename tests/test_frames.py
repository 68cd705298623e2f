"""Tables in and out, dumps of other trainers, LaTeX; stand-ins for the libraries, which tests/integrations has."""

import json
import re
import sys
import types
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from teamtr_jax import latex
from teamtr_jax.formats import TOKEN_LOG_COLUMNS
from teamtr_jax.latex import escaped, table
from teamtr_jax.monitor import Settings, monitor, read_token_log, token_log, token_rows, write_token_log
from teamtr_jax.monitor.frames import flat, frame_of
from teamtr_jax.monitor.tex import latex_tables
from teamtr_jax.validation import InputError
from theory import ledger

ROOT = Path(__file__).parents[1]


def rows(seed: int = 0, prompts: int = 12) -> dict:
    """Two agents, one token each, two updates; scored twice in the first."""
    rng = np.random.default_rng(seed)
    n = 4 * prompts
    parts = []
    for update in (0, 1):
        token = rng.integers(0, 2, (n, 2))
        old, new = np.log(np.where(token, 0.5, 0.5)), np.log(np.where(token, 0.6, 0.4))
        own = np.arange(2) == update
        parts.append(
            token_rows(
                np.ones((n, 2)),
                stage=0,
                update=update,
                source=update,
                prompt=np.arange(n) // 4,
                rollout=np.arange(n) % 4,
                agent=np.tile([0, 1], (n, 1)),
                turn=np.tile([0, 1], (n, 1)),
                logp_behaviour=old,
                logp_current=old,
                logp_new=np.where(own, new, old),
                reward=(token.sum(1) == 2).astype(float),
                logp_again=old if update == 0 else np.full((n, 2), np.nan),
            )
        )  # fmt: skip
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


class Dataset:
    """As a Hugging Face dataset shows itself: it gives Arrow for the rows that were chosen."""

    features = ()

    def __init__(self, columns: dict, chosen):
        self._columns, self._chosen, self.column_names = columns, chosen, list(columns)

    def __len__(self):
        return len(self._chosen)

    def with_format(self, kind):
        assert kind == "arrow"
        return self

    def __getitem__(self, _):
        return pa.table({key: column[self._chosen] for key, column in self._columns.items()})


class Frame:
    """As pandas and polars hand over their columns."""

    def __init__(self, found: pa.Table):
        self._found = found

    def __iter__(self):
        return iter(self._found.column_names)

    def __arrow_c_stream__(self, requested_schema=None):
        return self._found.__arrow_c_stream__(requested_schema)


def module(data_frame) -> types.ModuleType:
    """A library with this `DataFrame`."""
    made = types.ModuleType("made")
    made.__dict__["DataFrame"] = data_frame
    return made


def nulls(columns: dict, key: str = "logp_again") -> pa.Table:
    """The columns as Arrow, NaN of one as null."""
    out = {name: pa.array(column) for name, column in columns.items()}
    out[key] = pa.array(columns[key], mask=np.isnan(columns[key]))
    return pa.table(out)


def test_tables_are_logs():
    """A mapping, a data frame, an Arrow table and a dataset with rows in another order: the same report, bit for bit."""
    columns = rows()
    settings = Settings(draws=2)
    expected = monitor(token_log(columns), settings).records
    order = np.random.default_rng(1).permutation(len(columns["t"]))
    assert order[0] != 0
    shuffled = {key: column[np.argsort(order)] for key, column in columns.items()}
    for given in (columns, nulls(columns), Frame(nulls(columns)), Dataset(shuffled, order)):
        assert monitor(given, settings).records == expected
        log = read_token_log(given)
        np.testing.assert_array_equal(np.isnan(log.logp_again), np.isnan(token_log(columns).logp_again))
        assert 0 < np.isnan(log.logp_again).sum() < log.stage.size


@pytest.mark.parametrize("key", ["reward", "logp_current"])
def test_a_missing_value_is_no_number(key):
    """Elsewhere than in the second scoring: refused by column and row, never 0."""
    columns = rows()
    columns[key] = np.where(np.arange(columns["t"].size) == 3, np.nan, columns[key])
    with pytest.raises(InputError, match=f"log: column {key}, row 4: found no value"):
        monitor(nulls(columns, key))


def test_what_is_no_table():
    """Named with what would do."""
    for other in (3, [1, 2]):
        with pytest.raises(InputError, match=r"a mapping of columns, a DataFrame|a TokenLog"):
            token_log(other)
    with pytest.raises(InputError, match="no prompt, rollout"):
        token_log(pa.table({"reward": [1.0]}))
    with pytest.raises(InputError, match="reward twice"):
        token_log(pa.table([pa.array([1.0])] * 2, names=["reward", "reward"]))
    split = Dataset(rows(), np.arange(2))
    split.column_names = {"train": split.column_names}
    with pytest.raises(InputError, match="one split"):
        token_log(split)


def test_a_frame_of_a_report(monkeypatch):
    """A row for every update, three columns for an interval; numbers as in the records."""
    made = module(lambda columns: columns)
    monkeypatch.setitem(sys.modules, "polars", made)
    report = monitor(token_log(rows()), Settings(draws=2))
    frame = report.frame("polars")
    assert {len(column) for column in frame.values()} == {2}
    assert frame["update"] == [0, 1]
    assert frame["agents"] == ["0", "1"]
    for i, record in enumerate(report.records):
        for key in ("kl_k1", "reward", "surrogate"):
            found = frame[key][i], frame[f"{key}_low"][i], frame[f"{key}_high"][i]
            assert found == tuple(record[key][x] for x in ("value", "low", "high"))
        assert frame["weights_update_ess"][i] == record["weights_update"]["ess"]
        assert frame["certificate_lower"][i] == record["certificate"]["lower"]
        assert len(json.loads(frame["rungs"][i])) == len(record["rungs"])
    assert all(not isinstance(value, dict | list) for column in frame.values() for value in column)
    with pytest.raises(InputError, match="kind: found 'excel', expected pandas or polars"):
        report.frame("excel")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="pip install pandas"):
        report.frame()


def test_no_column_of_a_frame_is_another_ones(monkeypatch):
    """An interval has its ends under its name; the two decisions on the mean weight have names of their own."""
    monkeypatch.setitem(sys.modules, "pandas", module(lambda columns: columns))
    report = monitor(token_log(rows()), Settings(draws=2))
    frame = report.frame()
    intervals = {key for key, x in report.records[0].items() if isinstance(x, dict) and "low" in x}
    assert {"mean_weight", "kl_k1", "floor"} <= intervals
    for key in intervals:
        assert frame[f"{key}_low"][0] == report.records[0][key]["low"]
        assert frame[f"{key}_high"][0] == report.records[0][key]["high"]
    for key, name in (("mean_weight_low", "mean_weight_below_one"), ("mean_weight_high", "mean_weight_above_one")):
        assert frame[name] == [r[key] for r in report.records]


def test_records_of_several_shapes(monkeypatch):
    """A column has one type of number; what only the second record has stands where it belongs."""
    monkeypatch.setitem(sys.modules, "pandas", module(lambda columns: columns))
    records = [
        {"a": 1, "k": None, "z": True},
        {"a": 0.5, "k": {"value": 1.0, "low": 0.0, "high": 2.0, "n": 3}, "z": None},
    ]
    frame = frame_of(records)
    assert list(frame) == ["a", "k", "k_low", "k_high", "z"]
    assert frame["a"] == [1.0, 0.5]
    assert type(frame["a"][0]) is float
    assert frame["k_low"] == [None, 0.0]
    assert frame["z"] == [True, None]
    assert flat({"x": [], "w": {"0": 0.5}}) == {"x": "", "w_0": 0.5}


# ---------------------------------------------------------------------------------------------------------------- dumps

VERL = {"input": "user\n1+1?", "output": "2", "gts": "2", "score": 1.0, "step": 3, "uid": "a_0_0"}
TRL = {"step": [3], "prompt": ["1+1?"], "completion": ["2"], "reward_len": [1.0], "advantage": [0.0]}


def dumped(folder: Path, whose: str) -> Path:
    if whose == "verl":
        path = folder / "3.jsonl"
        path.write_text(2 * (json.dumps(VERL) + "\n"))
    else:
        path = folder / "completions_00003.parquet"
        pq.write_table(pa.table(TRL), path)
    return path


@pytest.mark.parametrize("whose", ["verl", "TRL"])
@pytest.mark.parametrize("folder", [False, True])
def test_a_dump_is_refused_with_what_is_missing(tmp_path, whose, folder):
    """By name, with every column that it lacks, and the lines that write a log; the file or its folder."""
    path = dumped(tmp_path, whose)
    with pytest.raises(InputError) as caught:
        read_token_log(tmp_path if folder else path)
    error = caught.value
    assert str(path) in error.name
    assert whose in error.found
    missing = error.expected.split("It has no ")[1].split(", and text")[0].split(", ")
    assert missing == list(TOKEN_LOG_COLUMNS)
    lines = f"from teamtr_jax.integrations.{whose.lower()} import watch; watch(trainer, 'run')"
    assert error.expected.endswith(
        f"Two lines write one: {lines}  # before trainer.{'fit' if whose == 'verl' else 'train'}()"
    )
    assert "\n" not in str(error)


def test_what_is_no_dump_passes(tmp_path):
    """A log with a dump's columns besides is a log; another file without columns is refused as before; so is a damaged one."""
    columns = rows(prompts=2)
    n = columns["t"].size
    text = {key: np.full(n, "x") for key in ("input", "output", "completion")}
    write_token_log(tmp_path / "log.parquet", columns | text | {"score": np.ones(n), "step": np.ones(n)}, check=False)
    assert read_token_log(tmp_path / "log.parquet").rows == n
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(InputError, match="found no prompt, rollout"):
        read_token_log(tmp_path / "other.jsonl")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(InputError, match="damaged"):
        read_token_log(tmp_path / "bad.parquet")
    with pytest.raises(InputError, match="completions of TRL's"):
        token_log(pa.table(TRL))


# ---------------------------------------------------------------------------------------------------------------- LaTeX


def well_formed(text: str) -> int:
    """Braces and dollars are even, every row of every table has as many cells as it has columns. How many rows."""
    plain = re.sub(r"\\[\\{}$&#_%]", lambda m: "\\\\" if m[0] == "\\\\" else "", re.sub(r"(?m)^%.*$", "", text))
    assert plain.isascii()
    assert plain.count("{") == plain.count("}")
    assert plain.count("$") % 2 == 0
    assert "[U+" not in plain
    assert not re.search(r"(?<!\\)[#%~]", plain.replace("\\\\", ""))
    counted = 0
    for columns, body in re.findall(r"\\begin\{longtable\}\{([^\n]*)\}\n(.*?)\\end\{longtable\}", plain, re.S):
        width = len(re.sub(r"p\{[^}]*\}", "p", columns))
        for line in body.splitlines():
            if line.endswith("\\\\") and not line.startswith("\\caption"):
                assert line.count("&") == width - 1, line
                counted += 1
    return counted


def test_a_text_is_harmless():
    r"""Everything that means something to LaTeX is escaped; nothing is lost; what has no command is its number."""
    assert escaped(r"a\b{c}$&#_%~^<>|") == (
        r"a\textbackslash{}b\{c\}\$\&\#\_\%\textasciitilde{}\textasciicircum{}$<$$>$$|$"
    )
    assert escaped("π̂′ ≤ ½·Σ é") == r"$\hat{\pi}$${}'$ $\le$ $\tfrac12$$\cdot$$\Sigma$ \'{e}"
    assert escaped("Α Ω x₁²") == r"$\mathrm{A}$ $\Omega$ x${}_{1}$${}^{2}$"
    assert escaped("見") == "[U+898B]"
    assert r"{}[0, 1] & 2 \\" in table("t", ["a", "b"], [["[0, 1]", "2"]])
    with pytest.raises(InputError, match="row 1: found 1 cells, expected 2"):
        table("t", ["a", "b"], [["1", "2"], ["1"]])


def test_symbols_have_the_commands_that_mathtext_knows():
    """By an independent table: of every plain command the character that it prints; Greek by the names of Unicode."""
    from matplotlib._mathtext_data import tex2uni

    known = {symbol: command[1:] for symbol, command in latex.SYMBOLS.items() if command[1:] in tex2uni}
    same = {"∼": "∼∽~", "⟨": "⟨〈", "⟩": "⟩〉", "∗": "∗*", "µ": "µμ", "·": "·⋅", "⋅": "·⋅", "∥": "∥‖", "‖": "‖∥"}
    assert len(known) > 40
    for symbol, command in known.items():
        if command != "epsilon":  # mathtext has one for both
            assert chr(tex2uni[command]) in same.get(symbol, symbol), (symbol, command)
    assert (escaped("φ"), escaped("ϕ")) == (r"$\varphi$", r"$\phi$")
    assert (escaped("ε"), escaped("ϵ")) == (r"$\varepsilon$", r"$\epsilon$")
    assert (escaped("≤"), escaped("≥"), escaped("≠")) == (r"$\le$", r"$\ge$", r"$\ne$")
    for letter in "αβγδζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩ":
        if letter not in latex.SYMBOLS:
            name = unicodedata.name(letter).split()[-1].replace("LAMDA", "LAMBDA")
            wanted = name.lower() if letter.islower() else name.capitalize()
            assert escaped(letter) == rf"$\{wanted}$"
    assert [escaped(x) for x in "⁺₊⁻₋²₁"] == ["${}^{+}$", "${}_{+}$", "${}^{-}$", "${}_{-}$", "${}^{2}$", "${}_{1}$"]
    assert [escaped(x) for x in "½¼¾⅓"] == [r"$\tfrac12$", r"$\tfrac14$", r"$\tfrac34$", r"$\tfrac13$"]
    assert escaped("ấ") == r"\'{\^{a}}"  # the accent that stands above is outside
    assert [escaped(x) for x in ("à", "ñ", "ü", "ç", "å", "č", "ā", "ż")] == [
        r"\`{a}", r"\~{n}", r'\"{u}', r"\c{c}", r"\r{a}", r"\v{c}", r"\={a}", r"\.{z}"
    ]  # fmt: skip


def test_columns_of_a_latex_table():
    """The first left, numbers right, sentences in four fifths of the line together; a row may begin with a star or a bracket."""
    one = latex.table("t", ["a", "b", "c", "d"], [["*", "1", "long", "longer"]], "why", wide=("c", "d"))
    assert one.startswith(r"\begin{longtable}{lrp{0.40\linewidth}p{0.40\linewidth}}")
    assert r"\caption{t. why}\\" in one
    assert "\n{}* & 1 & long & longer " in one
    assert latex.table("t", ["a", "c"], [], wide=("c",)).startswith(r"\begin{longtable}{lp{0.80\linewidth}}")
    with pytest.raises(InputError, match="headings: found none, expected at least one"):
        latex.table("t", [], [])
    assert latex.preamble() == r"\usepackage{booktabs,longtable,amsmath,amssymb}"


def test_tables_of_a_report_are_latex():
    """All tables of the terminal, every row."""
    report = monitor(token_log(rows()), Settings(draws=2))
    text = latex_tables(report, "run_1.parquet")
    assert text.count(r"\begin{longtable}") == text.count(r"\end{longtable}") >= 6
    assert well_formed(text) >= 2 * 6
    assert r"L\textasciicircum{}seq" in text or "surrogate L" in text


def test_the_ledger_is_latex():
    """Every claim of the committed ledger is a row; no symbol of a statement is without a command."""
    saved = json.loads((ROOT / "docs/verify/ledger.json").read_text())
    found = [ledger.Row(**claim) for claim in saved["claims"]]
    text = ledger.latex(found, saved["settings"])
    assert well_formed(text) == len(found) + 2  # and the headings, twice
    for row in found:
        assert f"\n{escaped(row.id)} & " in text
