"""The playbooks that can be run: those of the folder `playbooks.folder`, and those in the package `library`.

A file is read when it is asked for, so that an edited playbook is in force at once; a run keeps the plan that it began
with. A file that cannot be read stops no other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cloud_hub.errors import HubError
from cloud_hub.playbooks.core import document, spec
from cloud_hub.playbooks.core.plan import Plan, Values, make
from cloud_hub.playbooks.core.problems import PlaybookError, Problem
from cloud_hub.playbooks.core.spec import Parameter, Playbook

LIBRARY = Path(__file__).parent / "library"
SUFFIX = ".yaml"
MAX_FILES = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A playbook by name: as read, or why it cannot be. `shipped` comes with the hub."""

    name: str
    shipped: bool
    playbook: Playbook | None = None
    error: PlaybookError | None = None


class PlaybookCatalogue:
    """Finds playbooks by name. A file in `folder` goes before one of the library with the same name."""

    def __init__(self, folder: str = "") -> None:
        self._folders = [Path(folder), LIBRARY] if folder else [LIBRARY]

    def load(self, name: str) -> Playbook:
        """The playbook; raises PlaybookError if it is invalid, HubError 404 if there is none."""
        return spec.read(self.text(name), name)

    def text(self, name: str) -> str:
        """The YAML of a playbook; HubError 404."""
        if spec.NAME.match(name):
            for folder in self._folders:
                if (file := folder / f"{name}{SUFFIX}").is_file():
                    return read_text(file, name)
        raise HubError(404, "No such playbook", f"'{name[:80]}' is in no folder of playbooks")

    def list_all(self) -> list[Listed]:
        """Every playbook by name, at most MAX_FILES of a folder."""
        names: dict[str, bool] = {}
        for folder in reversed(self._folders):
            for file in sorted(folder.glob(f"*{SUFFIX}"))[:MAX_FILES]:
                names[file.stem] = folder == LIBRARY
        return [self._listed(name, shipped) for name, shipped in sorted(names.items())]

    def _listed(self, name: str, shipped: bool) -> Listed:
        try:
            return Listed(name=name, shipped=shipped, playbook=self.load(name))
        except PlaybookError as error:
            return Listed(name=name, shipped=shipped, error=error)
        except HubError:
            problem = Problem(0, "file", "its name is no name of a playbook", "Rename it")
            return Listed(name=name, shipped=shipped, error=PlaybookError(name, [problem]))

    def plan(self, name: str, values: Values) -> Plan:
        """The plan of a run with these parameters. HubError 404, or 422 with all problems."""
        return translated(lambda: make(self.load(name), values, self.load))

    def picture(self, name: str) -> Plan:
        """A plan to draw: parameters without a default stand for themselves."""
        return translated(lambda: placeholder_plan(self.load(name), self.load))


def read_text(file: Path, name: str) -> str:
    """The text of a file, no more of it than a playbook may have; raises PlaybookError."""
    try:
        with file.open("rb") as opened:
            return opened.read(document.MAX_BYTES + 1).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlaybookError(name, [Problem(0, str(file), f"cannot be read ({error})", "Check it")]) from error


def placeholder_plan(playbook: Playbook, load: Callable[[str], Playbook]) -> Plan:
    """The plan of a playbook whose parameters are not known yet. Raises PlaybookError."""
    return make(playbook, {name: _placeholder(name, each) for name, each in playbook.parameters.items()}, load)


def _placeholder(name: str, parameter: Parameter) -> str | float | bool:
    if parameter.default is not None:
        return parameter.default
    if parameter.type == "string":
        return f"<{name}>"
    return False if parameter.type == "boolean" else 0


def translated(do: Callable[[], Plan]) -> Plan:
    """The result of `do`; a PlaybookError becomes HubError 422."""
    try:
        return do()
    except PlaybookError as error:
        raise HubError(422, "The playbook is invalid", str(error)) from error
