"""The worker's interface, from its signatures and docstrings."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import resilient
from generate.docstrings import Docstring
from generate.markup import code, fenced, front_matter, table
from resilient.convert.opening import load
from resilient.worker.attach import attach, config
from resilient.worker.outer_loop import Epochs, OuterLoop
from resilient.worker.run import Run

_INTRODUCTION = """
What a training script uses. Importing `resilient` does not import torch; the first use of `attach` does. All of it
works without a supervisor too (`python train.py`): then there are disk snapshots and resume, but nobody to relaunch
the script.
"""

_OF_THE_HOST = frozenset({"resume", "goes_on", "begin_step", "end_step", "leaves_unfinished"})
"""Methods of a run that its own loops call."""


def page() -> str:
    parts = [front_matter("Python interface", "The functions and classes that a training script uses."), _INTRODUCTION]
    # not by their public names: `resilient.config` is the module, wherever that has been imported
    parts += [_function(f"resilient.{item.__name__}", item) for item in (attach, config, load)]
    parts.append(_class("resilient.Run", Run, "As returned by `attach`.", without=_OF_THE_HOST))
    parts.append(_class("OuterLoop", OuterLoop, "As returned by `run.outer_loop`."))
    parts.append(_class("OuterLoop.epochs", Epochs, ""))
    parts.append(
        "## Settings without a supervisor { #settings }\n\n"
        "`SnapshotSettings`, `RetentionSettings` and `FingerprintSettings` of `resilient` are what the sections "
        "[snapshot](configuration.md#snapshot), [retention](configuration.md#retention) and "
        "[fingerprint](configuration.md#fingerprint) of the configuration are made of, with the same keys. `attach` "
        "takes them for a script that is started by itself.\n"
    )
    parts.append("## Integrations { #integrations }\n\nSee [other people's loops](../guides/integrations.md).\n")
    for module, name in (
        ("integrations.lightning", "Resilient"),
        ("integrations.transformers", "Resilient"),
        ("integrations.accelerate", "attach"),
        ("integrations.deepspeed", "states"),
    ):
        parts.append(_unimported(module, name))
    parts.append("## Through torch.distributed.checkpoint { #dcp }\n")
    parts += [_unimported("convert.dcp", "SnapshotReader"), _unimported("convert.dcp_writer", "SnapshotWriter")]
    return "\n".join(parts)


def _unimported(module: str, name: str) -> str:
    """A function or class of a module that is read and not imported, for what it imports may not be installed."""
    path = Path(resilient.__file__).parent / f"{module.replace('.', '/')}.py"
    found = next(node for node in ast.parse(path.read_text()).body if getattr(node, "name", "") == name)
    if not isinstance(found, (ast.FunctionDef, ast.ClassDef)):
        raise TypeError(f"{module}.{name} is neither a function nor a class")
    documented = Docstring.parse(ast.get_docstring(found) or "")
    functions = [node for node in found.body if isinstance(node, ast.FunctionDef)]
    made = found if isinstance(found, ast.FunctionDef) else next(node for node in functions if node.name == "__init__")
    written = ast.unparse(made.args).removeprefix("self").removeprefix(", ")
    shown = module.removesuffix("_writer")
    parts = [f"### resilient.{shown}.{name} {{ #{shown}.{name} }}\n", fenced(f"{name}({written})", "python"), ""]
    return "\n".join([*parts, documented.text, "", *_fields(documented)])


def _function(name: str, item: Any) -> str:
    documented = Docstring.of(item)
    anchor = name.removeprefix("resilient.").lower()
    parts = [f"## {name} {{ #{anchor} }}\n", signature(name.rpartition(".")[2], item), "", documented.text, ""]
    return "\n".join([*parts, *_fields(documented)])


def _fields(documented: Docstring) -> Iterator[str]:
    for kind, heading in (("param", ("parameter", "")), ("ivar", ("attribute", "")), ("raises", ("raises", "when"))):
        if fields := documented.fields.get(kind, {}):
            yield table(heading, _named(fields))
            yield ""


def _class(name: str, kind: Any, introduction: str, *, without: frozenset[str] = frozenset()) -> str:
    documented = Docstring.of(kind)
    anchor = name.removeprefix("resilient.").lower()
    parts = [f"## {name} {{ #{anchor} }}\n", introduction or documented.text, ""]
    parts += _fields(documented)
    prefix = {"resilient.Run": "run", "OuterLoop": "loop", "OuterLoop.epochs": "loop.epochs"}[name]
    for method, item in vars(kind).items():
        if method.startswith("_") or method in without:
            continue
        parts.append(_method(f"{prefix}.{method}", item, f"{anchor}.{method}"))
    return "\n".join(parts)


def _method(name: str, item: Any, anchor: str) -> str:
    documented = Docstring.of(item)
    head = "" if isinstance(item, property) else signature(name, item)
    parts = [f"### {name} {{ #{anchor} }}\n", head, "", documented.text, ""]
    return "\n".join([*parts, *_fields(documented)])


def _named(fields: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    yield from ((code(name), text) for name, text in fields.items())


def signature(name: str, item: Any) -> str:
    """As it is called: without ``self``, annotations as they are written."""
    found = inspect.signature(item)
    parameters = [parameter for parameter in found.parameters.values() if parameter.name != "self"]
    written, starred = [], False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            written.append("*")
            starred = True
        starred |= parameter.kind is parameter.VAR_POSITIONAL
        written.append(str(parameter).replace("'", ""))
    line = f"{name}({', '.join(written)})"
    if len(line) > 100:
        line = f"{name}(\n    " + ",\n    ".join(written) + ",\n)"
    return fenced(line, "python")
