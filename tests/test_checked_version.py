"""An adapter refuses a version of its trainer that nobody looked at."""

import pytest

from teamtr_jax.integrations.checked_version import installed, require_version
from teamtr_jax.validation import InputError

KNOWN = ("1.14.2", "1.15.0", "1.16.0")


@pytest.mark.parametrize("found", ["1.14.2", "1.16.0", "1.16.0+cu130"])
def test_a_known_version_passes(found):
    require_version("trl", found, KNOWN)


@pytest.mark.parametrize("found", ["1.16.1", "1.16", "1.13.0", "1.16.0.dev0", "1.16.0rc1", "", "11.16.0"])
def test_any_other_is_refused_by_name(found):
    with pytest.raises(InputError) as error:
        require_version("trl", found, KNOWN)
    assert str(error.value) == (
        f"trl: found version {found}, expected 1.14.2, 1.15.0 or 1.16.0: with these the adapter was tested"
    )


def test_one_known_version_is_named_alone():
    with pytest.raises(InputError, match=r"verl: found version 1, expected 2: with"):
        require_version("verl", "1", ("2",))


def test_what_is_installed():
    assert installed("pytest") == pytest.__version__
    with pytest.raises(InputError, match="no-such-trainer: found no such package"):
        installed("no-such-trainer")
