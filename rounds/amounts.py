"""Times and sizes as people say them: whole words in sentences, short ones in tables."""

_UNITS = ((86_400, "day", "d"), (3600, "hour", "h"), (60, "minute", "min"), (1, "second", "s"))


def _parts(seconds: int) -> list[tuple[int, str, str]]:
    """How many of which units, the greatest first, and none of which there are none."""
    parts = []
    for length, word, short in _UNITS:
        count, seconds = divmod(seconds, length)
        if count:
            parts.append((count, word, short))
    return parts


def span(seconds: float) -> str:
    """A time in its two greatest units.

    Example:
        >>> span(300), span(3905), span(90_000)
        ('5 minutes', '1 hour 5 minutes', '1 day 1 hour')
    """
    parts = [f"{count} {word}{'s' * (count != 1)}" for count, word, _ in _parts(round(seconds))]
    return " ".join(parts[:2]) or "0 seconds"


def units(seconds: float) -> list[str]:
    """Whole seconds in units, the greatest first; as drawings/numbers.js tells them.

    Example:
        >>> units(3905)
        ['1 h', '5 min', '5 s']
    """
    return [f"{count} {short}" for count, _, short in _parts(int(seconds))] or ["0 s"]


def size(count: float, ones: str = "bytes") -> str:
    """A number of bytes in decimal units: "4.2 MB".

    Args:
        count: The number.
        ones: The word for less than a thousand.
    """
    for unit in (ones, "kB", "MB", "GB"):
        if count < 1000:
            whole = unit == ones or count >= 100
            return f"{count:.0f} {unit}" if whole else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
