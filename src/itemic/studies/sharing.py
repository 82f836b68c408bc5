"""Lends the artefacts of one run to another whose stages would make the same; knows no study.

Only files move here. Whether a stage really is up to date its fingerprint decides, in ``Run.stage``: a lent artefact
that does not fit is made anew. Files are linked where the disk can, which is safe because every artefact is written
under another name and renamed.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itemic.core.config import config_to_mapping
from itemic.core.errors import ArtifactError
from itemic.core.files import atomic_folder, atomic_path, write_json
from itemic.core.run import Run
from itemic.recipe import Recipe

__all__ = ["SHARED_STAGES", "borrow", "borrow_stage"]

_CATALOG = ("prepare", "embed", "collaborative", "tokenize")
_BEFORE = {
    "prepare": (),
    "embed": ("prepare",),
    "collaborative": ("prepare",),
    "tokenize": ("prepare", "embed", "collaborative"),
    "align": _CATALOG,
    "sft": (*_CATALOG, "align"),
    "rl": (*_CATALOG, "align", "sft"),
    "baselines": _CATALOG,
}
SHARED_STAGES = tuple(_BEFORE)
"""Stages whose artefacts one run can take from another."""


def borrow(recipe: Recipe, donors: Sequence[Recipe], stages: Sequence[str] = SHARED_STAGES) -> list[str]:
    """Returns the stages that the recipe's run now has from other runs.

    A stage is taken where its section, those of all stages before it, and the seed are the same in both recipes.

    Args:
        recipe: Whose run takes; a stage that this run has already stays.
        donors: Recipes of other runs, those to be preferred first; what they have not run yet is not taken.
        stages: Which to take.
    """
    taken = []
    own = config_to_mapping(recipe)
    for stage in stages:
        for donor in donors:
            if _is_same(own, config_to_mapping(donor), stage) and borrow_stage(Run(recipe.run), Run(donor.run), stage):
                taken.append(stage)
                break
    return taken


def borrow_stage(run: Run, donor: Run, stage: str) -> bool:
    """Returns whether the run took a stage's artefacts and entry from the donor.

    It does not where it has the stage already, or the donor has not, or no longer has all of its artefacts.
    """
    entry = donor.manifest()["stages"].get(stage)
    manifest = run.manifest()
    if entry is None or stage in manifest["stages"]:
        return False
    try:
        for name in entry["outputs"]:
            _link(donor.path(name), run.path(name))
    except (ArtifactError, FileNotFoundError):
        return False
    manifest["stages"][stage] = entry
    write_json(run.manifest_path, manifest)
    return True


def _is_same(own: dict[str, Any], other: dict[str, Any], stage: str) -> bool:
    if own["seed"] != other["seed"] or own[stage] is None:
        return False
    protocol = own["evaluate"]["exclude_history"] == other["evaluate"]["exclude_history"]
    return all(own[name] == other[name] for name in (stage, *_BEFORE[stage])) and (stage != "baselines" or protocol)


def _link(source: Path, target: Path) -> None:
    if source.is_dir():
        with atomic_folder(target) as temporary:
            shutil.copytree(source, temporary, copy_function=_link_file, dirs_exist_ok=True)
    else:
        with atomic_path(target) as temporary:
            temporary.unlink()
            _link_file(source, temporary)


def _link_file(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
