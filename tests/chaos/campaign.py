"""One campaign, or many: ``python -m tests.chaos.campaign --seed 123`` or ``--count 1000``.

The directory of a campaign that fails is kept, with the run's journal, logs and output.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.chaos.checks import Evidence, problems, read_strictly
from tests.chaos.node_plan import NodePlan
from tests.chaos.plan import STEPS, Plan, plan
from tests.chaos.scheduler import CampaignFailed, ChaosWorkspace, History, Scheduler
from tests.run.harness import RunCase

_MODULE = "tests.chaos.campaign"
_SCRIPT = Path(__file__).with_name("train_chaos.py")
# Budgets that nothing but a bug can spend: the faults are ours, and many.
BUDGETS = (
    "restarts.max_failures=250",
    "restarts.intensity=250",
    "restarts.crash_loop=250",
    "restarts.first_wait=0.05",
    "restarts.max_wait=0.2",
)
_PRELOAD = "worker.preload=[torch,torch.utils.data,numpy]"  # starts are most of the time, and nothing is compiled


@dataclass
class Result:
    """How a campaign went."""

    plan: Plan | NodePlan
    history: History
    seconds: float
    problems: list[str]
    directory: Path
    module: str

    def __str__(self) -> str:
        lines = [str(self.plan), *self.history.lines, *(f"PROBLEM {problem}" for problem in self.problems)]
        return "\n".join([*lines, f"replay: python -m {self.module} --seed {self.plan.seed}"])


@dataclass
class Campaigns:
    """Campaigns in one directory, which share the clean runs that they are compared with."""

    directory: Path
    keep: bool = False  # of campaigns in which nothing was wrong, too
    _references: dict[tuple[int, int, int], RunCase] = field(default_factory=dict)

    def run(self, seed: int) -> Result:
        """One campaign. Its directory is removed unless something is wrong."""
        began, planned = time.monotonic(), plan(seed)
        at_interrupt()
        reference = self._reference(planned)
        workspace = make_workspace(self.directory / f"seed-{seed}")
        settings = list(planned.settings)
        if planned.remote:
            (workspace.directory / "remote").mkdir()
            settings += [f"remote.url={workspace.directory / 'remote'}", "remote.retention.last=2"]
        case = workspace.run("chaos", *settings, *BUDGETS, _PRELOAD, steps=STEPS, ranks=planned.ranks)
        scheduler = Scheduler(case, planned)
        try:
            found = self._judge(workspace, case, reference, scheduler)
        finally:
            for process in workspace.processes():
                process.kill()
        if not found and not self.keep:
            shutil.rmtree(workspace.directory)
        return Result(planned, scheduler.history, time.monotonic() - began, found, workspace.directory, _MODULE)

    def _judge(self, workspace: ChaosWorkspace, case: RunCase, reference: RunCase, scheduler: Scheduler) -> list[str]:
        try:
            scheduler.run()
            journal = read_strictly(case.paths.journal)
        except (CampaignFailed, ValueError) as error:
            return [str(error)]
        return problems(Evidence(workspace, case, reference, scheduler.plan, scheduler.history, journal))

    def _reference(self, planned: Plan) -> RunCase:
        """The clean run; it does not depend on how many processes load the data, nor on when snapshots are taken."""
        kind = planned.state
        if kind not in self._references:
            workspace = make_workspace(self.directory / "-".join(["reference", *map(str, kind)]))
            what = (
                f"worker.ranks={planned.ranks}",
                f"train.ballast_mb={planned.ballast}",
                f"train.owned_mb={planned.owned}",
            )
            case = workspace.run("clean", *what, steps=STEPS, ranks=planned.ranks)
            if case.finish() != 0:
                raise CampaignFailed(f"the clean run fails:\n{case.output()}")
            self._references[kind] = case
        return self._references[kind]


def make_workspace(directory: Path) -> ChaosWorkspace:
    """An empty one, with the configuration of the campaigns' script."""
    workspace = ChaosWorkspace(directory)
    if workspace.directory.exists():
        shutil.rmtree(workspace.directory)
    for needed in (workspace.directory / "conf", workspace.directory / "pids", workspace.temporary):
        needed.mkdir(parents=True)
    pids = workspace.directory / "pids"
    train = "steps: 0, samples: 54, batch_size: 4, workers: 0, step_seconds: 0.01, ballast_mb: 0, owned_mb: 0"
    (workspace.directory / "conf" / "small.yaml").write_text(
        f"worker: {{script: {_SCRIPT}}}\nsnapshot: {{every_steps: 10}}\n"
        f"train: {{{train}, sharded: false, pids: {pids}}}\n"
    )
    return workspace


def at_interrupt() -> None:
    """Heed SIGINT, which a shell has what it runs in the background ignore, and the supervisor would as well."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Many(Protocol):
    """Campaigns, which share what they are compared with."""

    def run(self, seed: int) -> Result: ...


def campaigns_of(
    arguments: list[str], make: Callable[[Path, bool], Many], plan: Callable[[int], object], about: str, module: str
) -> int:
    """The command: run so many of a kind.

    :param module: what was called.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about)
    parser.add_argument("--seed", type=int, default=None, help="the first seed; a fresh one if it is left out")
    parser.add_argument("--count", type=int, default=1, help="how many campaigns, with consecutive seeds")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first that fails")
    parser.add_argument("--keep", action="store_true", help="keep the directories of those that do not fail too")
    parser.add_argument("--plan", action="store_true", help="only show what would be done")
    parser.add_argument("--verbose", action="store_true", help="show what was done")
    options = parser.parse_args(arguments)
    first = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 30)
    seeds = range(first, first + options.count)
    if options.plan:
        print("\n".join(str(plan(seed)) for seed in seeds))
        return 0
    directory = Path(tempfile.mkdtemp(prefix="resilient-chaos-"))
    campaigns, failed, faults = make(directory, options.keep), 0, Counter[str]()
    for number, seed in enumerate(seeds, 1):
        result = campaigns.run(seed)
        faults.update(result.history.done)
        verdict = "FAILED" if result.problems else "ok"
        print(
            f"{number:5} seed {seed:10} {verdict:6} {result.seconds:5.1f} s  exits {result.history.codes}", flush=True
        )
        if result.problems or options.verbose:
            print(result, flush=True)
        if result.directory.exists():
            print(f"kept in {result.directory}", flush=True)
        if result.problems:
            failed += 1
            if not options.keep_going:
                break
    print(f"{failed} of {number} campaigns failed; faults: {dict(faults.most_common())}")
    if not failed and not options.keep:
        shutil.rmtree(directory)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(campaigns_of(sys.argv[1:], Campaigns, plan, str(__doc__), _MODULE))
