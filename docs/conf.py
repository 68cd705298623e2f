"""Sphinx settings: `python -m sphinx -W --keep-going -b html docs build/docs`.

`DOCS_EXECUTE=off` leaves the notebooks unexecuted, `cache` executes those whose code changed; `force`, the default, all of them.
"""

import os
import sys
from importlib.metadata import distribution
from importlib.metadata import version as installed_version
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(DOCS.parent), os.environ.get("PYTHONPATH")])
)  # of the kernels
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of a notebook's time is compilation: as in conftest.py.
few = os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") != "0"
if few and installed_version("jaxlib").startswith("0.10."):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1")

project = "teamtr_jax"
author = "The teamtr_jax authors"
copyright = author
try:
    release = installed_version("teamtr-jax")
except ImportError:  # built in a checkout that is not installed
    release = ""

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "live",
]
if not tags.has("quick"):  # pyright: ignore[reportUndefinedVariable]
    extensions.append("sphinx.ext.viewcode")  # a page for each file of the source
exclude_patterns = ["_ext", "**/.ipynb_checkpoints"]

myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 4

execute = os.environ.get("DOCS_EXECUTE", "force")
nb_execution_mode = "cache" if execute == "force" else execute  # `live` has filled the cache afresh, side by side
nb_execution_cache_path = str(DOCS.parent / "build" / "notebooks")
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
maximum_signature_line_length = 90

# Readable without a network: one file of MathJax, out of a package, beside the pages.
MATHJAX = Path(str(distribution("sphinx-mathjax-offline").locate_file(""))) / (
    "sphinx-mathjax-offline/static/mathjax/tex-svg-full.js"
)
html_static_path = [str(MATHJAX), "_ext/phone.css"]
html_css_files = ["phone.css"]
mathjax_path = MATHJAX.name

html_theme = "furo"
html_title = "teamtr_jax"
html_copy_source = False
html_show_sphinx = False
