"""The exception tree; every error a user can cause is one of these.

    ItemicError
    ├── ConfigError             a recipe, flag or argument that cannot be honoured
    ├── DataError               a log, catalogue or history that cannot be read or used
    ├── CatalogError            semantic IDs that are impossible, ambiguous or of another catalogue
    ├── ArtifactError           a run folder's file that is missing, damaged or out of date
    └── MissingDependencyError  an optional package that is not installed

The first four are also ``ValueError``, the last is also ``ImportError``, so callers that know nothing of itemic
can still catch them. The command line turns each into one line on stderr and exit code 2.
"""

__all__ = [
    "ArtifactError",
    "CatalogError",
    "ConfigError",
    "DataError",
    "ItemicError",
    "MissingDependencyError",
]


class ItemicError(Exception):
    """Base of every error that a user's input can cause."""


class ConfigError(ItemicError, ValueError):
    """A recipe, flag or argument that cannot be honoured."""


class DataError(ItemicError, ValueError):
    """A log, catalogue or history that cannot be read or used."""


class CatalogError(ItemicError, ValueError):
    """Semantic IDs that are impossible, ambiguous or belong to another catalogue."""


class ArtifactError(ItemicError, ValueError):
    """A run folder's file that is missing, damaged or out of date."""


class MissingDependencyError(ItemicError, ImportError):
    """An optional package that is not installed; the message names the extra that brings it."""

    @classmethod
    def for_extra(cls, package: str, extra: str, purpose: str) -> "MissingDependencyError":
        """Returns the error for ``package``, which the extra ``extra`` installs and ``purpose`` needs."""
        return cls(f"{purpose} needs the package {package!r}: pip install 'itemic[{extra}]'")
