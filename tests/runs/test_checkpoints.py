"""Which checkpoint a run goes on from."""

from pathlib import Path

from loraweave.runs.checkpoints import last_good_checkpoint


def test_the_newest_whole_checkpoint_is_taken_and_other_folders_are_not(tmp_path: Path) -> None:
    assert last_good_checkpoint(tmp_path) is None
    for name, state in (("8", "{}"), ("10", "{}"), ("12", "{"), ("x", "{}"), ("٣٠", "{}")):
        (tmp_path / f"checkpoint-{name}").mkdir()
        (tmp_path / f"checkpoint-{name}" / "trainer_state.json").write_text(state)
    (tmp_path / "checkpoint-14").mkdir()
    assert last_good_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
