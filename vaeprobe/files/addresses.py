"""Where a model is that is named by an address: `hf:OWNER/NAME[@REVISION][/FILE]` and `file:` addresses.

A model on the Hugging Face Hub is fetched by its own library (extra `[hub]`), into its own cache; what lies there is
taken from there, and with HF_HUB_OFFLINE=1 nothing else is asked.  Only weights and configs are fetched, no code.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from urllib.parse import urlparse

from vaeprobe.errors import InputError, MissingExtraError, UsageError
from vaeprobe.files.source import quoted

__all__ = ["is_address", "local", "refuse_others"]

HUB = re.compile(r"hf:/{0,2}(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<file>.+))?")
# the Hub's own links, as browsers show them
LINK = re.compile(
    r"(https?:/+)?(www\.)?(huggingface\.co|hf\.co)/(?P<repo>[\w.-]+/[\w.-]+)"
    r"(/(resolve|blob|tree|raw)/(?P<revision>[\w.-]+))?(/(?P<file>[^?#]+))?/?([?#].*)?"
)
NAME = re.compile(r"[\w-][\w.-]*/[\w.-]*\w(/[\w./-]*\w)?")  # owner/name, owner/name/file
FILES = (
    ".pt",
    ".pth",
    ".ckpt",
    ".bin",
    ".pkl",
    ".pt2",
    ".ts",
    ".onnx",
    ".keras",
    ".h5",
    ".npy",
    ".npz",
    ".safetensors",
)
# of a whole repository: an autoencoder, alone or in a pipeline, and no other part of the pipeline
MODEL = [
    "config.json", "model_config.json", "model_index.json", "*.index.json", "model.safetensors", "model-*.safetensors",
    "diffusion_pytorch_model*.safetensors", "model.pt", "vae/*.json", "vae/*.safetensors", "vqvae/*.json", "vqvae/*.safetensors",
    "movq/*.json", "movq/*.safetensors",
]  # fmt: skip


def is_address(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is an address, and no file of that name."""
    return str(path).startswith(("hf:", "file:")) and not os.path.lexists(path)


def refuse_others(path: str | os.PathLike[str]) -> None:
    """Refuse a path that is no file, but a name or a link of the Hub, or another address of the web.

    Raises:
        InputError: it is one.
    """
    text = re.sub(r"^(\w+):/+", r"\1://", Path(path).as_posix())  # a `Path` makes one slash of two
    if os.path.lexists(path):
        return
    link = LINK.fullmatch(text)
    if link is not None:
        at = "" if link["revision"] in (None, "main") else f"@{link['revision']}"
        hint = f"write it as hf:{link['repo']}{at}" + (f"/{link['file']}" if link["file"] else "")
        raise InputError(f"{quoted(text)} is a link to the Hugging Face Hub, not a file", hint=hint)
    web = re.match(r"(https?|ftp|s3|gs|az):/", text)
    if web is not None:
        raise InputError(
            f"{quoted(text)} is an address, not a file", hint="fetch it first, and give the file that you got"
        )
    owner = Path(text).parts[:1]
    alone = text.count("/") == 1 and not text.endswith(FILES)
    if NAME.fullmatch(text) and not os.path.exists(*owner) and (alone or text.count("/") > 1):
        raise InputError(
            f"there is no file {quoted(text)}",
            hint=f"of a model on the Hugging Face Hub, write it as hf:{text}",
        )


def local(address: str | os.PathLike[str]) -> Path:
    """Return the file or folder on this machine that an address names, after fetching it where that is needed.

    Raises:
        UsageError: the address has another form.
        MissingExtraError: huggingface_hub is not installed.
        InputError: there is no such model, or it cannot be reached.
    """
    text = str(address)
    if text.startswith("file:"):
        parsed = urlparse(text)
        if parsed.netloc not in ("", "localhost"):
            raise UsageError(
                f"{quoted(text)} is on another machine", hint="give a path, or file:///path/of/the/file"
            )
        from urllib.request import url2pathname  # with http and email behind it, which --help has no use for

        return Path(url2pathname(parsed.path))
    found = HUB.fullmatch(text)
    if found is None or ".." in text.split("/"):
        raise UsageError(
            f"{quoted(text)} is no address of a model",
            hint="write it as hf:owner/name, hf:owner/name/file or hf:owner/name@revision/file",
        )
    try:
        from huggingface_hub import hf_hub_download, snapshot_download
    except ImportError:
        raise MissingExtraError(
            "addresses of the Hugging Face Hub need the package `huggingface_hub`",
            hint="pip install 'vaeprobe[hub]'",
        ) from None
    repo, revision, file = found["repo"], found["revision"], found["file"]

    def get(*, cached: bool) -> Path:
        if file is not None:
            return Path(hf_hub_download(repo, file, revision=revision, local_files_only=cached))
        return Path(snapshot_download(repo, revision=revision, allow_patterns=MODEL, local_files_only=cached))

    try:
        return get(cached=False)
    except Exception as error:  # the library lets errors of several others through
        with contextlib.suppress(Exception):
            return get(cached=True)
        raise InputError(
            f"{quoted(text)} cannot be had: {quoted(' '.join(str(error).split()), limit=200)}",
            hint="is it spelt as on the Hub, public or yours (`hf auth login`), and this machine online?",
        ) from None
