import pytest

from itemic.core.page.formats import (
    shorten,
    write_count,
    write_date,
    write_duration,
    write_interval,
    write_metric,
    write_number,
    write_p_value,
    write_percent,
    write_quantity,
    write_signed,
)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (write_count(1682), "1,682"),
        (write_count(None), "–"),
        (write_metric(1 / 16), "0.0625"),
        (write_metric(float("nan")), "–"),
        (write_signed(-1 / 16), "−0.0625"),
        (write_signed(1 / 16), "+0.0625"),
        (write_interval(1 / 4, 1 / 2), "0.2500 to 0.5000"),
        (write_interval(None, None), ""),
        (write_percent(1 / 8), "12.5%"),
        (write_percent(1e-5), "<0.1%"),
        (write_percent(0.0), "0.0%"),
        (write_percent(1 / 8, 0), "12%"),
        (write_p_value(0.0004), "< 0.001"),
        (write_p_value(1 / 8), "0.125"),
        (write_number(0.0012345), "0.00123"),
        (write_number(0.00001), "1.0e-05"),
        (write_number(4560.2), "4,560"),
        (write_number(7.0), "7"),
        (write_number(None), "–"),
        (shorten("two  words\nand more", 100), "two words and more"),
        (shorten("two words", 5), "two…"),
        (write_quantity(999), "999"),
        (write_quantity(1_500), "1.5K"),
        (write_quantity(4_210_000), "4.21M"),
        (write_quantity(1_720_000_000), "1.72B"),
        (write_duration(0.0213), "21 ms"),
        (write_duration(3.25), "3.2 s"),
        (write_duration(59.7), "1 min"),
        (write_duration(200), "3 min 20 s"),
        (write_duration(7500), "2 h 5 min"),
        (write_duration(100_000), "1 d 3 h"),
        (write_date(0), "1970-01-01"),
        (write_date(-86_400), "1969-12-31"),
        (write_date(None), "–"),
    ],
)
def test_figures_are_written_for_readers(written: str, expected: str) -> None:
    assert written == expected
