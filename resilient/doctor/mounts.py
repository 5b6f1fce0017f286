"""The filesystem that a directory is on, from ``/proc/self/mountinfo``, and what is known of its kind."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from resilient.doctor.finding import Finding, note, ok, warning

NETWORK = {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "orangefs", "panfs", "wekafs"}
_OBJECTS = re.compile(r"fuse\.(s3fs|gcsfuse|goofys|rclone|blobfuse2?|geesefs|juicefs|mountpoint-s3)|fuseblk\.s3")


@dataclass(frozen=True)
class Mount:
    """A mounted filesystem.

    :param kind: as the kernel names it: ``ext4``, ``nfs4``, ``fuse.sshfs``.
    :param options: of the mount and of the filesystem.
    """

    point: Path
    kind: str
    options: frozenset[str] = frozenset()


def parse(mountinfo: str) -> list[Mount]:
    """All mounts; a line that is not understood is left out."""
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        if len(fields) < 6 or len(rest) < 1:
            continue
        options = [*fields[5].split(","), *(rest[2].split(",") if len(rest) > 2 else [])]
        found.append(Mount(Path(_unescaped(fields[4])), rest[0], frozenset(options)))
    return found


def mount_of(path: Path, mounts: list[Mount]) -> Mount | None:
    """The mount that ``path``, without symbolic links, is on; of two at one point, the later, which hides the other."""
    above = [mount for mount in mounts if mount.point in (path, *path.parents)]
    return max(enumerate(above), key=lambda pair: (len(pair[1].point.parts), pair[0]))[1] if above else None


def judge(mount: Mount, place: Path) -> Finding:
    """What is known of filesystems of this kind, where the run directory is."""
    told = f"the run directory {place} is on {mount.kind}"
    if mount.kind in {"tmpfs", "ramfs"}:
        return warning(f"{told}: its snapshots are gone when the machine is", "set run.dir to a disk")
    if mount.kind == "overlay":
        return warning(
            f"{told}, the container's own layer: its snapshots are gone when the container is",
            "mount a volume, and set run.dir to a directory in it",
        )
    if _OBJECTS.fullmatch(mount.kind):
        return warning(
            f"{told}, an object store in the guise of a filesystem, where a rename is a copy and can be half done",
            "set run.dir to a disk, and remote.url to the store itself (s3://…)",
        )
    if mount.kind in {"nfs", "nfs4"}:
        return _judge_nfs(mount, told)
    if mount.kind in NETWORK:
        return note(f"{told}, a network filesystem: it is shared between nodes, and as slow as the network at times")
    if mount.kind.startswith("fuse") or mount.kind in {"9p", "virtiofs"}:
        return note(f"{told}, which is as fast and as durable as what is behind it")
    return ok(told)


def _judge_nfs(mount: Mount, told: str) -> Finding:
    if mount.options & {"soft", "softerr"}:
        return warning(
            f"{told}, mounted soft: a server that is slow for a while becomes an error, and may be a lost write",
            "ask for a hard mount",
        )
    if "async" in mount.options:
        return note(f"{told}, which may answer a flush before the data is on disk, where it is exported async")
    return note(f"{told}, a network filesystem: it is shared between nodes, and as slow as the network at times")


def _unescaped(text: str) -> str:
    return re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), text)
