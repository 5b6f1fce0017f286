"""All drills of one command: the run without a fault first, then one run for each fault, and nothing left behind."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resilient.drill.conduct import Drill, Moment
from resilient.drill.faults import Fault
from resilient.drill.in_process import OutOfMemory
from resilient.drill.memory_group import MemoryGroup
from resilient.drill.progress import Progress
from resilient.drill.reference import Reference
from resilient.drill.request import Request, moment
from resilient.drill.scratch import ScratchRun
from resilient.drill.verdict import Outcome, judge
from resilient.errors import ExitCode, FaultNotInjected, ResilientError, TargetNotWritable
from resilient.protocol.board import Word
from resilient.protocol.paths import RunPaths

Say = Callable[[str], None]
_LEAST_TIMEOUT = 180.0
_TIMES_THE_REFERENCE = 10.0
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Session:
    """Where and how the drills are done.

    :param directory: of the scratch runs; not there yet, or empty.
    :param tree: the composed configuration.
    :param overrides: of it.
    :param timeout: seconds for each run; 0 to choose by the run without a fault.
    :param say: takes a line for the person who waits.
    """

    directory: Path
    request: Request
    tree: Mapping[str, Any]
    overrides: Sequence[str]
    say: Say
    timeout: float = 0.0

    def open(self) -> None:
        """Make the directory.

        :raises TargetNotWritable: something is there already.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if any(self.directory.iterdir()):
                raise TargetNotWritable(f"{self.directory} is not empty", "choose another with --dir")
        except OSError as error:
            raise TargetNotWritable(f"{self.directory} cannot be used: {error.strerror}", "choose another") from error

    def make_reference(self) -> Reference:
        """Run it without a fault.

        :raises ResilientError: it does not finish; then a drill would show nothing.
        """
        self.say("without a fault: running …")
        run = self._run("reference", [])
        with ExitStack() as stack:
            stack.callback(run.close)
            target = run.start()
            progress = Progress()
            while (code := run.poll()) is None:
                progress.note(target.read(Word.STEP))
                time.sleep(_POLL_SECONDS)
        if code != 0:
            raise _not_finished(code, run)
        reference = Reference.of(run.paths, progress.times())
        steps = f"{reference.steps} steps in " if reference.steps else ""
        self.say(f"without a fault: {steps}{reference.seconds:.1f} s")
        return reference

    def drill_all(self, reference: Reference) -> list[Outcome]:
        """Every fault at every moment, one run after the other.

        :raises ConfigurationError: there is no such moment.
        """
        dice = random.Random(self.request.seed)  # noqa: S311  moments of faults are no secrets
        steps, seconds = reference.steps, reference.seconds
        planned = [(moment(at, steps, seconds, dice), fault) for at in self.request.at for fault in self.request.faults]
        limits = reference.limits(self.overrides)
        if limits:
            self.say(f"set for the drills alone: {' '.join(limits)}")
        return [self._drill(fault, when, reference, limits) for when, fault in planned]

    def _drill(self, fault: Fault, when: Moment, reference: Reference, limits: Sequence[str]) -> Outcome:
        name = f"{fault.name}-{when.step}" if when.step else f"{fault.name}-{when.seconds:.1f}s"
        run = self._run(self._free_name(name), limits)
        if isinstance(fault, OutOfMemory):
            fault = self._with_group(fault, run)
        self.say(f"{fault.name} at {when}: running …")
        timeout = self.timeout or max(_LEAST_TIMEOUT, _TIMES_THE_REFERENCE * reference.seconds)
        try:
            outcome = Drill(run, fault, when, timeout).conduct(reference.paths)
        finally:
            run.close()
        self.say(f"{fault.name} at {when}: {judge(outcome)}")
        return outcome

    def _free_name(self, name: str) -> str:
        number, found = 1, name
        while (self.directory / found).exists():
            number, found = number + 1, f"{name}-{number + 1}"
        return found

    def _with_group(self, fault: OutOfMemory, run: ScratchRun) -> OutOfMemory:
        try:
            group = MemoryGroup.make(run.paths.memory_name)
        except FaultNotInjected as error:
            self.say(f"oom: {error.problem}; so an allocation fails in the worker, and no kernel kills it")
            return fault
        run.group = group
        return replace(fault, group=group)

    def _run(self, name: str, extra: Sequence[str]) -> ScratchRun:
        memory_dir = str(self.tree.get("snapshot", {}).get("memory_dir", ""))
        paths = RunPaths.of(self.directory, name)
        return ScratchRun(paths, self.request.conf, [*self.overrides, *extra], memory_dir)

    def remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


def _not_finished(code: int, run: ScratchRun) -> ResilientError:
    """The run without a fault ended with an exit code of its own, which is then that of the drill too."""
    error = ResilientError(
        f"without a fault already, the run ends with exit code {code}:\n{run.last_words(800)}",
        f"make `resilient train` finish with these settings first; this run is in {run.paths.root}",
    )
    error.exit_code = next((known for known in ExitCode if known == code), ExitCode.INTERNAL)
    return error
