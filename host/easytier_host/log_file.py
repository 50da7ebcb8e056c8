"""The rotated log file, which may be on a disk that fills up: a line that cannot be written is lost, and nothing else is.

Used by `log.configured`.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from logging.handlers import RotatingFileHandler

logger = logging.getLogger("easytier.log")


class LogFile(RotatingFileHandler):
    """Says on the other handlers when it can no longer write, and how many lines were lost once it can."""

    _lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        lost = self._lost
        super().emit(record)
        if lost and self._lost == lost:
            self._lost = 0
            logger.warning("%s is written again; %d lines are missing in it", self.baseFilename, lost)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        """Drop the line, and with the stream what it could not write, which would end up between later lines."""
        fault = sys.exc_info()[1]
        if not isinstance(fault, OSError):
            super().handleError(record)
            return
        if self.stream is not None:
            with suppress(OSError):
                self.stream.close()
            # The next line opens the file again.
            self.stream = None
        self._lost += 1
        if self._lost == 1:
            logger.warning("%s cannot be written, its lines are lost: %s", self.baseFilename, fault.strerror)
