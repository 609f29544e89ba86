"""Nothing from an image is executed, unpickled or used as a format string: the source is asked.

Calls and imports that could do it stand nowhere in the package; a message of a log is a literal.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pmemfs

PACKAGE = Path(pmemfs.__file__).parent
MODULES = {"pickle", "cPickle", "dill", "marshal", "shelve", "yaml", "code", "codeop", "runpy"}
CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "np.load",
    "numpy.load", "subprocess.getoutput", "os.execvp", "os.execlp",
}  # fmt: skip
LOG_CALLS = {"debug", "info", "warning", "error", "exception", "critical"}
FORMATS = {"format", "format_map", "vformat", "strftime"}


def problems(source: str) -> Iterator[str]:
    """Iterate what a module has that could make code or a format of data."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            yield from (f"imports {n}" for n in names if n.partition(".")[0] in MODULES)
        elif isinstance(node, ast.Call):
            yield from call_problems(node)
        elif isinstance(node, ast.BinOp) and is_formatting(node):
            yield "formats what is no literal by %"


def is_formatting(node: ast.BinOp) -> bool:
    formats = isinstance(node.op, ast.Mod) and isinstance(node.right, ast.Tuple | ast.Dict)
    return formats and not is_literal(node.left)


def call_problems(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    attribute = name.rpartition(".")[2]
    if name in CALLS:
        yield f"calls {name}"
    for keyword in call.keywords:
        value = keyword.value
        wanted = not (isinstance(value, ast.Constant) and not value.value)
        if keyword.arg in ("shell", "allow_pickle") and wanted:
            yield f"gives {keyword.arg} to {name}"
    if name.startswith("log.") and attribute in LOG_CALLS and not is_literal(call.args[0]):
        yield f"logs what is no literal: {ast.unparse(call.args[0])}"
    if attribute in FORMATS and isinstance(call.func, ast.Attribute):
        formatted = call.args[0] if attribute == "strftime" else call.func.value
        if name != "Volume.format" and not is_literal(formatted):
            yield f"formats what is no literal: {name}"


def is_literal(node: ast.expr) -> bool:
    """Tell whether a text stands in the source as it is."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return is_literal(node.left) and is_literal(node.right)
    if isinstance(node, ast.IfExp):
        return is_literal(node.body) and is_literal(node.orelse)
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


MODULE_PATHS = sorted(PACKAGE.rglob("*.py"))


def test_no_module_can_make_code_or_formats_of_data() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}: {problem}"
        for path in MODULE_PATHS
        for problem in problems(path.read_text(encoding="utf-8"))
    ]
    assert len(MODULE_PATHS) > 80
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from yaml import load",
        "eval(name)",
        "subprocess.run(command, shell=True)",
        "np.fromfile(f); np.load(f)",
        "log.error(name)",
        "log.error(f'{name}')",
        "text.format(name)",
        "text % (name, 1)",
        "time.strftime(name)",
    ],
)
def test_what_would_be_found(source: str) -> None:
    assert list(problems(source))
