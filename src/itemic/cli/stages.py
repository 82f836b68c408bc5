"""The commands that run stages: all of a recipe, one of them, or the two that a catalogue without a log needs."""

import argparse
import difflib
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from itemic.cli.printing import print_baselines, print_blend, print_figures, print_json, print_metrics, print_rl
from itemic.core.config import tagged_types
from itemic.core.errors import ConfigError

__all__ = ["run_all", "run_one"]

C = TypeVar("C")

_DESCRIPTION = (
    "Besides the flags below: --run FOLDER, --recipe FILE (default: FOLDER/recipe.yaml), --seed N (of this stage "
    "alone; in a new folder of the whole run), --force, --json."
)
_TOKENIZE_DESCRIPTION = (
    " --quantizer.kind KIND chooses the quantizer, and --help after it shows its flags. --report writes sids.html "
    "besides, a page of the codes that opens offline. A catalogue without a log needs no recipe: --run NEW --items "
    "FILE (a table with item_id, title, ...), or --embeddings FILE (.parquet with item_id; .npy or .safetensors with "
    "--embedding-ids FILE), or both."
)
_RL_DESCRIPTION = (
    " Trains the model that itemic sft wrote on its own answers and writes rl/model, with which the run then "
    "recommends (itemic recommend --model sft asks for the one before). The recipe needs no section rl, but tasks and "
    "rewards beyond the default are named there: rewards: {rule: 1, collaborative: 0.2}, say."
)
_PREPARE_DESCRIPTION = " Without a recipe name the source first: source:table-config --source.interactions FILE ..."

_MORE_DESCRIPTION = {"prepare": _PREPARE_DESCRIPTION, "tokenize": _TOKENIZE_DESCRIPTION, "rl": _RL_DESCRIPTION}


def run_all(argv: list[str]) -> None:
    """Runs the stages of a recipe."""
    parser = argparse.ArgumentParser(prog="itemic run", description="Run all stages of a recipe.", allow_abbrev=False)
    parser.add_argument("recipe", type=Path, help="YAML file")
    parser.add_argument("changes", nargs="*", help="changes such as sft.training.epochs=3 or data=FOLDER")
    parser.add_argument("--run", type=Path, help="run folder instead of the recipe's")
    parser.add_argument("--stages", default="", help="only these stages, prepare,embed say")
    parser.add_argument("--force", action="store_true", help="run even what is unchanged")
    parser.add_argument("--json", action="store_true", help="print results as JSON")
    arguments = parser.parse_intermixed_args(argv)
    from itemic.pipeline import run_recipe
    from itemic.recipe import load_recipe, with_run

    recipe = with_run(load_recipe(arguments.recipe, tuple(arguments.changes)), arguments.run)
    results = run_recipe(recipe, stages=[name for name in arguments.stages.split(",") if name], force=arguments.force)
    if arguments.json:
        print_json({result.name: result.metrics for result in results})
        return
    folder, figures = Path(recipe.run), {result.name: result.metrics for result in results}
    if "rl" in figures:
        print_rl(folder, figures["rl"], is_last="evaluate" not in figures)
    if "evaluate" in figures:
        print_metrics(folder)
    if "report" in figures:
        print(f"report: {folder / 'report.html'}")


def run_one(name: str, argv: list[str]) -> None:
    """Runs one stage: flags over the recipe, the recipe over what the run folder remembers."""
    parser = argparse.ArgumentParser(prog=f"itemic {name}", add_help=False, allow_abbrev=False)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--recipe", type=Path)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--json", action="store_true")
    if name == "tokenize":
        parser.add_argument("--report", action="store_true")
        for flag in ("--items", "--embeddings", "--embedding-ids"):
            parser.add_argument(flag, type=Path)
    known, rest = parser.parse_known_args(argv)
    if name == "tokenize" and (known.items or known.embeddings):
        _tokenize_items(known, rest)
        return
    from itemic.pipeline import run_stage
    from itemic.recipe import with_run

    recipe = with_run(_stage_recipe(name, known, rest), known.run)
    if known.seed is not None and not (Path(recipe.run) / "recipe.yaml").is_file():
        recipe = replace(recipe, seed=known.seed)  # of a run that begins here; later it is this stage's alone
    seed = recipe.seed if known.seed is None else known.seed
    result = run_stage(recipe, name, seed=seed, force=known.force)
    page = _write_sid_page(Path(recipe.run), seed) if name == "tokenize" and known.report else None
    if known.json:
        print_json(result.metrics)
    elif name == "evaluate":
        print_metrics(Path(recipe.run))
    elif name == "rl":
        print_rl(Path(recipe.run), result.metrics)
    elif name == "baselines":
        print_baselines(Path(recipe.run))
    elif name == "blend":
        print_blend(Path(recipe.run))
    elif name == "report":
        print(f"report: {Path(recipe.run) / 'report.html'}")
    else:
        print_figures(name, result.metrics)
    if page and not known.json:
        print(f"report: {page}")


def _tokenize_items(known: argparse.Namespace, rest: list[str]) -> None:
    """Makes a run of a catalogue alone, without a recipe."""
    from itemic.core.run import Run
    from itemic.embed.embed import EmbedConfig
    from itemic.items_only import tokenize_items
    from itemic.sid.tokenize import TokenizeConfig

    if known.run is None or known.recipe is not None:
        raise ConfigError("itemic tokenize --items or --embeddings makes a run of its own: give --run, and no --recipe")
    config = _parse_section(TokenizeConfig(), "tokenize", _DESCRIPTION + _TOKENIZE_DESCRIPTION, rest)
    embed_config = EmbedConfig(vectors=str(known.embeddings or ""), vector_ids=str(known.embedding_ids or ""))
    seed = known.seed or 0
    result = tokenize_items(
        config, Run(known.run), items=known.items, embed_config=embed_config, seed=seed, force=known.force
    )
    page = _write_sid_page(known.run, seed) if known.report else None
    if known.json:
        print_json(result.metrics)
        return
    print_figures("tokenize", result.metrics)
    if page:
        print(f"report: {page}")


def _write_sid_page(run: Path, seed: int) -> Path:
    from itemic.core.run import Run
    from itemic.sid.report import write_sid_report

    return write_sid_report(Run(run), seed=seed)


def _stage_recipe(name: str, known: argparse.Namespace, rest: list[str]) -> Any:
    """Returns the recipe whose section ``name`` has the flags in it."""
    import tyro

    from itemic.baselines.item_vectors import SvdVectorsConfig
    from itemic.data.prepare import PrepareConfig
    from itemic.hybrid.config import BlendConfig
    from itemic.recipe import Recipe, load_recipe
    from itemic.train.rl.config import RlConfig

    path = known.recipe or (known.run / "recipe.yaml" if known.run else None)
    help_only = "-h" in rest or "--help" in rest
    if name == "baselines" and help_only:
        _print_baselines_help()
        raise SystemExit(0)
    common = _DESCRIPTION + _MORE_DESCRIPTION.get(name, "")
    if path is not None and path.is_file() and not help_only:
        recipe = load_recipe(path)
        if name == "baselines":
            if rest:
                raise ConfigError(f"itemic baselines: {rest[0]}: settings of baselines are in the recipe, row by row")
            return recipe
        section = getattr(recipe, name)
        if section is None and name in ("rl", "blend"):
            section = RlConfig() if name == "rl" else BlendConfig()
        if section is None:
            raise ConfigError(f"{path}: has no section {name}")
        return replace(recipe, **{name: _parse_section(section, name, common, rest)})
    if name == "prepare":
        return Recipe(prepare=tyro.cli(PrepareConfig, prog=f"itemic {name}", description=common, args=rest))
    if help_only:
        makers: dict[str, Any] = {field.name: field.default_factory for field in fields(Recipe)}
        makers |= {"align": makers["sft"], "collaborative": SvdVectorsConfig, "rl": RlConfig, "blend": BlendConfig}
        _parse_section(makers[name](), name, common, rest)
    if known.run is not None and name == "tokenize" and (known.run / "catalog").is_dir():
        raise ConfigError(
            f"{known.run}: was made of a catalogue alone and has no recipe; give --items or --embeddings again"
        )
    raise ConfigError(f"expected --recipe FILE, or --run with a folder in which itemic {name} can find recipe.yaml")


def _print_baselines_help() -> None:
    from itemic.baselines.registry import BASELINES

    flags = _DESCRIPTION.removeprefix("Besides the flags below: ")
    print(f"usage: itemic baselines [options]\n\nFits the rows of a recipe's section baselines. {flags}\n")
    print("Settings are in the recipe, row by row; without a setting a kind's name is enough:\n")
    print("  baselines:\n    popularity: {}\n    sasrec: {settings: {dropout: 0.2}}")
    print("    ease: {search: {l2: [100.0, 500.0]}}                        # the best on valid")
    print("    sasrec-small: {settings: {kind: sasrec, hidden_size: 32}}   # a row of another name\n")
    width = max(map(len, BASELINES))
    print("kinds, and what each reads beside the dataset:\n")
    for kind, entry in BASELINES.items():
        print(f"  {kind:<{width}}  {', '.join([entry.name, *entry.needs])}")
    print("\ndocs/baselines.md describes them.")


def _parse_section(section: C, name: str, description: str, flags: list[str]) -> C:
    """Returns a stage's config with the flags in it; ``--quantizer.kind rqvae`` begins at that quantizer's defaults."""
    import tyro

    section = _with_chosen_types(section, "--", flags)
    choices = [f"--{key}.kind: {', '.join(types)}." for key, types in tagged_types(type(section)).items()]
    description = " ".join([description, *choices])
    parsed: C = tyro.cli(
        tyro.conf.AvoidSubcommands[type(section)],  # type: ignore[misc]
        default=section,
        prog=f"itemic {name}",
        description=description,
        args=flags,
    )
    return parsed


def _with_chosen_types(section: Any, prefix: str, flags: list[str]) -> Any:
    """Returns the config with the defaults of whatever types ``kind`` and ``format`` flags name, at any depth."""
    for key, types in tagged_types(type(section)).items():
        for tag in ("kind", "format"):
            chosen = _value_of(flags, f"{prefix}{key}.{tag}")
            if chosen is not None and chosen not in types:
                nearest = difflib.get_close_matches(chosen, types, n=1, cutoff=0)[0]
                raise ConfigError(
                    f"{prefix}{key}.{tag} {chosen}: there are {', '.join(types)}; did you mean {nearest}?"
                )
            if chosen is not None and chosen != getattr(getattr(section, key), tag, None):
                section = replace(section, **{key: types[chosen]()})
    for field in fields(section):
        nested = getattr(section, field.name)
        if is_dataclass(nested):
            changed = _with_chosen_types(nested, f"{prefix}{field.name}.", flags)
            section = replace(section, **{field.name: changed}) if changed is not nested else section
    return section


def _value_of(flags: list[str], flag: str) -> str | None:
    """Returns what is given after a flag, in one word or two; None without it."""
    for place, word in enumerate(flags):
        if word == flag and place + 1 < len(flags):
            return flags[place + 1]
        if word.startswith(f"{flag}="):
            return word.removeprefix(f"{flag}=")
    return None
