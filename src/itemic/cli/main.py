"""The command line: a command parses, calls one library function, and prints one summary.

Results go to stdout (``--json`` for machines), progress and errors to stderr; bad input ends with exit code 2.
Imports are inside the functions, so that help and errors come at once.
"""

import difflib
import sys
from collections.abc import Callable, Sequence

import itemic
from itemic.core.errors import ConfigError, ItemicError
from itemic.core.progress import setup_logging

__all__ = ["main"]

_USAGE = """usage: itemic COMMAND [options]          itemic COMMAND --help

the whole road
  run RECIPE        all stages of a recipe; skips what is unchanged, resumes what was killed

one stage of a run folder (--run FOLDER --recipe RECIPE and the stage's own flags)
  prepare           a log and a catalogue become a dataset with its splits
  embed             item texts become vectors
  collaborative     training interactions become vectors, to be joined to the texts
  tokenize          vectors become semantic IDs
  align             a backbone learns the SID rows alone, before sft
  sft               a model learns to speak semantic IDs
  rl                the model learns from its own answers, after sft
  baselines         fit the recommenders that the model has to beat, row by row
  blend             weigh the model and baselines into one recommender
  evaluate          figures for the model and the baselines
  report            one offline page

with a trained run
  recommend         items for one history of ids or titles, or for a table of users
  calibrate         fit the probabilities it shows to how often they are right
  catalog           show it, append or retire items, refit its codes
  compare           one table of any runs, with tests and published figures
  export            write the dataset in another project's format

many runs that answer one question
  study             an ablation of a recipe's settings; a scaling law

  --version         itemic's version
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits: 0 if it worked, 2 for bad input, 130 if interrupted."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_USAGE, end="")
        return
    if argv[0] == "--version":
        print(f"itemic {itemic.__version__}")
        return
    setup_logging()
    try:
        _command(argv[0])(argv[1:])
    except ItemicError as error:
        print(f"itemic {argv[0]}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        print(f"itemic {argv[0]}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(f"itemic {argv[0]}: interrupted; run it again with the same flags to go on", file=sys.stderr)
        raise SystemExit(130) from None


def _command(name: str) -> Callable[[list[str]], None]:
    from itemic.cli.commands import COMMANDS

    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, list(COMMANDS), n=1, cutoff=0.0)[0]
        raise ConfigError(f"no such command; did you mean itemic {nearest}? itemic --help lists them")
    return COMMANDS[name]
