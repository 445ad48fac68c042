"""`loraweave run -- PROGRAM` and the package loraweave-autoload: programs that never import this package load its
adapters."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from few import few
from tiny_runs import SMALL, random_run

PACKAGE = Path(__file__).parents[2] / "packages" / "loraweave-autoload"
LOADS = """
import sys
{first}
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
print(type(model.base_model).__name__)
"""


def python(*arguments: object, path: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    known = os.pathsep.join([*([str(path)] if path else []), *(each for each in sys.path if each)])
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": known, **environment},
    )


@pytest.fixture(scope="module")
def adapter(project: Path, tmp_path_factory) -> Path:
    return random_run(project, {"name": "rlora", **SMALL}, tmp_path_factory.mktemp("run") / "run") / "adapter"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the package in it, as pip puts it there."""
    folder = tmp_path_factory.mktemp("site")
    copied = tmp_path_factory.mktemp("source") / PACKAGE.name
    subprocess.run(["cp", "-r", PACKAGE, copied], check=True)
    how = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", folder]
    subprocess.run([sys.executable, "-m", "pip", "install", *how, copied], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("how", few(["script", "module", "command"], ["module"]))
def test_a_program_without_the_import_loads_an_adapter(project, adapter, tmp_path, how):
    script = tmp_path / "program.py"
    script.write_text(LOADS.format(first="assert not any(name.startswith('torch') for name in sys.modules)"))
    program = {"script": [script], "module": ["-m", "program"], "command": ["program"]}[how]
    if how == "command":
        command = tmp_path / "program"
        command.write_text(f"#!{sys.executable}\n{script.read_text()}")
        command.chmod(0o755)
    done = python(
        "-c", "from loraweave.cli import main; main()", "run", "--", *program, project / "base", adapter,
        path=tmp_path, PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("WeaveModel")


def test_a_programs_exit_code_options_and_errors_are_its_own(tmp_path):
    (tmp_path / "program.py").write_text("import sys; print(sys.argv[1:]); sys.exit(7)")
    call = ("-c", "from loraweave.cli import main; main()", "run", "--")
    done = python(*call, tmp_path / "program.py", "--help", "-x", "1")
    assert (done.returncode, done.stdout) == (7, "['--help', '-x', '1']\n")
    assert python(*call, "nothing_like_it").returncode == 2
    (tmp_path / "program.py").write_text("def deep():\n    raise ValueError('its own')\n\n\ndeep()\n")
    for program in ([tmp_path / "program.py"], ["-m", "program"]):
        done = python(*call, *program, path=tmp_path)
        assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "ValueError: its own")
        assert "line 2, in deep" in done.stderr, "where, as Python tells it"


@pytest.mark.parametrize(
    "first",
    [
        "",  # peft comes first, and torch within it
        "import importlib.util; import torch; assert importlib.util.find_spec('peft')",  # as transformers asks
    ],
)
def test_with_the_package_installed_nothing_needs_to_be_imported(project, adapter, installed, tmp_path, first):
    (tmp_path / "program.py").write_text(LOADS.format(first=first))
    done = python(tmp_path / "program.py", project / "base", adapter, path=installed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "WeaveModel"


def test_torchs_own_switch_turns_it_off(project, adapter, installed, tmp_path):
    (tmp_path / "program.py").write_text(LOADS.format(first=""))
    done = python(tmp_path / "program.py", project / "base", adapter, path=installed, TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    assert done.returncode == 1
    assert "LORAWEAVE" in done.stderr


def test_it_loads_nothing_by_itself_and_never_raises(installed, tmp_path):
    done = python("-c", "import torch, sys; assert 'peft' not in sys.modules", path=installed)
    assert done.returncode == 0, done.stderr
    (tmp_path / "loraweave").mkdir()
    (tmp_path / "loraweave" / "__init__.py").write_text("raise RuntimeError('broken')")
    broken = os.pathsep.join([str(tmp_path), str(installed)])
    done = python("-c", "import torch, peft; print('there')", path=Path(broken))
    assert (done.returncode, done.stdout) == (0, "there\n"), done.stderr
    assert "broken" in done.stderr
