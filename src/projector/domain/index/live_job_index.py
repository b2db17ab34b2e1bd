"""Live jobs by project, by user and by every group above their project."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain

from projector.domain.entities import Job
from projector.domain.fact_keys import Key, kind_of, project_key, root_of
from projector.domain.facts import AnyFact
from projector.domain.group_chain import groups_above
from projector.domain.index.multimap import Multimap


class LiveJobIndex:
    """The jobs that have started and have neither finished nor expired.

    A busy project is one with live jobs. Every group above it is linked to it, so that the cost of
    a change depends on the jobs that it affects and not on the size of the namespace. `facts` are
    those of the partition.
    """

    def __init__(self, facts: Mapping[Key, AnyFact]) -> None:
        self._facts = facts
        self._jobs_of_project: Multimap[Key, Key] = Multimap()
        self._jobs_of_user: Multimap[int, Key] = Multimap()
        # By the key of every group above the project, known or not.
        self._busy_projects: Multimap[Key, Key] = Multimap()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Key]:
        return chain.from_iterable(self._jobs_of_project.values())

    def add(self, key: Key, job: Job) -> None:
        """Add a job, if it is not there yet; its project becomes busy with the first."""
        project = project_key(root_of(key), job.project)
        if project not in self._jobs_of_project:
            self.link([project])
        self._jobs_of_user[job.user].add(key)
        self._count += key not in self._jobs_of_project[project]
        self._jobs_of_project[project].add(key)

    def discard(self, key: Key, job: Job) -> None:
        """Remove a job, if it is live; its project ceases to be busy with the last."""
        project = project_key(root_of(key), job.project)
        self._count -= key in self._jobs_of_project.get(project, ())
        self._jobs_of_user.discard(job.user, key)
        self._jobs_of_project.discard(project, key)
        if project not in self._jobs_of_project:
            self.unlink([project])

    def of_user(self, user: int) -> Collection[Key]:
        """Return the live jobs that run for the user."""
        return self._jobs_of_user.get(user, ())

    def in_scope(self, scope: Key) -> Iterator[Key]:
        """Yield the live jobs in a project, or in all projects below a group."""
        return self.in_scopes((scope,))

    def in_scopes(self, scopes: Iterable[Key]) -> Iterator[Key]:
        """Yield the live jobs in any of the projects or groups, each once."""
        found: set[Key] = set()
        for scope in scopes:
            found.update([scope] if self.is_busy(scope) else self._busy_projects.get(scope, ()))
        return chain.from_iterable(self._jobs_of_project[project] for project in found)

    def is_busy(self, project: Key) -> bool:
        """Return whether the project has live jobs."""
        return project in self._jobs_of_project

    def is_in_scope(self, project: Key, scope: Key) -> bool:
        """Return whether a busy project is the scope, or below it."""
        return scope == project or project in self._busy_projects.get(scope, ())

    def busy_projects(self) -> list[Key]:
        """Return all projects with live jobs."""
        return list(self._jobs_of_project)

    def linked_projects(self, key: Key) -> list[Key]:
        """Return the busy projects whose groups a change of the fact `key` may change."""
        if kind_of(key) == "group":
            return list(self._busy_projects.get(key, ()))
        return [key] if key in self._jobs_of_project else []

    def link(self, projects: Iterable[Key]) -> None:
        """Link each project to the groups that are above it now."""
        for project in projects:
            for group in groups_above(self._facts, project):
                self._busy_projects[group].add(project)

    def unlink(self, projects: Iterable[Key]) -> None:
        """Undo `link`, before a fact about the project or a group above it changes."""
        for project in projects:
            for group in groups_above(self._facts, project):
                self._busy_projects.discard(group, project)
