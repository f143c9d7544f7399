"""Which names a pickle may ask for.

Nothing is ever imported for a file, so this is no sandbox: it decides what a file is *called*.  A file that
asks only for names below is weights; one that asks for more is refused by name, since another tool
would run it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Iterator
from typing import Literal

from vaeprobe.errors import UnsafeError
from vaeprobe.files.inert import Built, Global, Pickle, walk
from vaeprobe.files.source import quoted
from vaeprobe.files.tensors import DTYPES

__all__ = [
    "LOADER",
    "STORAGES",
    "Trust",
    "dangerous",
    "foreign",
    "is_named_value",
    "misuse",
    "named",
    "refuse_dangerous",
    "trust",
]

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
# activations and losses, which modules keep as attributes: values, never called by a pickle
FUNCTIONAL = _words(
    "relu relu_ relu6 elu elu_ selu selu_ celu celu_ gelu silu mish leaky_relu leaky_relu_ sigmoid tanh softplus softmax"
    " log_softmax logsigmoid hardtanh hardtanh_ hardswish hardsigmoid softsign softmin tanhshrink softshrink hardshrink glu"
    " prelu rrelu rrelu_ threshold normalize dropout alpha_dropout one_hot interpolate upsample pad linear bilinear embedding"
    " cross_entropy mse_loss l1_loss smooth_l1_loss huber_loss nll_loss kl_div binary_cross_entropy gaussian_nll_loss"
    " poisson_nll_loss binary_cross_entropy_with_logits cosine_similarity pairwise_distance gumbel_softmax layer_norm"
    " batch_norm instance_norm group_norm rms_norm avg_pool2d pixel_shuffle pixel_unshuffle"
)
# what a pickle may call: it makes data of its arguments, and calls none of them (but see `misuse`)
CALLED: dict[str, frozenset[str]] = {
    "torch": frozenset({*STORAGES, *TENSORS}) | _words("Size device Tensor"),
    "torch.cuda": frozenset({*STORAGES, *TENSORS}),
    "torch.storage": _words("TypedStorage UntypedStorage _UntypedStorage _load_from_bytes"),
    "torch._utils": _words(
        "_rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter _rebuild_parameter_with_state"
        " _rebuild_qtensor _rebuild_sparse_tensor _rebuild_meta_tensor_no_storage _rebuild_nested_tensor"
    ),
    "torch._tensor": _words("_rebuild_from_type_v2 Tensor"),
    "torch.nn.parameter": _words("Parameter Buffer"),
    "torch.serialization": _words("_get_layout"),
    # a hook that says which weight is split into length and direction; loaders join them again
    "torch.nn.utils.weight_norm": _words("WeightNorm"),
    # what every module of torch before 1.2 carries in its `_backend`
    "torch.nn.backends.thnn": _words("_get_thnn_function_backend"),
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
    # tables that libraries keep beside weights (scvi-tools: the losses of each epoch)
    "pandas": _words("DataFrame Index RangeIndex StringDtype"),
    "pandas.arrays": _words("StringArray"),
    "pandas.core.frame": _words("DataFrame"),
    "pandas.core.internals.managers": _words("BlockManager"),
    "pandas.core.indexes.base": _words("_new_Index Index"),
    "pandas.core.indexes.range": _words("RangeIndex"),
    "pandas.core.indexes.numeric": _words("Int64Index Float64Index"),
    "pandas.core.arrays.string_": _words("StringArray StringDtype"),
    "pandas._libs.internals": _words("_unpickle_block"),
    "pandas._libs.arrays": _words("__pyx_unpickle_NDArrayBacked"),
    # settings that RecBole keeps beside weights
    "recbole.config.configurator": _words("Config"),
    "recbole.utils.enum_type": _words("ModelType InputType EvaluatorType FeatureType FeatureSource"),
}
# what it may keep as a value
KEPT: dict[str, frozenset[str]] = {
    "torch": frozenset(DTYPES) | _words("dtype"),
    "torch.nn.functional": FUNCTIONAL,
    "torch._C._nn": _words("gelu"),
}
# functions that do something with what they are given: never a value, so that nothing else can call them
FUNCTIONS = frozenset(
    f"{module}.{name}"
    for module, names in CALLED.items()
    for name in names
    if (name.startswith("_") and not name.endswith("Storage")) or name == "encode"
)
LOADER = "torch.storage._load_from_bytes"
CALLS_ITS_ARGUMENT = "torch._tensor._rebuild_from_type_v2"
# these make an object of the class that they are given
MAKE_PANDAS = ("pandas.core.indexes.base._new_Index", "pandas._libs.arrays.__pyx_unpickle_NDArrayBacked")
LATIN = {"latin1", "latin-1", "iso-8859-1"}
# what exists to run, load or reach something: no checkpoint has a use for it
DANGEROUS_MODULES = _words(
    "os posix nt sys subprocess pty commands popen2 shutil socket ctypes importlib imp pkgutil runpy code codeop"
    " pickle _pickle cPickle dill marshal cloudpickle joblib shelve webbrowser http urllib requests httpx"
    " aiohttp pdb bdb timeit profile cProfile trace doctest asyncio multiprocessing threading signal pip ensurepip"
    " site tempfile fileinput ftplib smtplib telnetlib ssl venv idlelib distutils setuptools"
    " zipimport linecache"
    # packages that start processes or run what they are told
    " psutil pexpect ptyprocess sh plumbum fabric invoke paramiko docker subprocess32 execnet IPython jupyter_client"
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
    if name.name in CALLED.get(name.module, ()) or name.name in KEPT.get(name.module, ()):
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


def misuse(pickle: Pickle, loaded: Collection[int] = ()) -> str | None:
    """Return what a pickle does with harmless names that is not harmless, or None.

    A callee that is inert vouches for itself alone: what it is given may be a function that it calls, or bytes that are
    loaded in their turn.

    Args:
        loaded: ids of the calls of torch's loader of storages whose bytes were read as a torch file, and found clean.
    """
    for call in pickle.calls:
        if not isinstance(call.maker, Global):
            return "call what another call returned"
        if trust(call.maker) != "inert":
            continue  # judged by its name
        why = _misused(call, call.maker, loaded)
        if why:
            return why
    for value in _values(pickle):
        if str(value) in FUNCTIONS:
            return f"hand {quoted(str(value))} to something that could call it"
    return None


def _misused(call: Built, maker: Global, loaded: Collection[int]) -> str | None:
    name, args = str(maker), call.args
    if maker.name not in CALLED.get(maker.module, ()):
        return f"call {quoted(name)}, which is kept as a value in a checkpoint, never called"
    if name == LOADER and id(call) not in loaded:
        return f"load what {quoted(name)} is given, which is no file of a storage"
    if name == CALLS_ITS_ARGUMENT:
        inner = args[0] if args and isinstance(args[0], Global) else None
        if inner is None or inner.module != "torch._utils" or trust(inner) != "inert":
            return f"let {quoted(name)} call something that makes no tensor"
        if len(args) < 2 or not isinstance(args[1], Global) or (trust(args[1]) == "inert" and args[1].name not in (
            "Tensor", "Parameter", "Buffer",
        )):  # fmt: skip
            return f"let {quoted(name)} make something that is no tensor"
    if name in MAKE_PANDAS:
        cls = args[0] if args and isinstance(args[0], Global) else None
        if cls is None or cls.module.partition(".")[0] != "pandas" or trust(cls) != "inert":
            return f"let {quoted(name)} make something that is no table of pandas"
    if name == "_codecs.encode" and len(args) > 1 and str(args[1]).lower() not in LATIN:
        return f"encode text by the codec {quoted(str(args[1])[:40])}, which Python would import"
    return None


def _values(pickle: Pickle) -> Iterator[Global]:
    """Yield every imported name that is not called by the pickle itself."""
    # the first argument is called, and judged, above
    kept = [c.args[1:] if c.by(CALLS_ITS_ARGUMENT) else c.args for c in pickle.calls]
    rest = [(c.state, c.items, c.pairs) for c in pickle.calls]
    seen_makers = {id(c) for c in pickle.calls}
    for node in walk(
        (pickle.root, kept, rest, [p.id for p in pickle.persistent], list(pickle.replaced)), seen_makers
    ):
        if isinstance(node, Global):
            yield node


CLASS = re.compile(r"([A-Z][A-Za-z0-9_]*\.)*[A-Z]\w*[a-z]\w*")
MEMBER = re.compile(r"[A-Za-z]\w*")
WORD = re.compile(r"[\w.+-]{0,64}")  # no code, command or path
# packages beside every torch and Lightning of which a class does something with the text that it is given
ACTIVE = _words(
    "torch numpy pandas sklearn scipy sympy mpmath networkx jinja2 fsspec filelock pkg_resources yaml gevent eventlet"
    " twisted tornado tensorflow keras jax h5py PIL matplotlib sqlalchemy urllib3"
)


def is_named_value(call: Built) -> bool:
    """Return whether a call is how a pickle writes a member of somebody's enumeration, or a plain value of a class.

    That is a class of a package that is neither Python's nor torch's, called with numbers and texts; or, as Python 3.11
    writes members, an attribute of such a class by its name.
    """
    if call.by("builtins.getattr"):
        owner, name = call.args if len(call.args) == 2 else (None, None)
        return _is_strangers_class(owner) and isinstance(name, str) and MEMBER.fullmatch(name) is not None
    return _is_strangers_class(call.maker) and bool(call.args) and all(map(_is_plain, call.args))


def _is_strangers_class(node: object) -> bool:
    """Return whether a value is by its name a class, of a package of somebody's."""
    if not isinstance(node, Global) or trust(node) != "foreign" or CLASS.fullmatch(node.name) is None:
        return False
    parts = node.module.split(".")
    return parts[0] not in sys.stdlib_module_names | ACTIVE and not DANGEROUS_MODULES & set(parts)


def _is_plain(node: object) -> bool:
    if isinstance(node, (tuple, list)):
        return all(map(_is_plain, node))
    if isinstance(node, str):
        return WORD.fullmatch(node) is not None
    return node is None or isinstance(node, (bool, int, float))


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
            about=file,
        )
