"""Switches of the configs, which a command line gives as text."""

from cardiac_cine.errors import InputError

_WORDS = {"true": True, "false": False}


def flag(name: str, value: bool | str) -> bool:
    """Return a switch's value. MONAI's command line hands on ``--name false`` as a word, which Python takes for true.

    Args:
        name: of the switch, for the error.
        value: true or false, or one of these words in any case.

    Raises:
        InputError: ``value`` is neither.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _WORDS:
        return _WORDS[value.lower()]
    raise InputError(f"{name} is {value!r}, expected true or false")
