"""The one error that is the user's to fix; anything else that escapes is a bug of ours."""

from __future__ import annotations

__all__ = ["CompileError"]


class CompileError(Exception):
    """What the user gave cannot be compiled, in one sentence.

    Parameters: `where` names the place (a layer, file or option), `rule` says what must hold and what was given,
    `fix` says what to do. The message reads ``where: rule; fix``. The command line prints it and exits with 2.

    >>> print(CompileError("dense_2 (MatMul)", "weights must be constant, not the output of 'gather_1'", "fold constants"))
    dense_2 (MatMul): weights must be constant, not the output of 'gather_1'; fold constants
    """

    def __init__(self, where: str, rule: str, fix: str = "") -> None:
        self.where, self.rule, self.fix = where, rule, fix
        super().__init__(f"{where}: {rule}" + (f"; {fix}" if fix else ""))
