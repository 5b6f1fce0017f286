"""The state diagram of a run, drawn from the table: ``python -m resilient.policy.diagram`` prints Mermaid source."""

from __future__ import annotations

from resilient.policy.machine import TABLE


def mermaid() -> str:
    """Mermaid source of the state machine; edges that stay in their phase are left out."""
    edges: dict[tuple[str, str], list[str]] = {}
    for phase, rows in TABLE.items():
        for event, row in rows.items():
            for target in sorted(row.targets - {phase}, key=lambda target: target.value):
                edges.setdefault((phase.value, target.value), []).append(event.__name__)
    lines = ["stateDiagram-v2", "    [*] --> new"]
    lines += [f"    {source} --> {target}: {', '.join(events)}" for (source, target), events in edges.items()]
    return "\n".join([*lines, "    ended --> [*]"])


if __name__ == "__main__":
    print(mermaid())
