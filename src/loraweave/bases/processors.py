"""What lies beside the weights of a base that also sees or hears: how images and sound become its inputs."""

import shutil
from contextlib import suppress
from pathlib import Path

from transformers import PreTrainedModel
from transformers.utils import cached_file

from loraweave.bases.load import hub_in_reach, resolve_base
from loraweave.bases.spec import BaseSpec

FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "chat_template.json")


def copy_processors(model: PreTrainedModel, base: BaseSpec, folder: Path) -> list[str]:
    """Copy these files of a base into the folder of a model that was made of it: without them that only reads text.

    Args:
        model: the one that was made. base: where it came from. folder: where it was written.

    Returns:
        What a person should know: that the base reads more than text, and no such file is at hand.
    """
    if model.config.get_text_config() is model.config:
        return []
    source, copied = resolve_base(base), False
    alone = Path(source).is_dir() or not hub_in_reach()
    quiet = dict.fromkeys(("gated_repo", "missing_entries", "connection_errors"), False)
    how = {f"_raise_exceptions_for_{what}": told for what, told in quiet.items()}
    for name in FILES:
        with suppress(OSError):  # whatever the hub says: the weights are there
            path = cached_file(source, name, revision=base.revision, local_files_only=alone, **how)
            if path is not None:
                shutil.copyfile(path, folder / name)
                copied = True
    if copied:
        return []
    return [f"{base.name} reads more than text, and its files for that ({FILES[0]} and the like) are not at hand"]
