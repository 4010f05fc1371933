"""Templates' own Python: a file of actions -> an object of its class ``Actions``.

Serves ``template``. Runs code that a template's author wrote, which is what a build is for;
whatever goes wrong in it becomes one line with its file and line number.
"""

import itertools
import sys
import traceback
from pathlib import Path
from types import CodeType, ModuleType

from aysfs.build import actions
from aysfs.build.actions import ActionsBase
from aysfs.build.hrd import Hrd
from aysfs.errors import BadRecipe

_NUMBERS = itertools.count()
_GIVEN = {
    name: getattr(actions, name) for name in ("ActionsBase", "ActionsBaseMgmt", "ActionsBaseTmpl")
}


class BadActions(BadRecipe):
    """A file of actions that does not load. ``line`` is 0 when none is to blame."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        super().__init__(f"{path}:{line}: {reason}" if line else f"{path}: {reason}")
        self.path = path
        self.line = line


def load_actions(path: Path, names: Hrd) -> ActionsBase:
    """The actions of a file, its ``$(name)`` replaced from ``names`` before it runs."""
    code = _compile(path, names)
    # A module of its own each time, and known to Python: dataclasses look theirs up.
    module = ModuleType(f"aysfs_actions_{next(_NUMBERS)}")
    module.__file__ = str(path)
    module.__dict__.update(_GIVEN)
    sys.modules[module.__name__] = module
    try:
        exec(code, module.__dict__)
        found = module.__dict__.get("Actions")
        if not isinstance(found, type) or not issubclass(found, ActionsBase):
            raise BadActions(path, 0, "has no `class Actions(ActionsBase)`")
        return found()
    except BadActions:
        raise
    except (Exception, SystemExit) as error:  # an author's code may raise anything
        raise BadActions(path, _line_of(error, path), _words(error)) from error


def _compile(path: Path, names: Hrd) -> CodeType:
    try:
        text = path.read_text(encoding="utf-8")
        return compile(names.apply(text), str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        raise BadActions(path, error.lineno or 0, f"does not compile: {error.msg}") from None
    except (OSError, ValueError) as error:  # ValueError: bytes that are no text
        raise BadActions(path, 0, f"cannot be read: {error}") from None


def _line_of(error: BaseException, path: Path) -> int:
    """The innermost line of this file that took part."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return lines[-1] or 0 if lines else 0


def _words(error: BaseException) -> str:
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
