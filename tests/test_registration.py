"""PEFT knows the method whichever package comes first, and the command line's help loads neither PEFT nor torch."""

import subprocess
import sys

import pytest
from few import few

KNOWN = "; from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING as m; assert 'LORAWEAVE' in m, m"
LIGHT = "; import sys; found = {'torch', 'peft', 'datasets'} & set(sys.modules); assert not found, found"


def python(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


ORDERS = [
    "import loraweave; from peft import PeftModel",
    "from peft import PeftModel; import loraweave",
    "import loraweave, importlib; importlib.reload(loraweave); import peft",
    "import loraweave.config",
    "from loraweave import train, evaluate, compare, analyze, load_run, RunConfig",
    "from loraweave.runs.config import RunConfig",
    "import loraweave.tuner.layer",
    "from loraweave import lowrank, task, WeaveConfig; import peft",
    "import loraweave; import peft.utils.peft_types",
]


@pytest.mark.parametrize("order", few(ORDERS, ORDERS[:2]))
def test_the_method_is_known_in_every_order(order):
    python(order + KNOWN)


def test_importing_the_package_loads_neither_peft_nor_torch():
    python("import loraweave" + LIGHT)


@pytest.mark.parametrize(
    "typed", [["--help"], ["--version"], ["train", "--help"], ["compare", "--help"], ["train", "--wrong"]]
)
def test_help_and_wrong_options_load_neither_peft_nor_torch(typed):
    python(f"from loraweave.cli.app import run; run({typed!r})" + LIGHT)


def test_every_public_name_is_there_and_no_other():
    python(
        "import loraweave; [getattr(loraweave, name) for name in loraweave.__all__]; "
        "assert set(loraweave.__all__) <= set(dir(loraweave)); assert not hasattr(loraweave, 'nothing')"
    )
