"""GPUs: that there are as many as ranks, that torch sees them, and that they are sound. Torch is asked in a process of
its own: it is slow to import, and a driver that hangs does not let go of whoever has asked it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from resilient.doctor import nvidia, program
from resilient.doctor.check import Check
from resilient.doctor.finding import Finding, note, ok, problem, warning
from resilient.doctor.world import World
from resilient.supervisor.kernel_log import KernelLog

_SMI_SECONDS = 20.0
_TORCH_SECONDS = 90.0
_USED = 0.1  # of a GPU's memory, by somebody
_ANOTHER = "use another machine until its GPU has been looked at (nvidia-smi -q -d ECC,ROW_REMAPPER)"
_ASK_TORCH = (
    "import json, torch; c = torch.cuda; print(json.dumps([torch.__version__, torch.version.cuda or torch.version.hip, "
    "c.is_available(), c.device_count()]))"
)
_HANGS = problem(
    "the GPU driver does not answer: nvidia-smi hangs, and so will training",
    "use another machine; this one has to be restarted",
)


def _list(world: World) -> Finding | list[nvidia.Gpu]:
    """The GPUs, or why they are not known."""
    smi = program.find("nvidia-smi", world.environment)
    if smi is None:
        if (world.devices / "nvidiactl").exists():
            return note("there are NVIDIA devices, but no nvidia-smi that could tell of them")
        return note("there is no NVIDIA GPU here; training is done on the CPU")
    answer = program.ask([smi, *nvidia.QUERY], world.environment, _SMI_SECONDS)
    if answer.code is None:
        return _HANGS
    return nvidia.parse(answer.output) if answer.is_good else nvidia.explained(answer.errors + answer.output)


def _driver(world: World) -> Finding:
    found = _list(world)
    return found if isinstance(found, Finding) else judge_driver(found, world.ranks)


def judge_driver(gpus: Sequence[nvidia.Gpu], ranks: int) -> Finding:
    if not gpus:
        return nvidia.explained("No devices were found")
    told = f"{len(gpus)} × {gpus[0].name}"
    closed = [gpu.index for gpu in gpus if gpu.compute_mode == "Prohibited"]
    if closed:
        return problem(
            f"{told}; nobody may compute on {_these(closed)} (compute mode)", "nvidia-smi -c DEFAULT, as root"
        )
    taken = [gpu.index for gpu in gpus if gpu.total and gpu.used and gpu.used > _USED * gpu.total]
    if taken:
        return warning(
            f"{told}; somebody already uses much of the memory of {_these(taken)}",
            "nvidia-smi shows who; what a killed run has left is ended at the next start of the same run",
        )
    if ranks > len(gpus):
        return warning(f"{told} for {ranks} ranks: some will have to share one", "set worker.ranks to their number")
    return ok(told)


def _health(world: World) -> Finding | None:
    found = _list(world)
    if isinstance(found, Finding):
        return None
    log = KernelLog(world.kernel_log, whole=True)
    try:
        return judge_health(found, log.lines())
    finally:
        log.close()


def judge_health(gpus: Sequence[nvidia.Gpu], kernel: Sequence[str]) -> Finding:
    """:param kernel: lines of its log since the machine was started."""
    broken = [gpu.index for gpu in gpus if gpu.errors]
    if broken:
        return warning(f"{_these(broken)} had memory errors that could not be corrected (ECC)", _ANOTHER)
    faults = [line for line in kernel if "NVRM: Xid" in line]
    if faults:
        return warning(f"the kernel has logged {len(faults)} GPU faults, the last: {faults[-1].strip()}", _ANOTHER)
    return ok("no memory errors (ECC) and no GPU faults (Xid) are known")


def _visible(world: World) -> Finding | None:
    found = _list(world)
    if isinstance(found, Finding):
        return None
    set_to = world.environment.get("CUDA_VISIBLE_DEVICES")
    if world.subject is not None:
        set_to = world.subject.worker.env.get("CUDA_VISIBLE_DEVICES", set_to)
    return judge_visible(set_to, found, world.ranks)


def judge_visible(set_to: str | None, gpus: Sequence[nvidia.Gpu], ranks: int) -> Finding:
    """Of ``CUDA_VISIBLE_DEVICES``; CUDA itself leaves out, without a word, whatever follows a name it does not know."""
    if set_to is None:
        return ok("CUDA_VISIBLE_DEVICES is not set: all GPUs can be used")
    names = [name.strip() for name in set_to.split(",") if name.strip()]
    told, unset = f"CUDA_VISIBLE_DEVICES={set_to}", "correct it, or unset it"
    if not names or names[0] == "-1":
        return problem(f"{told} hides all {len(gpus)} GPUs", "unset CUDA_VISIBLE_DEVICES")
    unknown = [name for name in names if not _is_known(name, gpus)]
    if unknown:
        return problem(f"{told}: there is no GPU {unknown[0]}, and what follows it is hidden too", unset)
    if len(set(names)) < len(names):
        return problem(f"{told} names one GPU twice, and CUDA then sees none", unset)
    if len(names) < ranks:
        return warning(f"{told} shows {len(names)} GPUs to {ranks} ranks", "name more, or lower worker.ranks")
    return ok(told)


def _is_known(name: str, gpus: Sequence[nvidia.Gpu]) -> bool:
    if name.startswith("MIG-"):
        return True  # a part of a GPU, of which this list does not tell
    return any(name == gpu.index or (name.startswith("GPU-") and gpu.uuid.startswith(name)) for gpu in gpus)


def _torch(world: World) -> Finding:
    environment = dict(world.environment)
    if world.subject is not None:
        environment |= world.subject.worker.env
    answer = program.ask([sys.executable, "-c", _ASK_TORCH], environment, _TORCH_SECONDS)
    if answer.code is None:
        return problem(
            f"torch has not started within {_TORCH_SECONDS:.0f} s",
            "see whether nvidia-smi hangs, or the filesystem that Python is on",
        )
    return judge_torch(answer, has_gpus=(world.devices / "nvidia0").exists())


def judge_torch(answer: program.Answer, *, has_gpus: bool) -> Finding:
    """Of what torch has printed of itself."""
    try:
        version, cuda, available, count = json.loads(answer.output.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return problem(f"torch cannot be imported: {answer.last_words}", "install it anew: pip install -U torch")
    if available and count:
        return ok(f"torch {version} sees {count} GPUs (CUDA {cuda})")
    if not has_gpus:
        return note(f"torch {version} sees no GPU, and there seems to be none")
    if cuda is None:
        return problem(f"torch {version} was built without CUDA, and there are GPUs", "install a torch with CUDA")
    why = f": {answer.last_words}" if answer.errors.strip() else ""
    return problem(
        f"torch {version} (CUDA {cuda}) does not see the GPUs that are here{why}",
        "compare the driver's version in nvidia-smi with what that CUDA needs, and look at CUDA_VISIBLE_DEVICES",
    )


def _these(indices: Sequence[str]) -> str:
    return f"GPU {', '.join(indices)}"


CHECKS = (
    Check("gpu.driver", "the GPUs that the driver has", _driver, seconds=_SMI_SECONDS + 10, stuck=_HANGS),
    Check("gpu.health", "memory errors and faults of the GPUs", _health, seconds=_SMI_SECONDS + 10),
    Check("gpu.visible", "CUDA_VISIBLE_DEVICES", _visible, seconds=_SMI_SECONDS + 10),
    Check("gpu.torch", "whether torch sees the GPUs", _torch, seconds=_TORCH_SECONDS + 10),
)
