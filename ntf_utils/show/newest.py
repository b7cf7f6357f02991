"""Answers in the background for explorers that compute while a control is dragged: the newest request wins."""

import threading
from collections.abc import Callable
from typing import Any


class Newest:
    """One thread that works on the newest request. Requests that were overtaken are never begun, and what comes out
    of one that was overtaken while it ran is not shown.

    Args:
        work: request -> answer; runs in the thread.
        show: takes the answer, in the thread.
        fail: takes the exception that `work` or `show` raised, so that no error is lost in a log.
    """

    def __init__(
        self, work: Callable[[Any], Any], show: Callable[[Any], None], fail: Callable[[Exception], None]
    ) -> None:
        self._work, self._show, self._fail = work, show, fail
        self._lock = threading.Lock()
        self._wanted: list[Any] = []  # none or one
        self._runs = False

    def ask(self, request: Any) -> None:
        """Returns at once."""
        with self._lock:
            self._wanted = [request]
            if self._runs:
                return
            self._runs = True
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._runs = False
                    return
                request = self._wanted.pop()
            try:
                answer = self._work(request)
                if not self._overtaken():
                    self._show(answer)
            except Exception as error:
                if not self._overtaken():
                    self._fail(error)

    def _overtaken(self) -> bool:
        with self._lock:
            return bool(self._wanted)
