"""Conditions on catalogue columns, written as text: ``category = Books and not (stock = 0 or price > 20)``.

    condition  = all {or all}
    all        = one {and one}
    one        = not one | ( condition ) | column test
    test       = (= | != | < | <= | > | >=) value
               | [not] in ( value {, value} )
               | [not] contains value
               | within NUMBER (minutes | hours | days | weeks)
               | is [not] null

A column or value of several words, or with a sign of the syntax in it, stands in quotes ('Board games'). Knows no
column types: ``columns`` makes of every test a polars expression, and polars does the rest.
"""

import logging
import re
from datetime import datetime, timedelta
from typing import NamedTuple, NoReturn, cast, get_args

import polars as pl

from itemic.core.errors import ConfigError, DataError
from itemic.decode.conditions.columns import (
    Comparison,
    Notes,
    Value,
    compare,
    contains,
    is_among,
    is_missing,
    is_recent,
)

__all__ = ["parse_condition", "values_asked_for"]

log = logging.getLogger("itemic")

_TOKEN = re.compile(
    r"""\s*(?:(?P<quoted>'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`)|(?P<sign>==|<>|!=|<=|>=|[=<>(),])|(?P<word>[^\s'"`=<>!(),]+))"""
)
_UNITS = {"minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}
_SPELLINGS = {"==": "=", "<>": "!="}
_MOST_TOKENS = 1000
_DEEPEST = 50
_MOST_SHOWN = 200


class _Token(NamedTuple):
    text: str
    is_word: bool
    """Whether it is bare, so that it can be a keyword."""
    is_sign: bool


def parse_condition(text: str, items: pl.DataFrame, now: datetime) -> pl.Expr:
    """Returns the polars expression of a condition: true, false, or null where a value it needs is missing.

    Args:
        text: The condition.
        items: The catalogue whose columns are meant.
        now: The moment from which ``within`` counts back, in UTC without a zone.

    Raises:
        ConfigError: if the text is no condition, names a column that is not there, or compares it with what does not go
            with its type; the message has the text.
        DataError: if most cells of a text column cannot be read as the number or date that they are compared with; the
            message has the text. Fewer count as missing, with a warning.
    """
    notes: Notes = {}
    try:
        found = _Parser(_tokens(text), items, now, notes).parse()
    except (ConfigError, DataError) as error:
        raise type(error)(f"condition {text[:_MOST_SHOWN]!r}: {error}") from None
    for note in notes.values():
        log.warning("condition %r: %s", text[:_MOST_SHOWN], note)
    return found


def values_asked_for(text: str, items: pl.DataFrame, now: datetime) -> list[tuple[str, Value]]:
    """Returns the columns and values that a condition wants to be equal, by ``=`` or ``in``.

    Args:
        text: The condition, one that can be parsed.
        items: The catalogue whose columns are meant.
        now: As for ``parse_condition``.
    """
    parser = _Parser(_tokens(text), items, now, {})
    parser.parse()
    return parser.asked_for


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    end = 0
    for _ in range(_MOST_TOKENS):
        if not text[end:].strip():
            return tokens
        found = _TOKEN.match(text, end)
        if found is None:
            raise ConfigError(f"cannot read on from {text[end:].strip()!r}; is a quote left open?")
        end = found.end()
        quoted, sign, word = found.group("quoted", "sign", "word")
        if quoted is not None:
            mark = quoted[0]
            tokens.append(_Token(quoted[1:-1].replace(mark * 2, mark), is_word=False, is_sign=False))
        else:
            tokens.append(
                _Token(_SPELLINGS.get(sign, sign) or word, is_word=word is not None, is_sign=sign is not None)
            )
    raise ConfigError(f"more than {_MOST_TOKENS} words and signs")


class _Parser:
    """Recursive descent over the tokens of one condition."""

    def __init__(self, tokens: list[_Token], items: pl.DataFrame, now: datetime, notes: Notes) -> None:
        self._tokens = tokens
        self._items = items
        self._now = now
        self._notes = notes
        self.asked_for: list[tuple[str, Value]] = []
        self._place = 0
        self._depth = 0

    def parse(self) -> pl.Expr:
        condition = self._any()
        if self._place < len(self._tokens):
            self._refuse("and, or, or the end (a value of several words stands in quotes)")
        return condition

    def _any(self) -> pl.Expr:
        found = self._all()
        while self._takes("or"):
            found = found | self._all()
        return found

    def _all(self) -> pl.Expr:
        found = self._one()
        while self._takes("and"):
            found = found & self._one()
        return found

    def _one(self) -> pl.Expr:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ConfigError(f"nested more than {_DEEPEST} deep")
        if self._takes("not"):
            found = ~self._one()
        elif self._takes("("):
            found = self._any()
            self._needs(")")
        else:
            found = self._test(self._value("a column"))
        self._depth -= 1
        return found

    def _test(self, column: str) -> pl.Expr:
        items, notes = self._items, self._notes
        for comparison in get_args(Comparison):
            if self._takes(comparison):
                value = self._compared("a value")
                self.asked_for += [(column, value)] if comparison == "=" else []
                return compare(items, column, cast(Comparison, comparison), value, notes)
        if self._takes("is"):
            is_negated = self._takes("not")
            self._needs("null")
            missing = is_missing(items, column)
            return ~missing if is_negated else missing
        if self._takes("within"):
            return is_recent(items, column, self._age(), self._now, notes)
        is_negated = self._takes("not")
        if self._takes("in"):
            values = self._values()
            self.asked_for += [] if is_negated else [(column, value) for value in values]
            found = is_among(items, column, values, notes)
        elif self._takes("contains"):
            found = contains(items, column, self._value("a value"))
        else:
            self._refuse(f"=, !=, <, <=, >, >=, in, contains, within or is after {column}")
        return ~found if is_negated else found

    def _values(self) -> list[Value]:
        self._needs("(")
        values = [self._compared("a value")]
        while self._takes(","):
            values.append(self._compared("a value"))
        self._needs(")")
        return values

    def _age(self) -> timedelta:
        number, unit = self._value("a number of days"), self._value("minutes, hours, days or weeks").lower()
        seconds = _UNITS.get(unit.removesuffix("s"))
        if seconds is None or not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", number):
            raise ConfigError(f"expected a number of minutes, hours, days or weeks, found {number} {unit}")
        return timedelta(seconds=float(number) * seconds)

    def _compared(self, what: str) -> Value:
        text = self._value(what)
        return Value(text, is_quoted=not self._tokens[self._place - 1].is_word)

    def _value(self, what: str) -> str:
        if self._place == len(self._tokens) or self._tokens[self._place].is_sign:
            self._refuse(what)
        self._place += 1
        return self._tokens[self._place - 1].text

    def _takes(self, wanted: str) -> bool:
        """Moves past a keyword or sign if it is the next token."""
        if self._place == len(self._tokens):
            return False
        token = self._tokens[self._place]
        is_it = (token.is_word or token.is_sign) and token.text.lower() == wanted
        self._place += int(is_it)
        return is_it

    def _needs(self, wanted: str) -> None:
        if not self._takes(wanted):
            self._refuse(wanted)

    def _refuse(self, expected: str) -> NoReturn:
        found = self._tokens[self._place].text if self._place < len(self._tokens) else "the end"
        before = self._tokens[self._place - 1].text if self._place else "the beginning"
        raise ConfigError(f"expected {expected}, found {found!r} after {before!r}")
