"""pandas, polars and Hugging Face datasets themselves: tables in, frames out; and the completions that TRL writes."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from teamtr_jax.monitor import Settings, monitor, read_token_log, token_log
from teamtr_jax.validation import InputError

_spec = importlib.util.spec_from_file_location("test_frames", Path(__file__).parents[1] / "test_frames.py")
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
rows = _module.rows
pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")
datasets = pytest.importorskip("datasets")
SETTINGS = Settings(draws=2)


def missing(value):
    return value is None or value is pandas.NA or value != value


@pytest.fixture(scope="module")
def expected():
    return monitor(token_log(rows()), SETTINGS)


def test_the_libraries_tables(expected, tmp_path):
    """Whatever holds the columns: the records are the same, bit for bit; NaN or null in `logp_again` alone."""
    columns = rows()
    frame = pandas.DataFrame(columns)
    nullable = frame.convert_dtypes()
    assert str(nullable["agent"].dtype) == "Int64"
    assert nullable["logp_again"].isna().any()
    moved = datasets.Dataset.from_pandas(frame).shuffle(seed=1)
    assert list(moved["prompt"])[:20] != frame["prompt"].tolist()[:20]
    frame.index = np.arange(len(frame))[::-1] + 5
    polar = polars.DataFrame(columns)
    nulls = polar.with_columns(polars.col("logp_again").fill_nan(None))
    assert nulls["logp_again"].null_count()
    for given in (frame, nullable, moved, polar, nulls, polar.to_arrow()):
        assert monitor(given, SETTINGS).records == expected.records
        assert read_token_log(given).rows == len(frame)


def test_missing_values(tmp_path):
    """By column and row, in the words of every other log."""
    frame = pandas.DataFrame(rows())
    frame.loc[3, "reward"] = None
    for given in (frame, polars.DataFrame(rows()).with_columns(reward=polars.Series(frame["reward"]).fill_nan(None))):
        with pytest.raises(InputError, match="log: column reward, row 4: found no value"):
            monitor(given)
    nan = polars.DataFrame(rows()).with_columns(logp_new=polars.lit(float("nan")))
    with pytest.raises(InputError, match="log: column logp_new, row 1: found nan"):
        monitor(nan)
    with pytest.raises(InputError, match="column agent"):
        monitor(pandas.DataFrame(rows()).assign(agent="solver"))
    with pytest.raises(InputError, match=r"one split|columns: found no"):
        token_log(datasets.DatasetDict(train=datasets.Dataset.from_dict(rows())))


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_a_report_as_a_frame(expected, kind):
    """A row for every update; intervals are three columns; it can be written and read again."""
    frame = expected.frame(kind)
    assert len(frame) == len(expected.records) == 2
    assert len(set(frame.columns)) == len(frame.columns)
    for i, record in enumerate(expected.records):
        for key in ("kl_k1", "kl_episode", "surrogate", "reward"):
            found = [frame[name][i] for name in (key, f"{key}_low", f"{key}_high")]
            assert found == [record[key][x] for x in ("value", "low", "high")]
        for key in ("certificate_lower", "weights_update_ess"):
            first, _, rest = key.partition("_")
            first, rest = ("weights_update", "ess") if first == "weights" else (first, rest)
            assert frame[key][i] == record[first][rest]
        assert missing(frame["kl_deployed"][i])
        assert frame["evidence"][i] == "fresh"


def test_completions_of_trl(tmp_path):
    """What `log_completions` writes, by the lines of TRL's that write it: refused with what is missing."""
    trl = pytest.importorskip("trl")
    import trl_runs

    trainer, _ = trl_runs.trainer(tmp_path, log_completions=True, max_steps=1, logging_steps=1)
    trainer.train()
    (path,) = (tmp_path / "out" / "completions").glob("*.parquet")
    names = list(pandas.read_parquet(path).columns)
    assert names[:3] == ["step", "prompt", "completion"], trl.__version__
    for given in (path, path.parent, pandas.read_parquet(path)):
        with pytest.raises(
            InputError, match=r"completions of TRL's .*has no prompt, rollout, stage, update, agent, turn, t"
        ):
            read_token_log(given)
