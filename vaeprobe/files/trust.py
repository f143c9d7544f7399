"""Which names a pickle may ask for.

Nothing is ever imported for a file, so this is no sandbox: it decides what a file is *called*.  A file that
asks only for names below is weights; one that asks for more is refused by name, since another tool
would run it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from vaeprobe.errors import UnsafeError
from vaeprobe.files.pickles import Global
from vaeprobe.files.source import quoted
from vaeprobe.files.tensors import DTYPES

__all__ = ["STORAGES", "Trust", "dangerous", "foreign", "named", "refuse_dangerous", "trust"]

Trust = Literal["inert", "layer", "foreign", "dangerous"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "int8",
    "QUInt8Storage": "uint8",
    "QInt32Storage": "int32",
    "UntypedStorage": "uint8",
    "_UntypedStorage": "uint8",
}
TENSORS = frozenset(name.replace("Storage", "Tensor") for name in STORAGES)
PATHS = _words("Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath")
INERT: dict[str, frozenset[str]] = {
    "torch": frozenset({*DTYPES, *STORAGES, *TENSORS}) | _words("Size device Tensor dtype"),
    "torch.cuda": frozenset({*STORAGES, *TENSORS}),
    "torch.storage": _words("TypedStorage UntypedStorage _UntypedStorage _load_from_bytes"),
    "torch._utils": _words(
        "_rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter _rebuild_parameter_with_state"
        " _rebuild_qtensor _rebuild_sparse_tensor _rebuild_meta_tensor_no_storage _rebuild_nested_tensor"
    ),
    "torch._tensor": _words("_rebuild_from_type_v2 Tensor"),
    "torch.nn.parameter": _words("Parameter Buffer"),
    "torch.serialization": _words("_get_layout"),
    # what every module of torch before 1.2 carries in its `_backend`
    "torch.nn.backends.thnn": _words("_get_thnn_function_backend"),
    "torch._C._nn": _words("gelu"),
    "collections": _words("OrderedDict defaultdict Counter deque"),
    "builtins": _words(
        "set frozenset complex bytearray bytes list dict tuple int float str bool slice range object"
    ),
    "_codecs": _words("encode"),
    "copyreg": _words("_reconstructor __newobj__"),
    "numpy": _words("dtype ndarray float64 float32 float16 int64 int32 bool_"),
    "numpy.dtypes": _words("Float64DType Float32DType Float16DType Int64DType Int32DType BoolDType"),
    "numpy.core.multiarray": _words("scalar _reconstruct"),
    "numpy._core.multiarray": _words("scalar _reconstruct"),
    "numpy.core.numeric": _words("_frombuffer"),
    "numpy._core.numeric": _words("_frombuffer"),
    "pathlib": PATHS,
    "pathlib._local": PATHS,
    "datetime": _words("date datetime time timedelta timezone"),
}
# what exists to run, load or reach something: no checkpoint has a use for it
DANGEROUS_MODULES = _words(
    "os posix nt sys subprocess pty commands popen2 shutil socket ctypes importlib imp pkgutil runpy code codeop"
    " pickle _pickle cPickle dill marshal cloudpickle joblib shelve webbrowser http urllib requests httpx"
    " aiohttp pdb bdb timeit profile cProfile trace doctest asyncio multiprocessing threading signal pip ensurepip"
    " site tempfile fileinput ftplib smtplib telnetlib ssl venv idlelib distutils setuptools"
    " zipimport linecache"
)
DANGEROUS_PACKAGES = _words(
    "numpy.testing numpy.f2py numpy.distutils torch.hub torch.jit torch.utils.cpp_extension"
    " torch.utils.collect_env torch.utils.bottleneck"
)
DANGEROUS_NAMES = _words(
    "builtins.eval builtins.exec builtins.execfile builtins.compile builtins.__import__ builtins.open builtins.input"
    " builtins.breakpoint builtins.globals types.FunctionType types.CodeType io.open _io.open platform.popen torch.load torch.save torch.from_file torch.serialization.load"
    " numpy.load numpy.save"
)


def trust(name: Global) -> Trust:
    """Return what it means that a pickle asks for a name.

    "inert": data, which this package builds by itself; "layer": a layer of `torch.nn`; "dangerous": made to run
    something; "foreign": code of somebody's that would run on unpickling.
    """
    if name.name in INERT.get(name.module, ()):
        return "inert"
    if name.module == "torch.nn.functional" and name.name.isidentifier():
        return "inert"
    if name.module.startswith("torch.nn.modules.") and name.name.isidentifier() and name.name[0].isupper():
        return "layer"
    top = name.module.partition(".")[0]
    if (
        top in DANGEROUS_MODULES
        or str(name) in DANGEROUS_NAMES
        or any(name.module == p or name.module.startswith(f"{p}.") for p in DANGEROUS_PACKAGES)
    ):
        return "dangerous"
    return "foreign"


def foreign(names: Iterable[Global]) -> list[Global]:
    """Return the names that are neither data nor layers of torch."""
    return [name for name in names if trust(name) in ("foreign", "dangerous")]


def dangerous(names: Iterable[Global]) -> list[Global]:
    """Return the names made to run something."""
    return [name for name in names if trust(name) == "dangerous"]


def named(names: Iterable[Global], *, limit: int = 6) -> str:
    """Return names in backticks, the first `limit` of them, joined as a list in a sentence."""
    shown = [quoted(str(name)) for name in names]
    rest = len(shown) - limit
    if rest > 0:
        shown = [*shown[:limit], f"{rest} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def refuse_dangerous(file: str, names: Iterable[Global]) -> None:
    """Raise where a file asks for a name made to run something.

    Raises:
        UnsafeError: it does; names each.
    """
    found = dangerous(names)
    if found:
        others = [name for name in foreign(names) if name not in found]
        also = f" (and {named(others)})" if others else ""
        raise UnsafeError(
            f"{file} would call {named(found)}{also} when it is unpickled: nothing of it was run",
            hint="malicious checkpoints look like this: do not open it with another tool; ask for safetensors",
        )
