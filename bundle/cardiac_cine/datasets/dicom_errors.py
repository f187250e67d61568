"""What goes wrong in DICOM files, caught in one place: other people's files, read by pydicom."""

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from pydicom import config
from pydicom.errors import BytesLengthException, InvalidDicomError

# What a damaged or foreign file makes pydicom raise.
UNREADABLE = (
    InvalidDicomError,
    BytesLengthException,
    ArithmeticError,
    MemoryError,
    zlib.error,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    IndexError,
    NotImplementedError,
    RuntimeError,
    struct.error,
)
_MAX_MESSAGE = 200


def one_line(error: BaseException) -> str:
    """Return the start of an error's message, without line breaks; some quote whole files."""
    message = " ".join(str(error).split())
    return message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]} ..."


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Hold back pydicom's remarks on values that have no meaning here."""
    level = config.logger.level
    config.logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        config.logger.setLevel(level)
