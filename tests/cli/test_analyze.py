"""`loraweave analyze`: what it prints, what it leaves behind, and what it never writes over."""

import json

import pytest


@pytest.fixture(scope="module")
def second(project, tmp_path_factory):
    """A run of R-LoRA on the same project."""
    from loraweave.cli.app import run

    folder = tmp_path_factory.mktemp("second") / "rlora"
    arguments = ["train", project / "run.yaml", "--set", "method=rlora", "--output", folder]
    assert run([str(argument) for argument in arguments]) == 0
    return folder


def test_analyze_prints_a_table_and_leaves_numbers_and_a_report(command, trained, second, tmp_path):
    folder = tmp_path / "out"
    code, out, _ = command("analyze", trained, second, "--sample", 2, "--output", folder)
    assert code == 0
    analysis = json.loads((folder / "analysis.json").read_text())
    assert [run["name"] for run in analysis["runs"]] == ["trained", "rlora"]
    rank = next(row for row in analysis["spectrum_summary"] if (row["run"], row["module"]) == ("rlora", "all"))
    line = next(line for line in out.splitlines() if line.startswith("rlora"))
    assert f"{rank['effective_rank']:.1f}" in line.split()
    assert analysis["tokens"]
    assert str(folder / "report.html") in out
    assert (folder / "report.html").stat().st_size > 1000


@pytest.mark.long
def test_an_analysis_is_never_written_over(command, trained, tmp_path, monkeypatch):
    (tmp_path / "kept.txt").write_text("mine")
    code, _, err = command("analyze", trained, "--output", tmp_path)
    assert (code, [path.name for path in tmp_path.iterdir()]) == (2, ["kept.txt"])
    assert "choose another --output" in err
    monkeypatch.chdir(tmp_path)
    assert command("analyze", trained)[0] == 0
    assert command("analyze", trained)[0] == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["analysis", "analysis-2"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent"], "absent: no such folder"),
        (["."], "holds neither a run nor an adapter"),
        ([], "Missing argument 'RUN [RUN …]'"),
        ([".", "--sample", "-1"], "greater than or equal to 0"),
    ],
)
def test_bad_input_is_one_line(command, project, tmp_path, monkeypatch, arguments, words):
    (tmp_path / "file").write_text("x")
    monkeypatch.chdir(tmp_path)
    code, out, err = command("analyze", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()
